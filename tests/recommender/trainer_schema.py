"""Writes ``trainer_schema.json``: which fields the configurations of LLaMA-Factory and axolotl have, and of which type.

    python tests/recommender/trainer_schema.py           # write the fields
    python tests/recommender/trainer_schema.py --parse   # hold every configuration that we write against the tools' own parsers

Needs ``llamafactory`` and ``axolotl`` installed, which ask for a GPU's worth of packages: the tests read the file instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter

from kb.files import put
from recommender import Constraints, recommend

FILE = Path(__file__).with_suffix(".json")
MADE_BY = "python tests/recommender/trainer_schema.py"
SITUATIONS: tuple[dict[str, object], ...] = (
    {"model": "llama-3.1-8b", "gpu_mem": "24GB"},
    {"model": "llama-3.1-8b", "gpu_mem": "24GB", "quantization": "4bit", "seq": 4096},
    {"model": "qwen2.5-7b", "gpu_mem": "16GB", "quantization": "8bit"},
    {"model": "llama-3.2-1b", "gpu_mem": "80GB", "optimizer": "adamw_8bit", "epochs": 1.5},
    {"params": "13B", "gpu_mem": "48GB", "gpus": 4},
    {"model": "phi-3-mini-4k", "gpu_mem": "24GB"},
    {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu_mem": "24GB"},
    {"model": "qwen3-vl-8b", "gpu_mem": "24GB"},
    {"model": "t5-3b", "gpu_mem": "24GB"},
)
"""Requests whose configurations are checked."""


def configurations() -> Iterator[tuple[str, str, str]]:
    """Tool, what it is for, and text of every configuration that the answers to ``SITUATIONS`` hold."""
    for asked in SITUATIONS:
        for each in recommend(Constraints.model_validate({**asked, "limit": 500})).ranked:
            for tool, text in (("llamafactory", each.code.llama_factory), ("axolotl", each.code.axolotl)):
                if text is not None:
                    yield tool, f"{each.slug} for {asked}", text


def _schema(kind: Any) -> object:
    """The JSON schema of a type without its prose; anything goes where it has none."""
    try:
        return _bare(TypeAdapter(kind).json_schema())
    except Exception:  # a type of torch, which no configuration of ours holds
        return {}


def _bare(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_bare(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    dropped = ("title", "description", "examples", "default")
    return {
        name: {key: _bare(each) for key, each in value.items()} if name in ("properties", "$defs") else _bare(value)
        for name, value in schema.items()
        if name not in dropped
    }


def _tools() -> Mapping[str, Mapping[str, object]]:
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments, TrainingArguments

    parts = (ModelArguments, DataArguments, TrainingArguments, FinetuningArguments)
    llama_factory = {
        field.name: _schema(hints[field.name])
        for part in parts
        for hints in (get_type_hints(part),)
        for field in fields(part)
    }
    axolotl = {
        field.alias or name: _schema(field.annotation) for name, field in AxolotlInputConfig.model_fields.items()
    }
    return {"llamafactory": llama_factory, "axolotl": axolotl}


def write(known: Mapping[str, object]) -> None:
    """Writes the fields with the versions of the tools."""
    content = {
        "made_by": MADE_BY,
        "versions": {tool: version(tool) for tool in known},
        "fields": {tool: known[tool] for tool in sorted(known)},
    }
    put(FILE, json.dumps(content, separators=(",", ":"), sort_keys=True) + "\n")


def parse() -> int:
    """Gives every configuration to the tool's own parser; how many it refused."""
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from llamafactory.hparams.parser import _parse_train_args

    refused = taken = 0
    for tool, words, text in configurations():
        content = yaml.safe_load(text)
        try:
            if tool == "axolotl":
                AxolotlInputConfig.model_validate(content)
            else:
                _parse_train_args({key: value for key, value in content.items() if key != "bf16"})  # wants a card
        except Exception as error:
            refused += 1
            sys.stderr.write(f"{tool} refuses {words}: {error}\n")
        else:
            taken += 1
    sys.stderr.write(f"{taken} taken, {refused} refused\n")
    return refused


if __name__ == "__main__":
    if "--parse" in sys.argv:
        sys.exit(min(parse(), 1))
    write(_tools())

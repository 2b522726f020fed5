"""Configurations for two training tools, LLaMA-Factory and axolotl, where they support a method and a plan.

The settings of a method stand in its record (``code.libraries``, as YAML); the words of the tools stand here. Both were
held against the tools' own schemas (``tests/recommender/trainers``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import yaml

from kb.schema import Method
from kb.symbol import advised, shipped
from recommender.modules import is_pattern, module_names
from recommender.script import Job, optimizer_word
from recommender.template import llama_factory_template
from recommender.variant import conversational

_LLAMA_FACTORY = {
    "rank": "lora_rank",
    "alpha": "lora_alpha",
    "lr_ratio": "loraplus_lr_ratio",
    "block_size": "oft_block_size",
}
_PLAIN = re.compile(r"[\w./-]*[A-Za-z][\w./-]*")
_SPECIAL = frozenset({"yes", "no", "on", "off", "true", "false", "null", "y", "n"})  # YAML takes them for other things
_PACKED: dict[str, dict[str, Any]] = {  # axolotl calls LoRA on four bits qlora
    "bf16": {},
    "int8": {"load_in_8bit": True},
    "nf4": {"adapter": "qlora", "load_in_4bit": True},
}
_ENTRY = (
    "# the entry of data/dataset_info.json: "
    '"train": {"file_name": "train.jsonl", "columns": {"prompt": "prompt", "response": "completion"}}\n'
)
_FILE = {"path": "train.jsonl", "ds_type": "json"}
_AS_TEXT: dict[str, Any] = {
    "datasets": [
        {**_FILE, "type": {"field_instruction": "prompt", "field_output": "completion", "format": "{instruction}"}}
    ]
}
_ROWS_OF_TEXT = '# a line of train.jsonl: {"prompt": "…", "completion": "…"}\n'
_AS_TURNS: dict[str, Any] = {  # in the template that the model was tuned with
    "chat_template": "tokenizer_default",
    "datasets": [{**_FILE, "type": "chat_template", "field_messages": "messages"}],
}
_ROWS_OF_TURNS = (
    '# a line of train.jsonl: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}\n'
)
_AXOLOTL = {"rank": "lora_r", "alpha": "lora_alpha", "lr_ratio": "loraplus_lr_ratio"}


def llama_factory(job: Job) -> str | None:
    """LLaMA-Factory's YAML for a job, or ``None`` where it does not support method, model or plan."""
    settings = _settings(job.method, "llamafactory")
    plan = job.plan
    if settings is None or job.model.kind != "decoder" or plan.storage not in _storages(settings, "quantization_bit"):
        return None
    way = str(settings["finetuning_type"])
    targets = _targets(job, every="all")
    if way != "full" and targets is None:
        return None
    content: dict[str, Any] = {"model_name_or_path": job.model_id, "stage": "sft", "do_train": True, **settings}
    if plan.storage != "bf16":
        content |= {"quantization_bit": {"int8": 8, "nf4": 4}[plan.storage], "quantization_method": "bnb"}
    content |= {word: value for word, value in _words(job.method, _LLAMA_FACTORY).items() if word.startswith(way)}
    if way != "full":
        content[f"{way}_target"] = targets if isinstance(targets, str) else ",".join(targets or ())
    content |= {"dataset": "train", **_template(job)}
    content |= {
        "cutoff_len": plan.seq,
        "output_dir": job.method.slug,
        "per_device_train_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "learning_rate": job.rate,
        "num_train_epochs": job.epochs,
        "lr_scheduler_type": "linear",
        "optim": optimizer_word(plan.optimizer),
        job.half: True,
        "disable_gradient_checkpointing": not plan.checkpointing,
    }
    if plan.sharding == "full":
        content["fsdp"] = "full_shard auto_wrap"
    return f"# llamafactory-cli train {job.method.slug}.yaml\n{_ENTRY}{_written(content)}"


def axolotl(job: Job) -> str | None:
    """Axolotl's YAML for a job, or ``None`` where it does not support method, model or plan."""
    settings = _settings(job.method, "axolotl")
    plan = job.plan
    if settings is None or job.model.kind != "decoder" or plan.storage not in _storages(settings, "load_in_4bit"):
        return None
    if job.model.sighted:  # it reads images with a processor, and texts alone are not known to work then
        return None
    content: dict[str, Any] = {"base_model": job.model_id, **settings}
    if "adapter" in settings:
        targets = _targets(job, every="")
        if targets is None:
            return None
        content |= _PACKED[plan.storage]
        content |= _words(job.method, _AXOLOTL)
        content |= {"lora_target_linear": True} if targets == "" else {"lora_target_modules": list(targets)}
    talks = conversational(job.model_id)
    content |= _AS_TURNS if talks else _AS_TEXT
    content |= {
        "sequence_len": plan.seq,
        "output_dir": job.method.slug,
        "micro_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "learning_rate": job.rate,
        "num_epochs": job.epochs,
        "lr_scheduler": "linear",
        "optimizer": optimizer_word(plan.optimizer),
        job.half: True,
        "gradient_checkpointing": plan.checkpointing,
    }
    if plan.sharding == "full":
        content |= {"fsdp_version": 2, "fsdp_config": {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}}
    rows = _ROWS_OF_TURNS if talks else _ROWS_OF_TEXT
    return f"# axolotl train {job.method.slug}.yaml\n{rows}{_written(content)}"


def _template(job: Job) -> Mapping[str, str]:
    """What a conversation looks like; of a model whose template has no name there, LLaMA-Factory reads the tokenizer's."""
    name = llama_factory_template(job.model_id) if conversational(job.model_id) else "default"
    return {} if name is None else {"template": name}


@lru_cache(maxsize=512)
def _read(symbol: str) -> Mapping[str, Any] | None:
    content = yaml.safe_load(symbol)
    return content if isinstance(content, dict) else None


def _settings(method: Method, tool: str) -> Mapping[str, Any] | None:
    """What the record says a tool has to be told, or ``None`` if it says nothing."""
    entry = shipped(method, tool)
    return _read(entry.symbol) if entry is not None and entry.symbol is not None else None


def _storages(settings: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """How the frozen weights may be stored: four bits alone where the settings say so, in bf16 alone without an adapter.

    Four bits under a variant of LoRA are not known to work in these tools: plain LoRA alone is configured so.
    """
    if key in settings:
        return ("nf4",)
    if "lora" not in (settings.get("finetuning_type"), settings.get("adapter")):
        return ("bf16",)
    return ("bf16", "int8", "nf4") if len(settings) == 1 else ("bf16", "int8")


def _words(method: Method, words: Mapping[str, str]) -> dict[str, object]:
    """Our advice in the words of a tool."""
    return {words[name]: value for name, value in advised(method).items() if name in words}


def _targets(job: Job, every: str) -> str | tuple[str, ...] | None:
    """The layers by name, ``every`` for all of them; ``None`` where names do not say which are meant."""
    names = module_names(job.model, job.plan.targets)
    if names == ("all-linear",):
        return every
    return None if not names or is_pattern(names) else names


def _written(content: Mapping[str, Any]) -> str:
    """The mapping as YAML, a key per line; what is not a plain value stands in braces, as in JSON."""
    return "".join(f"{key}: {_value(value)}\n" for key, value in content.items())


def _value(value: object) -> str:
    """A value as YAML reads it back: a float in powers of ten needs a point."""
    if isinstance(value, float):
        mantissa, sign, exponent = f"{value:g}".partition("e")
        return f"{mantissa}{'' if '.' in mantissa else '.0'}{sign}{exponent}"
    if isinstance(value, str):
        return _text(value)
    return _count(value) if isinstance(value, int) else json.dumps(value)


@lru_cache(maxsize=512, typed=True)
def _count(value: int) -> str:
    """A whole number, or yes or no."""
    return json.dumps(value)


@lru_cache(maxsize=512)
def _text(value: str) -> str:
    return value if _PLAIN.fullmatch(value) and value not in _SPECIAL else json.dumps(value)

"""Closed forms against dry runs, on models and sizes that no form was read from: ``python -m tests.bench.closed_forms``.

Every method is predicted and dry-run in each implementation on two models of the catalogue that it applies to, in settings
that change from method to method. The result goes to ``kb/validation/closed_form.json``, one row at a time, so that a run
that was stopped goes on where it was; ``--fresh`` begins anew.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from statistics import median
from typing import Any

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.closed_form import WHOSE, Implementation, Storage, profile
from kb.files import put
from kb.loader import KB
from kb.records import load_methods
from kb.schema import Method
from recommender.footprint import prepare, subject
from recommender.plans import Sheet, Variant
from recommender.setting import Setting

FILE = KB / "validation" / "closed_form.json"
MODELS = {  # by shape; none of them has the widths that forms are read from
    "decoder": (
        "llama-3.2-1b",
        "qwen2.5-0.5b",
        "mistral-7b-v0.1",
        "gemma-2-2b",
        "llama-2-7b",
        "qwen3-0.6b",
    ),
    "decoder_joined": ("phi-3-mini-4k", "phi-4-mini"),
    "decoder_plain": ("gpt2-medium", "phi-1.5", "starcoder2-3b"),
    "decoder_plain_joined": ("pythia-410m", "bloom-560m"),
    "decoder_rectified": ("opt-350m", "opt-1.3b"),
    "encoder": ("roberta-large", "bert-base-uncased", "xlm-roberta-base"),
    "encoder_decoder": ("t5-base", "t5-large"),
    "encoder_decoder_gated": ("flan-t5-base", "mt5-base"),
    "vision": ("vit-base-patch16-224", "vit-large-patch16-224"),
}
SIZES = ((1, 2048), (4, 512), (8, 256), (2, 1024))
PER_IMPLEMENTATION = 2


@dataclass(frozen=True)
class Case:
    """A method in one setting on one model."""

    slug: str
    implementation: Implementation
    model: str
    storage: Storage
    checkpointing: bool
    batch: int
    seq: int
    autocast: bool

    @property
    def key(self) -> str:
        """As the file names it."""
        named = self.slug, self.implementation, self.model, self.storage, str(int(self.checkpointing))
        return "/".join((*named, *(("autocast",) if self.autocast else ())))


def cases(method: Method) -> Iterator[Case]:
    """What is compared for a method: forms that it has, chosen by its name."""
    known = profile(method.slug)
    models = load_models()
    for implementation, autocast in (*((each, False) for each in WHOSE), ("peft", True)):
        read = [form for form in known.forms if not form.targets] if known else []
        forms = [form for form in read if (form.implementation, form.autocast) == (implementation, autocast)]
        number = zlib.crc32(f"{method.slug} {implementation}{' autocast' if autocast else ''}".encode())
        for turn in range(min(PER_IMPLEMENTATION, len(forms))):
            form = forms[(number + turn * (len(forms) // 2 + 1)) % len(forms)]
            there = [name for name in MODELS[form.shape] if name in models]
            batch, seq = SIZES[(number + turn) % len(SIZES)]
            shape = from_config(models[there[number % len(there)]].config)
            seq = shape.positions if shape.kind == "vision" else min(seq, shape.context or seq)
            yield Case(
                method.slug,
                form.implementation,
                there[number % len(there)],
                form.storage,
                form.checkpointing,
                batch,
                seq,
                form.autocast,
            )


def compare(case: Case) -> dict[str, Any]:
    """Prediction and dry run of one case, in bytes."""
    from profiler.dry_run import dry_run
    from profiler.profiles import fields, settled
    from profiler.settings import Settings

    method, config = load_methods()[case.slug], load_models()[case.model].config
    sheet = Sheet(prepare(method), subject(from_config(config)), Variant(case.implementation, None, "", case.autocast))
    formula = sheet.formula(case.storage, case.checkpointing, case.seq)
    formula.scoring = 0  # happens before training, and is no part of the step that is dry-run
    line = formula.line(Setting(case.seq))
    said = line.memory(case.batch)
    knobs, further = fields(method, case.implementation)
    overrides = {**further, **settled(method, knobs)}
    settings = Settings(
        batch=case.batch,
        seq=case.seq,
        checkpointing=case.checkpointing,
        storage=case.storage,
        autocast=case.autocast,
    )
    try:
        found = dry_run(config, case.slug, settings, case.implementation, overrides)
    except (ValueError, RuntimeError) as error:
        if case.implementation == "ours" and not isinstance(error, ValueError):
            raise  # ours says what it cannot do; a library just fails
        return {"refused": str(error).splitlines()[0][:160]}
    return {
        "batch": case.batch,
        "seq": case.seq,
        "allocated": [said.allocated_bytes, found.allocated_bytes],
        "reserved": [said.reserved_bytes, found.reserved_bytes],
        "moment": [said.moment, found.moment],
    }


def errors(rows: Mapping[str, Mapping[str, Any]], quantity: str) -> dict[str, float]:
    """Relative errors by case, of those that could be run."""
    return {key: row[quantity][0] / row[quantity][1] - 1 for key, row in rows.items() if quantity in row}


def main() -> None:
    """Compares what is missing and prints the errors."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.closed_forms", description=__doc__.splitlines()[0])
    parser.add_argument("slugs", nargs="*", help="only these methods")
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    asked = parser.parse_args()
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() and not asked.fresh else {}
    wanted = [
        case
        for slug, method in load_methods().items()
        if not asked.slugs or slug in asked.slugs
        for case in cases(method)
    ]
    keys = {case.key for slug, method in load_methods().items() for case in cases(method)}
    rows = {key: row for key, row in rows.items() if key in keys}
    for case in wanted:
        if case.key in rows and not asked.slugs:
            continue
        rows[case.key] = compare(case)
        write(rows)
        sys.stdout.write(f"{case.key:70s} {_said(rows[case.key])}\n")
        sys.stdout.flush()
        gc.collect()
    for quantity in ("allocated", "reserved"):
        found = sorted(map(abs, errors(rows, quantity).values()))
        within = sum(error <= 0.05 for error in found)
        sys.stdout.write(
            f"{quantity}: {len(found)} cases, median {median(found):.2%}, {within} within 5 %, largest {found[-1]:.2%}\n"
        )


def write(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the file by way of a temporary name."""
    FILE.parent.mkdir(exist_ok=True)
    versions = {name: metadata.version(name).partition("+")[0] for name in ("torch", "transformers", "peft")}
    said = {"made_by": "python -m tests.bench.closed_forms", "versions": versions, "rows": dict(sorted(rows.items()))}
    put(FILE, json.dumps(said, indent=1) + "\n")


def _said(row: Mapping[str, Any]) -> str:
    if "refused" in row:
        return f"refused: {row['refused']}"
    return "  ".join(f"{name} {row[name][0] / row[name][1] - 1:+.2%}" for name in ("allocated", "reserved"))


if __name__ == "__main__":
    main()

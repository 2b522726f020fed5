"""Tries every method on a small model of every family of the catalogue: ``kb/families.json``.

Training steps are run on the processor, with random weights, in our implementation and in PEFT's. What does not run is
written down with the reason: nothing is to be recommended that would not start.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import torch
from rich.progress import Progress

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.closed_form import Implementation, backbone_key
from kb.families import FILE, Families, Refusals
from kb.files import put
from kb.measurement import Setting
from kb.records import load_methods
from kb.schema import Method
from profiler import build
from profiler.measure import config_of, measure
from profiler.profiles import implementations, untrained, versions
from profiler.settings import Settings

MADE_BY = "python -m profiler.families"
_WORDS = 200  # letters of a reason


def examples() -> dict[str, str]:
    """A model of the catalogue for each family."""
    found: dict[str, str] = {}
    for name, model in load_models().items():
        found.setdefault(backbone_key(from_config(model.config)), name)
    return found


def tried(kind: str) -> Iterator[tuple[Method, Implementation]]:
    """What is run on models of a kind: every method that applies there, in whose code there is."""
    for method in load_methods().values():
        if kind in method.applies_to.architectures and not untrained(method):
            for implementation in implementations(method):
                yield method, implementation


def refusals(model: str) -> Refusals:
    """What does not run on a small model shaped like ``model``, with the reason.

    Ours says what it cannot do with a ``ValueError``. Any other error of it is a fault, and a ``RuntimeError`` names it; PEFT's
    may just fail. Raises ``ValueError`` when no such model can be built.
    """
    config = config_of(_small(model))
    kind = build.kind_of(config)
    build.ready(config, "lora", "ours")
    build.base(config, Settings(dtype="fp32"), "ours")
    found: Refusals = {"ours": {}, "peft": {}}
    for method, implementation in tried(kind):
        reason = refusal(method.slug, implementation, model)
        if reason is not None:
            found[implementation][method.slug] = reason
    return found


def refusal(slug: str, implementation: Implementation, model: str) -> str | None:
    """Why a method does not run on a small model shaped like ``model``; ``None`` if it does. Raises as ``failure``."""
    return failure(slug, implementation, _small(model))


def failure(slug: str, implementation: Implementation, setting: Setting) -> str | None:
    """Why training steps do not run in a setting, on the processor; ``None`` if they do.

    Ours says what it cannot do with a ``ValueError``. Any other error of it is a fault, and a ``RuntimeError`` names it.
    """
    done = measure(slug, setting, implementation, torch.device("cpu"), timed=0)
    if done.outcome == "measured":
        return None
    error, _, said = (done.message or "").partition(": ")
    if implementation == "ours" and error != "ValueError":
        raise RuntimeError(f"{slug} fails on {setting.model}, {setting.storage}: {done.message}")
    return said[:_WORDS]


def _small(model: str) -> Setting:
    return Setting(model=model, small=True, batch=2, seq=16, dtype="fp32")


def families(known: Families | None = None) -> Iterator[Families]:
    """What does not run on every family, after each one that was tried; those that ``known`` says it of are not tried again."""
    refused: dict[str, Refusals] = dict(known.refused) if known else {}
    untried: dict[str, str] = dict(known.untried) if known else {}
    for family, model in examples().items():
        if family in refused:
            continue
        try:
            refused[family] = refusals(model)
            untried.pop(family, None)
        except ValueError as error:
            untried[family] = str(error).splitlines()[0][:_WORDS]
        yield Families(made_by=MADE_BY, versions=versions(), refused=dict(refused), untried=dict(untried))


def write(found: Families) -> None:
    """Writes the file by way of a temporary name."""
    put(FILE, json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Tries what is missing, family by family: a run that was stopped goes on where it was; ``--fresh`` begins anew."""
    parser = argparse.ArgumentParser(prog=MADE_BY, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    asked = parser.parse_args()
    known = Families.model_validate_json(FILE.read_bytes()) if FILE.is_file() and not asked.fresh else None
    if known is not None and known.versions != versions():
        known = None  # other libraries, other answers
    torch.set_num_threads(1)
    done = len(known.refused) if known else 0
    with Progress() as bar:
        task = bar.add_task("families", total=len(examples()), completed=done)
        for found in families(known):
            write(found)
            bar.advance(task)


if __name__ == "__main__":
    main()

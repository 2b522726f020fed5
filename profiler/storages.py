"""Tries every method on a small base that bitsandbytes really stores in 8 and in 4 bits: ``kb/storages.json``.

Training steps are run on the processor as the scripts that we write run them: numbers in 16 bits, products by autocast. What
does not run is written down with the reason. bitsandbytes has to be installed (extra ``gpu``); its kernels for processors do.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from importlib import metadata

import torch
from rich.progress import Progress

from kb.closed_form import Implementation, Storage
from kb.families import Refusals
from kb.files import put
from kb.measurement import Setting
from kb.records import load_methods
from kb.schema import Method
from kb.storages import FILE, Storages
from profiler.campaign import suits
from profiler.families import failure
from profiler.profiles import implementations, versions

MADE_BY = "python -m profiler.storages"
MODELS = ("llama-3.2-1b", "t5-large", "roberta-large")  # the first that a method applies to is tried
STORAGES: tuple[Storage, ...] = ("int8", "nf4")
_PROCESSOR = "'NoneType' object has no attribute 'unsqueeze'"
"""PEFT's ``dequantize_module_weight`` moves a weight in 8 bits that lies on a processor, and only there, by way of
bitsandbytes' ``Int8Params.to``, which loses its scales once training has begun: says nothing about a card."""


def trials() -> Iterator[tuple[Method, Implementation, Setting]]:
    """What is run: every method whose record says that it works on such a base, in whose code there is."""
    for storage in STORAGES:
        for method in load_methods().values():
            fitting = (Setting(model=model, small=True, batch=2, seq=16, storage=storage) for model in MODELS)
            setting = next((each for each in fitting if suits(method, each)), None)
            if setting is not None:
                for implementation in implementations(method):
                    yield method, implementation, setting


def refusal(slug: str, implementation: Implementation, setting: Setting) -> str | None:
    """Why a method does not run on such a base; ``None`` if it does. Raises as ``failure``."""
    with torch.autocast("cpu", torch.bfloat16):
        said = failure(slug, implementation, setting)
    return None if said == _PROCESSOR else said


def main() -> None:
    """Tries all of them."""
    argparse.ArgumentParser(prog=MADE_BY, description=(__doc__ or "").splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    used = versions() | {"bitsandbytes": metadata.version("bitsandbytes")}
    found: dict[Storage, Refusals] = {storage: {"ours": {}, "peft": {}} for storage in STORAGES}
    todo = list(trials())
    with Progress() as bar:
        task = bar.add_task("methods", total=len(todo))
        for method, implementation, setting in todo:
            reason = refusal(method.slug, implementation, setting)
            if reason is not None:
                found[setting.storage][implementation][method.slug] = reason
            bar.advance(task)
    text = Storages(made_by=MADE_BY, versions=used, refused=found).model_dump(mode="json")
    put(FILE, json.dumps(text, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

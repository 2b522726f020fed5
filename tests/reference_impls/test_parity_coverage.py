"""Every method that both Hugging Face PEFT and this project implement is compared by a test, marked with its slug."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import peft
import pytest

from kb.records import load_methods
from reference_impls import slugs

OTHER_NAMES = {"adaption_prompt": "llama_adapter"}  # PEFT's word for a method, and ours


def shared() -> set[str]:
    """Implemented methods that their record says PEFT ships."""
    records = load_methods()
    return {slug for slug in slugs() if any(lib.name == "peft" for lib in records[slug].code.libraries)}


def compared() -> Iterator[str]:
    """The slugs that the parity tests of this folder are marked with."""
    for path in Path(__file__).parent.glob("test_parity_*.py"):
        module = import_module(f"tests.reference_impls.{path.stem}")
        for _, test in inspect.getmembers(module, inspect.isfunction):
            for mark in getattr(test, "pytestmark", []):
                if mark.name == "parity":
                    yield from mark.args


def test_every_method_that_peft_ships_too_is_compared_with_it() -> None:
    marked = set(compared())
    assert shared() - marked == set(), "give each a test marked parity(slug), outputs and gradients"
    assert marked <= shared(), "their records do not say that PEFT ships them"


@pytest.mark.parametrize("kind", [kind.value.lower() for kind in peft.PeftType])
def test_record_knows_that_peft_ships_the_method(kind: str) -> None:
    slug = OTHER_NAMES.get(kind, kind)
    if slug not in slugs():
        assert not any(slug in load_methods()[one].aliases for one in slugs())
        return
    assert slug in shared(), f"kb/methods/{slug}.yaml: name peft among the libraries"

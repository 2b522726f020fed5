"""How libraries are told which method to run: symbols of records, and the fields that PEFT's classes have."""

from __future__ import annotations

import pytest

from kb.records import load_methods
from kb.symbol import PEFT_FIELDS, advised, arguments, call, peft_fields, shipped


@pytest.mark.parametrize(
    ("symbol", "read"),
    [
        ("IA3Config", ("IA3Config", {})),
        ("LoraConfig(use_dora=True)", ("LoraConfig", {"use_dora": True})),
        ('LoraConfig(init_lora_weights="pissa")', ("LoraConfig", {"init_lora_weights": "pissa"})),
        ("peft.optimizers.create_lorafa_optimizer", None),
        ("LoraConfig(8)", None),
        ("LoraConfig(bias='all'), together with LoRA", None),
        (None, None),
    ],
)
def test_a_symbol_is_read_as_a_class_with_arguments(symbol: str | None, read: object) -> None:
    assert call(symbol) == read


def test_our_advice_goes_where_the_class_has_a_field_and_never_over_the_symbol() -> None:
    fields = frozenset({"r", "lora_alpha"})
    assert arguments({"r": 4}, {"rank": 16, "alpha": 32, "hidden": 512}, fields) == {"r": 4, "lora_alpha": 32}


def test_advice_is_whole_where_it_can_be() -> None:
    assert advised(load_methods()["lora"]) == {"rank": 16, "alpha": 16}


def test_an_entry_without_a_symbol_says_nothing() -> None:
    assert shipped(load_methods()["lora"], "opendelta") is None
    assert shipped(load_methods()["lora"], "peft") is not None


def test_fields_are_those_of_the_installed_peft() -> None:
    peft = pytest.importorskip("peft")
    from profiler.peft_fields import text

    assert PEFT_FIELDS.read_text(encoding="utf-8") == text(), "run: python -m profiler.peft_fields"
    assert "r" in peft_fields()["LoraConfig"]
    assert hasattr(peft, "LoraConfig")

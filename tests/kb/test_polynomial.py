"""Polynomials: putting hyperparameters in, and their values on a model, at a length and whatever the length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.polynomial import Values, at_length, constant, ends, settled, weighted, widths

LLAMA = from_config(load_models()["llama-2-7b"].config)
LETTERS = ("L", "b", "d", "d_ff", "p", "r", "s", "t")
MONOMIALS = st.lists(st.sampled_from(LETTERS), max_size=4).map("*".join)
POLYNOMIALS = st.dictionaries(MONOMIALS, st.integers(-50, 50).map(float), max_size=6)
KNOBS = {"r": 16.0, "p": 20.0}


def value(polynomial: dict[str, float], knobs: dict[str, float], b: int, s: int) -> float:
    standing, example = at_length(Values(widths(LLAMA)).powers(settled(weighted((polynomial,), knobs))), s)
    return standing + b * example


@given(st.integers(1, 64), st.integers(1, 8192), st.integers(0, 200))
def test_tokens_of_a_prompt_lengthen_every_sequence(b: int, s: int, p: int) -> None:
    said = value({"L*b*d*t": 2.0, "b*n_heads*t*t": 4.0}, {"p": p}, b, s)
    assert said == pytest.approx(2 * 32 * 4096 * b * (s + p) + 4 * 32 * b * (s + p) ** 2)


def test_hyperparameters_are_put_in() -> None:
    assert value({"L*d*r": 8.0}, {"r": 16.0}, 1, 1) == 8 * 32 * 4096 * 16


def test_weights_of_embedding_and_head_count_twice_where_they_are_apart() -> None:
    assert not LLAMA.tied
    assert value({"V*d": 2.0}, {}, 1, 1) == 2 * 2 * 32000 * 4096
    assert value({"V*b*d*s": 4.0}, {}, 1, 10) == 4 * 32000 * 4096 * 10  # work of one product, not weights


@given(POLYNOMIALS, st.integers(1, 4096))
def test_a_polynomial_has_the_same_value_at_a_length_as_whatever_the_length(
    polynomial: dict[str, float], s: int
) -> None:
    values, weights = Values(widths(LLAMA)), weighted((polynomial,), KNOBS)
    standing, example = at_length(values.powers(settled(weights)), s)
    size = sum(abs(value) for value in values.powers(settled(weights)).values()) * s**4
    assert values.at_length(ends(weights), s) == pytest.approx([standing, example], abs=1e-12 * size + 1e-9)


@given(POLYNOMIALS)
def test_what_neither_examples_nor_tokens_change_is_the_power_of_none(polynomial: dict[str, float]) -> None:
    values, weights = Values(widths(LLAMA)), weighted((polynomial,), KNOBS)
    said = values.powers(settled(weights)).get((0, 0), 0.0)
    assert values.constants((constant(weights),)) == [said]


def test_products_that_are_numbered_later_are_known_to_a_model_that_was_asked_before() -> None:
    values = Values(widths(LLAMA))
    assert values.at_length(ends(weighted(({"L*d": 1.0},), {})), 8)[0] == 32 * 4096
    rare = weighted(({"d_head*d_head*n_kv*s": 1.0},), {})
    assert values.at_length(ends(rare), 8)[0] == 128 * 128 * 32 * 8

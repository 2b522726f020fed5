"""Closed forms: reading them, putting hyperparameters in, and their words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.closed_form import PARTS, PROFILES, Instant, described, profile
from kb.polynomial import Values, at_length, settled, weighted, widths

FILES = sorted(path.stem for path in PROFILES.glob("*.json") if path.stem != "backbones")
LLAMA = from_config(load_models()["llama-2-7b"].config)


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


@pytest.mark.parametrize("slug", FILES)
def test_every_profile_can_be_read_and_knows_all_its_letters(slug: str) -> None:
    found = profile(slug)
    assert found is not None
    assert found.slug == slug
    letters = {*widths(LLAMA), "b", "s", "t"} - {"V_rows"}
    for form in found.forms:
        known = letters | form.knobs.keys()
        polynomials = [part for one in form.instants for part in one.parts.values()]
        polynomials += [form.gradients, form.states, form.spare, form.flops, form.flops_fp32, form.moved, form.kernels]
        for polynomial in polynomials:
            for text in polynomial:
                assert {*text.split("*")} <= known | {""}, (slug, text)
        assert form.instants
        assert all({*one.parts} <= {*PARTS} for one in form.instants)
        assert 0 <= form.unread <= 1


def test_words_of_an_instant_are_sorted_by_what_they_grow_with() -> None:
    instant = Instant(
        phase="head backward",
        words="at the start of the backward pass",
        parts={"activations": {"L*b*d*s": 10.0, "L*b*d_ff*s": 6.0, "L*b*s": 8.0}, "logits": {"V*b*s": 12.0}},
    )
    assert described(instant) == (
        "activations, per token and block: 10·hidden + 6·intermediate + 8 bytes",
        "logits, per token: 12·vocabulary bytes",
    )


def test_a_method_without_a_profile_has_none() -> None:
    assert profile("no_such_method") is None

"""Closed forms: reading them, and their words."""

import pytest

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.closed_form import PARTS, PROFILES, Form, Instant, described, forms, outline, profile
from kb.polynomial import widths

FILES = sorted(path.stem for path in PROFILES.glob("*.json") if path.stem != "backbones")
LLAMA = from_config(load_models()["llama-2-7b"].config)


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
    assert not forms("no_such_method", "decoder")
    assert not outline("no_such_method").shapes


@pytest.mark.parametrize("slug", ["lora", "ia3", "prompt_tuning"])
def test_the_forms_of_all_families_are_those_of_the_profile_and_its_outline_says_what_they_are_of(slug: str) -> None:
    whole, said = profile(slug), outline(slug)
    assert whole is not None
    apart: list[Form] = [form for shape in said.shapes for form in forms(slug, shape)]
    assert len(apart) == len(whole.forms)
    assert all(form in whole.forms for form in apart)
    assert {*said.targets} == {form.targets for form in whole.forms} - {""}
    assert said.refused == whole.refused

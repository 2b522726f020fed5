"""Closed forms: reading them, and their words."""

import pytest

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.closed_form import PARTS, PROFILES, Form, Instant, described, forms, outline, profile
from kb.polynomial import Settled, Values, widths

FILES = sorted(path.stem for path in PROFILES.glob("*.json") if path.stem != "backbones")
LLAMA = from_config(load_models()["llama-2-7b"].config)


@pytest.mark.parametrize("slug", FILES)
def test_every_profile_can_be_read_and_knows_all_its_letters(slug: str) -> None:
    found = profile(slug)
    assert found is not None
    assert found.slug == slug
    letters = {*widths(LLAMA), "b", "s", "t"} - {"V_rows"}
    for form in found.forms:
        known = letters | form.knobs.keys() | form.letters.keys()
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


def test_blocks_of_several_kinds_have_words_of_their_own() -> None:
    parts = {"activations": {"L_out*b*d*s": 22.0, "L_fore*b*d*s": 10.0, "L_fore": 600.0}, "adapter": {"L_aft*d*m": 4.0}}
    assert described(Instant(phase="backward", words="in the backward pass", parts=parts)) == (
        "adapter, per inner block of the second half: 4·hidden·bottleneck bytes",
        "activations, per token and pair of outer blocks: 22·hidden bytes",
        "activations, per token and inner block of the first half: 10·hidden bytes",
        "activations, per inner block of the first half: 600 bytes",
    )


def test_letters_follow_from_a_model_by_their_formulas() -> None:
    form = next(one for one in forms("s4", "decoder") if not one.checkpointing and one.storage == "bf16")
    values, settled = Values(widths(LLAMA)), Settled(form)
    trained = values.powers(settled.polynomial("gradients"))[0, 0] / 2
    assert trained == pytest.approx(0.005 * LLAMA.parameters, rel=0.02)  # less what is rounded down
    assert Settled(form, {"beta": 0.01}).knobs["beta"] == 0.01
    twice = values.powers(Settled(form, {"beta": 0.01}).polynomial("gradients"))[0, 0] / 2
    assert twice == pytest.approx(2 * trained, rel=0.02)


def test_a_method_without_a_profile_has_none() -> None:
    assert profile("no_such_method") is None
    assert not forms("no_such_method", "decoder")
    assert not outline("no_such_method").shapes


@pytest.mark.parametrize("slug", ["lora", "ia3", "prompt_tuning"])
def test_the_forms_of_all_families_are_those_of_the_profile_and_its_outline_says_what_they_are_of(slug: str) -> None:
    whole, said = profile(slug), outline(slug)
    assert whole is not None
    apart: list[Form] = [form for shape in said.shapes for form in forms(slug, shape)]
    cast = [form for shape in said.shapes for form in forms(slug, shape, True) if form.implementation == "peft"]
    assert len(apart) + len(cast) == len(whole.forms)
    assert all(form in whole.forms for form in (*apart, *cast))
    assert {form.autocast for form in cast} == {True}
    assert {*said.targets} == {form.targets for form in whole.forms} - {""}
    assert said.refused == whole.refused

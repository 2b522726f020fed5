"""Closed forms: regenerated they are what is committed, and read off dry runs they equal dry runs."""

import json

import pytest

from kb.architecture import from_config
from kb.closed_form import PROFILES, Values, at_length, profile, settle, widths
from kb.records import load_methods
from profiler import profiles
from profiler.dry_run import dry_run
from profiler.settings import Settings

SAMPLE = ("lora", "prompt_tuning", "full_fine_tuning")  # one of each kind: layers, input, weights


@pytest.mark.parametrize("slug", SAMPLE)
def test_a_regenerated_form_is_the_committed_one(slug: str) -> None:
    method, known = load_methods()[slug], profile(slug)
    assert known is not None
    case = next(case for case in profiles.cases(method) if case.shape.name == "decoder")
    assert profiles.form(method, case) == next(one for one in known.forms if profiles.key_of(one) == case.key)


def test_every_method_that_can_be_run_has_a_profile_of_what_there_is_now() -> None:
    stale = []
    for method in profiles.runnable():
        known = profile(method.slug)
        if known is None or known.fingerprint != profiles.fingerprint(method):
            stale.append(method.slug)
    assert stale == [], "run peft-atlas profile"


def test_no_profile_is_left_of_a_method_that_is_gone() -> None:
    there = {path.stem for path in PROFILES.glob("*.json")} - {"backbones"}
    assert there == {method.slug for method in profiles.runnable()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("slug", "implementation"), [("lora", "ours"), ("lora", "peft"), ("full_fine_tuning", "ours")])
def test_closed_form_equals_the_dry_run_of_a_small_llama(slug: str, implementation: str, checkpointing: bool) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    }
    method, model = load_methods()[slug], from_config(config)
    known = profile(slug)
    assert known is not None
    form = next(
        one for one in known.forms if profiles.key_of(one) == (implementation, "decoder", "bf16", checkpointing, "")
    )
    knobs, further = profiles.fields(method, implementation)
    advised = {knob.symbol: knob.ours for knob in method.mechanism.hyperparameters}
    overrides = {**further, **{field: advised[letter] for letter, field in knobs.items()}}
    settings = Settings(batch=4, seq=512, checkpointing=checkpointing)
    found = dry_run(config, slug, settings, implementation, overrides)
    values, settled = Values(widths(model)), settle(form)
    peaks = [at_length(values.powers(terms), 512) for terms in settled.totals]
    peak = max(standing + 4 * example for standing, example in peaks) + 2 * model.parameters
    assert peak == pytest.approx(found.allocated_bytes, rel=0.003)  # blocks of 512 bytes are left out
    standing, example = at_length(values.powers(settled.flops), 512)
    assert standing + 4 * example == pytest.approx(found.flops, rel=1e-6)


def test_profiles_name_what_they_were_made_with() -> None:
    content = json.loads((PROFILES / "lora.json").read_text())
    assert content["made_by"] == "peft-atlas profile"
    assert content["versions"] == profiles.versions()

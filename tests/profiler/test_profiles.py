"""Closed forms: regenerated they are what is committed, and read off dry runs they equal dry runs."""

import json
from typing import Any

import pytest

from kb.architecture import from_config
from kb.closed_form import PROFILES, profile
from kb.polynomial import Settled, Values, at_length, widths
from kb.records import load_methods
from profiler import profiles
from profiler.dry_run import dry_run
from profiler.settings import Settings
from recommender.footprint import prepare, subject
from recommender.plans import Sheet, Variant
from recommender.setting import OPTIMIZERS, Setting

SMALL = {
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

SIZES = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8}
OTHERS = {  # decoders whose matrices are joined, without and with a gate; a base that a loss runs through twice
    "gpt_neox": {**SIZES, "vocab_size": 50304, "max_position_embeddings": 2048, "tie_word_embeddings": False},
    "gpt2": {"n_embd": 512, "n_layer": 6, "n_head": 8, "n_positions": 1024, "vocab_size": 50257},
    "llama": {**SIZES, "vocab_size": 32000, "num_key_value_heads": 8},
    "phi3": {**SIZES, "vocab_size": 32064, "num_key_value_heads": 4, "pad_token_id": 0},
    "bert": {**SIZES, "vocab_size": 30522, "max_position_embeddings": 512},
}

T5 = {
    "model_type": "t5",
    "d_model": 512,
    "d_ff": 1024,
    "num_layers": 6,
    "num_decoder_layers": 6,
    "num_heads": 8,
    "d_kv": 64,
    "vocab_size": 32128,
}

SAMPLE = ("lora", "warp", "full_fine_tuning", "ladder_side_tuning")  # of each kind: layers, input, weights, beside


@pytest.mark.parametrize("slug", SAMPLE)
def test_a_regenerated_form_is_the_committed_one(slug: str) -> None:
    method, known = load_methods()[slug], profile(slug)
    assert known is not None
    case = next(profiles.cases(method))
    assert profiles.form(method, case) == next(one for one in known.forms if profiles.key_of(one) == case.key)


def test_every_method_that_can_be_run_has_a_profile_of_what_there_is_now() -> None:
    stale = []
    for method in profiles.runnable():
        known = profile(method.slug)
        if known is None or known.fingerprint != profiles.fingerprint(method):
            stale.append(method.slug)
    assert stale == [], "run peft-atlas profile"


def test_every_method_that_trains_has_closed_forms() -> None:
    for method in profiles.runnable():
        known = profile(method.slug)
        assert known is not None, method.slug
        assert known.forms or profiles.untrained(method), method.slug


def test_no_profile_is_left_of_a_method_that_is_gone() -> None:
    there = {path.stem for path in PROFILES.glob("*.json")} - {"backbones"}
    assert there == {method.slug for method in profiles.runnable()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("slug", "implementation", "autocast"),
    [("lora", "ours", False), ("lora", "peft", False), ("lora", "peft", True), ("full_fine_tuning", "ours", False)],
)
def test_closed_form_equals_the_dry_run_of_a_small_llama(
    slug: str, implementation: str, autocast: bool, checkpointing: bool
) -> None:
    method, model = load_methods()[slug], from_config(SMALL)
    known = profile(slug)
    assert known is not None
    key = implementation, "decoder", "bf16", checkpointing, "", autocast
    form = next(one for one in known.forms if profiles.key_of(one) == key)
    knobs, further = profiles.fields(method, implementation)
    advised = {knob.symbol: knob.ours for knob in method.mechanism.hyperparameters}
    overrides = {**further, **{field: advised[letter] for letter, field in knobs.items()}}
    settings = Settings(batch=4, seq=512, checkpointing=checkpointing, autocast=autocast)
    found = dry_run(SMALL, slug, settings, implementation, overrides)
    values, settled = Values(widths(model)), Settled(form)
    peaks = [at_length(values.powers(terms), 512) for terms in settled.totals]
    peak = max(standing + 4 * example for standing, example in peaks) + 2 * model.parameters
    assert peak == pytest.approx(found.allocated_bytes, rel=0.003)  # blocks of 512 bytes are left out
    standing, example = at_length(values.powers(settled.polynomial("flops")), 512)
    assert standing + 4 * example == pytest.approx(found.flops, rel=1e-6)


def allocated(slug: str, implementation: Any, config: dict[str, Any], settings: Settings) -> tuple[int, int]:
    """Allocated bytes by the closed form and by the dry run, with the hyperparameters that we advise."""
    method, seq = load_methods()[slug], settings.seq
    sheet = Sheet(prepare(method), subject(from_config(config)), Variant(implementation, None, "", settings.autocast))
    formula = sheet.formula("bf16", settings.checkpointing, seq)
    formula.scoring = 0  # happens before training, and is no part of the step that is dry-run
    knobs, further = profiles.fields(method, implementation)
    found = dry_run(config, slug, settings, implementation, {**further, **profiles.settled(method, knobs)})
    return formula.line(Setting(seq)).memory(settings.batch).allocated_bytes, found.allocated_bytes


@pytest.mark.parametrize(
    ("slug", "implementation", "family", "settings"),
    [
        ("fishmask", "ours", "gpt_neox", {}),
        ("pissa", "peft", "phi3", {}),
        ("lora", "peft", "gpt2", {"autocast": True}),  # whose powers autocast computes in fp32
        ("p_tuning_v2", "peft", "llama", {}),  # its cache holds what attention keeps: a key serves one query
        ("sparse_lora", "ours", "phi3", {}),
        ("adamix", "ours", "bert", {"checkpointing": True}),
        ("s4", "ours", "bert", {}),  # four groups of blocks
    ],
)
def test_closed_form_equals_the_dry_run_of_other_families(
    slug: str, implementation: str, family: str, settings: dict[str, bool]
) -> None:
    config = {"model_type": family, **OTHERS[family]}
    said, found = allocated(slug, implementation, config, Settings(batch=4, seq=512, **settings))
    assert said == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize(
    ("slug", "implementation", "gates", "seq"),
    [
        ("lora", "ours", False, 1024),
        ("lora", "ours", False, 1020),  # rows of masks that are not whole steps of eight are copied in every block
        ("prompt_tuning", "ours", True, 1024),  # with 20 tokens in front of them
        ("prompt_tuning", "peft", False, 1024),
        ("p_tuning_v2", "ours", False, 1004),
        ("ladder_side_tuning", "ours", True, 1020),
        ("s4", "ours", False, 1004),
    ],
)
def test_closed_form_equals_the_dry_run_of_encoder_decoders_at_any_length(
    slug: str, implementation: str, gates: bool, seq: int
) -> None:
    config = {**T5, "feed_forward_proj": "gated-gelu" if gates else "relu"}
    said, found = allocated(slug, implementation, config, Settings(batch=1, seq=seq))
    assert said == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize(
    "changed",
    [
        *({"optimizer": name} for name in OPTIMIZERS),
        {"head_chunks": 2},
        {"head_chunks": 8},
        {"optimizer": "adamw_8bit", "head_chunks": 4},
    ],
    ids=lambda changed: " ".join(map(str, changed.values())),
)
@pytest.mark.parametrize("slug", ["lora", "full_fine_tuning"])
def test_optimizers_and_heads_in_pieces_take_under_the_closed_form_what_they_take_in_a_dry_run(
    slug: str, changed: dict[str, object]
) -> None:
    """The closed form works both out (``recommender.memory``); the dry run carries them out."""
    about = subject(from_config(SMALL))
    sharing = Setting(1024).sharing._replace(**changed)
    formula = Sheet(prepare(load_methods()[slug]), about, Variant("ours", None, "")).formula("bf16", False, 1024)
    said = formula.line(Setting(1024, sharing)).memory(2)
    found = dry_run(SMALL, slug, Settings(batch=2, seq=1024, **changed), "ours")
    assert said.allocated_bytes == pytest.approx(found.allocated_bytes, rel=0.01)
    assert said.parts.optimizer == pytest.approx(found.parts["optimizer"], abs=0.004 * found.allocated_bytes)


def test_profiles_name_what_they_were_made_with() -> None:
    content = json.loads((PROFILES / "lora.json").read_text())
    assert content["made_by"] == "peft-atlas profile"
    assert content["versions"] == profiles.versions()

"""The dry run: exact where a hand sum exists, exact in depth, and clear when it cannot run."""

from __future__ import annotations

import os

import pytest
import torch

from kb.catalogue import load_models
from profiler import depth, fork
from profiler.dry_run import dry_run
from profiler.settings import Settings

MEDIUM = {
    "model_type": "llama", "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
GEMMA = {
    "model_type": "gemma2", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 12,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "sliding_window": 64,
}  # fmt: skip
VIT = {
    "model_type": "vit", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
SMALL = Settings(batch=2, seq=128)


@pytest.mark.parametrize(
    ("config", "slug", "implementation", "changes"),
    [
        (MEDIUM, "lora", "peft", {}),
        (MEDIUM, "lora", "ours", {"padded": True}),
        (MEDIUM, "lora", "ours", {"checkpointing": True}),
        (MEDIUM, "full_fine_tuning", "ours", {}),
        (MEDIUM, "full_fine_tuning", "ours", {"seq": 16, "optimizer": "sgd"}),  # another stretch holds the peak
        (MEDIUM, "dora", "ours", {"dtype": "fp32"}),
        (MEDIUM, "prefix_tuning", "ours", {}),
        (MEDIUM, "ladder_side_tuning", "ours", {}),
        (MEDIUM, "ia3", "peft", {"keep_outputs": True, "use_cache": True}),
        (GEMMA, "lora", "ours", {"seq": 96}),
        (MEDIUM, "prefix_tuning", "peft", {}),  # one parameter holds something for every layer
        (MEDIUM, "lora", "peft", {"storage": "int8", "checkpointing": True}),
        (MEDIUM, "full_fine_tuning", "ours", {"optimizer": "adafactor", "devices": 4, "sharding": "fsdp2"}),
        (MEDIUM, "lora", "ours", {"dtype": "fp32", "autocast": True, "head_chunks": 4, "before": 50}),
    ],
)
def test_few_layers_extend_exactly_to_all(config: dict, slug: str, implementation: str, changes: dict) -> None:
    settings = SMALL.model_copy(update=changes)
    whole = dry_run(config, slug, settings, implementation, extend=False)
    extended = dry_run(config, slug, settings, implementation, extend=True)
    assert len(extended.depths) == 2
    assert max(extended.depths) < config["num_hidden_layers"] == whole.depths[0]
    assert extended.model_dump(exclude={"depths"}) == whole.model_dump(exclude={"depths"})


def test_a_depth_that_a_copy_of_the_process_runs_tells_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork, "_copyable", lambda: hasattr(os, "fork"))
    alone, beside = (dry_run(MEDIUM, "lora", SMALL, extend=True, beside=on) for on in (False, True))
    assert beside == alone


def test_full_tuning_holds_weights_states_and_the_optimizers_list_at_the_byte() -> None:
    report = dry_run(MEDIUM, "full_fine_tuning", SMALL.model_copy(update={"seq": 2, "batch": 1}))
    count = 8192 * 512 + 8 * (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1408 + 2 * 512) + 512
    assert report.trainable == count
    assert report.parts["weights"] == 2 * count + 2 * 512  # and the frequencies of the rotary embedding, twice
    assert report.parts["gradients"] == 2 * count
    assert report.parts["optimizer"] == 3 * 2 * count  # both moments, and one list of temporaries
    assert report.moment.startswith("in the optimizer's step")


def test_adapters_of_peft_are_fp32_and_ours_follow_the_base() -> None:
    knobs = {"target_modules": ["q_proj", "v_proj"], "r": 8}
    theirs = dry_run(MEDIUM, "lora", SMALL, "peft", knobs)
    ours = dry_run(MEDIUM, "lora", SMALL, "ours", {"rank": 8})
    assert theirs.trainable == ours.trainable == 8 * 8 * (512 + 512 + 512 + 256)
    assert theirs.parts["adapter"] == 4 * theirs.trainable
    assert ours.parts["adapter"] == 2 * ours.trainable
    assert theirs.parts["activations"] > ours.parts["activations"]
    bf16 = dry_run(MEDIUM, "lora", SMALL.model_copy(update={"adapter_dtype": "bf16"}), "peft", knobs)
    assert bf16.parts["adapter"] == ours.parts["adapter"]


def test_parts_add_up_and_reserved_covers_them() -> None:
    report = dry_run(MEDIUM, "lora", SMALL)
    assert sum(report.parts.values()) == report.allocated_bytes
    assert report.reserved_bytes is not None
    assert report.allocated_bytes < report.reserved_bytes < 1.5 * report.allocated_bytes


def test_checkpointing_saves_activations_and_costs_a_forward_pass() -> None:
    settings = Settings(batch=4, seq=512)
    plain, checkpointed = (
        dry_run(MEDIUM, "lora", settings.model_copy(update={"checkpointing": on})) for on in (False, True)
    )
    assert checkpointed.parts["activations"] < plain.parts["activations"] / 4
    assert 1.2 < checkpointed.flops / plain.flops < 1.6


@pytest.mark.parametrize("checkpointing", [False, True])
def test_autocast_as_scripts_have_it_takes_no_more_than_is_predicted(checkpointing: bool) -> None:
    everywhere = {"target_modules": "all-linear"}
    settings = SMALL.model_copy(update={"checkpointing": checkpointing})
    plain, cast = (
        dry_run(MEDIUM, "lora", settings.model_copy(update={"autocast": on}), "peft", everywhere)
        for on in (False, True)
    )
    activations = cast.parts["activations"] / plain.parts["activations"]
    assert cast.allocated_bytes <= 1.002 * plain.allocated_bytes
    assert checkpointing or activations < 0.9


def test_padding_costs_a_mask_and_repeated_keys() -> None:
    padded, packed = (dry_run(MEDIUM, "lora", SMALL.model_copy(update={"padded": on})) for on in (True, False))
    kept = padded.parts["activations"] - packed.parts["activations"]
    tokens, layers = 2 * 128, 8
    keys = 2 * tokens * (512 - 256) * 2  # keys and values of four heads stand for eight
    mask = 2 * 128 * 128 * 2
    truths = 2 * 128 * 128  # the mask as it was given, once
    assert 0 <= kept - layers * (keys + mask) <= truths + 4096


def test_a_model_of_seven_billion_parameters_takes_seconds() -> None:
    report = dry_run(load_models()["llama-2-7b"].config, "lora", Settings(batch=1, seq=2048), extend=True)
    assert report.parts["weights"] == pytest.approx(2 * 6738415616, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "slug", "implementation", "overrides", "says"),
    [
        (MEDIUM, "no_such_method", "ours", {}, "no implementation of ours"),
        (MEDIUM, "lora", "ours", {"rnak": 4}, "no field 'rnak'"),
        (MEDIUM, "lora", "peft", {"rnak": 4}, "no field 'rnak'"),
        (MEDIUM, "houlsby_adapter", "peft", {}, "no configuration class"),
        (MEDIUM, "shira", "peft", {"target_modules": ["q_proj"]}, "reads values"),
        ({"model_type": "llama"}, "lora", "ours", {}, "lacks"),
        (VIT, "prompt_tuning", "peft", {}, "does not run on such a model"),
        (MEDIUM | {"hidden_size": 10**9}, "lora", "ours", {}, "hidden_size: 1000000000 is out of reason"),
        (MEDIUM | {"num_hidden_layers": 10**6}, "lora", "ours", {}, "num_hidden_layers: 1000000 is out of reason"),
        (MEDIUM | {"vocab_size": -1}, "lora", "ours", {}, "vocab_size: -1 is out of reason"),
        (MEDIUM | {"hidden_act": "nope"}, "lora", "ours", {}, "hidden_act is 'nope'"),
        (MEDIUM | {"rope_parameters": 5}, "lora", "ours", {}, "rope_parameters"),
        (MEDIUM | {"layer_types": ["x"] * 8}, "lora", "ours", {}, "layer_types"),
    ],
)
def test_what_cannot_be_run_is_said_by_name(
    config: dict, slug: str, implementation: str, overrides: dict, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        dry_run(config, slug, SMALL, implementation, overrides)


def test_a_run_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiler.live.LIMIT", 0)
    with pytest.raises(ValueError, match="takes more than 0 seconds"):
        dry_run(MEDIUM, "lora", SMALL)


def test_a_head_of_its_own_is_held_beside_the_embedding() -> None:
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 1000}
    tied, apart = (
        dry_run({"model_type": "t5", **sizes, "tie_word_embeddings": flag}, "lora", Settings(batch=1, seq=32))
        for flag in (True, False)
    )
    assert apart.parts["weights"] - tied.parts["weights"] == 2 * 64 * 1000


def test_layers_and_timeline_agree_with_the_peak() -> None:
    report = dry_run(MEDIUM, "lora", SMALL, "peft", {"target_modules": ["q_proj", "v_proj"], "r": 8})
    assert len(report.by_layer) == 8 + 1
    for part, size in report.parts.items():
        assert sum(layer.parts.get(part, 0) for layer in report.by_layer) == size
    per_layer = 2 * (2 * 512 * 512 + 2 * 512 * 256 + 3 * 512 * 1408 + 2 * 512)
    assert {layer.parts["weights"] for layer in report.by_layer[:8]} == {per_layer}
    assert {layer.parts["adapter"] for layer in report.by_layer[:8]} == {4 * 8 * (512 + 512 + 512 + 256)}
    assert {layer.parts["optimizer"] for layer in report.by_layer[:8]} == {2 * 4 * 8 * (512 + 512 + 512 + 256)}
    assert len(report.timeline.moments) == len(report.timeline.bytes) <= 300
    assert max(map(sum, report.timeline.bytes)) == report.allocated_bytes


def test_nothing_is_left_behind() -> None:
    before = torch.get_num_threads(), torch.nn.Module._apply, torch.nn.Parameter.__deepcopy__, torch.rand
    with pytest.raises(ValueError, match="does not fit"):
        dry_run(MEDIUM, "lora", SMALL, overrides={"rank": 10**6})
    assert (torch.get_num_threads(), torch.nn.Module._apply, torch.nn.Parameter.__deepcopy__, torch.rand) == before
    assert torch.zeros(2).sum().item() == 0


def test_depths_keep_the_pattern_of_layers() -> None:
    plan = depth.plan({"num_hidden_layers": 26, "layer_types": (["a"] * 5 + ["b"]) * 4 + ["a", "a"]})
    assert plan is not None
    assert [depths % 6 for depths in plan.depths] == [26 % 6] * 2
    assert depth.plan({"num_hidden_layers": 5}) is None
    assert depth.plan({"num_layers": 40, "num_decoder_layers": 6}) is None
    assert depth.plan({"num_hidden_layers": 60, "first_k_dense_replace": 1}) is None

"""Quantised bases: the buffers of a layer by hand, PEFT's own code on them, and what is refused."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from kb.architecture import from_config
from kb.catalogue import load_model
from kb.measurement import Setting
from profiler import build, families
from profiler.dry_run import dry_run
from profiler.fake import without_values
from profiler.live import Live, Moment
from profiler.measure import config_of
from profiler.quantised import Linear4bit, Linear8bitLt, beside, pretended, quantise
from profiler.settings import Settings
from reference_impls.parts.storage import in_blocks
from reference_impls.training.sense import senses
from tests.profiler.test_fake import FAMILIES

DESCRIBED_WHOLE = {"clip-vit-base-patch32", "llama-4-maverick-17b-128e"}  # of which only one part is built
ROWS, COLUMNS, TOKENS = 4096, 1024, 2048
COUNT = ROWS * COLUMNS
SMALL = Settings(batch=2, seq=64)


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        # codes, scales, scales of scales, table of 16 codes, mean, table of 256
        (Linear4bit, COUNT // 2 + COUNT // 64 + 4 * COUNT // 64 // 256 + 512 + 512 + 1024),
        (Linear8bitLt, COUNT + 4 * ROWS),
    ],
)
def test_a_layer_holds_what_bitsandbytes_holds(kind: type, want: int) -> None:
    with without_values(), Live() as live:
        layer = kind(ROWS, COLUMNS, None, torch.bfloat16)
        live.enter(Moment(1, "forward"))
        assert layer.weight.requires_grad is False
    assert live.trace.segments()[Moment(1, "forward")].total == want


def _course(kind: type) -> tuple[int, int, int]:
    """Bytes beyond layer, input and its gradient: peak of the forward pass, what stays, peak of the backward pass."""
    with without_values(), Live() as live:
        layer = kind(ROWS, COLUMNS, None, torch.bfloat16)
        x = torch.zeros(1, TOKENS, COLUMNS, dtype=torch.bfloat16, requires_grad=True)
        g = torch.zeros(1, TOKENS, ROWS, dtype=torch.bfloat16)
        live.enter(Moment(1, "forward"))
        held = sum(one.size for one in live.alive(("build",), 0))
        y = layer(x)
        kept = sum(one.size for one in live.alive(("forward",), 1))
        live.enter(Moment(1, "backward"))
        y.backward(g)
    peaks = live.trace.segments()
    return peaks[Moment(1, "forward")].total - held, kept, peaks[Moment(1, "backward")].total - held


def test_four_bits_unpack_the_weight_twice_and_keep_nothing() -> None:
    forward, kept, backward = _course(Linear4bit)
    out, weight, scales = 2 * TOKENS * ROWS, 2 * COUNT, 4 * COUNT // 64
    assert kept == out
    assert forward == out + weight + scales  # the product runs while weight and scales are there
    assert backward == out + weight + 2 * TOKENS * COLUMNS  # the scales are gone, the input's gradient is there


def test_eight_bits_pass_through_int8_and_int32_and_keep_no_more_than_their_input() -> None:
    forward, kept, backward = _course(Linear8bitLt)
    out = 2 * TOKENS * ROWS
    assert kept == out
    # the sums in int32 and the result in fp16, beside the input in int8 with a scale for each row
    assert forward == 4 * TOKENS * ROWS + out + TOKENS * COLUMNS + 4 * TOKENS
    assert backward == out + 2 * COUNT + 2 * TOKENS * COLUMNS


@pytest.mark.parametrize("storage", ["int8", "nf4"])
@pytest.mark.parametrize("implementation", ["ours", "peft"])
def test_only_linear_layers_of_the_blocks_change_their_storage(implementation: str, storage: str) -> None:
    plain, small = (dry_run(FAMILIES["llama"], "lora", SMALL.model_copy(update={"storage": s}), implementation)
                    for s in ("bf16", storage))  # fmt: skip
    assert small.trainable == plain.trainable
    outside = [report.by_layer[-1].parts["weights"] for report in (plain, small)]
    assert outside[0] == outside[1]
    assert small.by_layer[0].parts["weights"] < plain.by_layer[0].parts["weights"]


@pytest.mark.parametrize("slug", ["dora", "ia3", "adalora", "vera", "miss", "oft"])
def test_peft_runs_its_own_code_on_four_bits(slug: str) -> None:
    assert dry_run(FAMILIES["llama"], slug, SMALL.model_copy(update={"storage": "nf4"}), "peft").trainable > 0


@pytest.mark.parametrize(
    ("slug", "implementation", "says"),
    [
        ("full_fine_tuning", "ours", "does not work on a base stored as nf4: weights stored in 4 or 8 bits"),
        ("diff_pruning", "ours", "does not work on a base stored as nf4: every weight needs a gradient"),
        ("loha", "peft", "does not work with a base stored as nf4"),
    ],
)
def test_what_cannot_work_on_a_quantised_base_is_refused_with_the_reason(
    slug: str, implementation: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        dry_run(FAMILIES["llama"], slug, SMALL.model_copy(update={"storage": "nf4"}), implementation)


def test_a_model_without_linear_layers_in_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="no linear layer in its blocks"):
        quantise(torch.nn.Linear(2, 2), "nf4", "ours")


def test_nothing_of_bitsandbytes_is_left_behind() -> None:
    from peft import import_utils
    from peft.tuners.lora import model

    before = importlib.util.find_spec("bitsandbytes"), import_utils.is_bnb_available, model.is_bnb_available
    with pretended():
        assert importlib.util.find_spec("bitsandbytes") is not None
        assert model.is_bnb_available()
    assert (importlib.util.find_spec("bitsandbytes"), import_utils.is_bnb_available, model.is_bnb_available) == before
    assert ("bitsandbytes" in sys.modules) == (before[0] is not None)
    assert beside(torch.nn.Linear(2, 2)) == []


def built(model: str) -> torch.nn.Module:
    """A small model of the family."""
    return build.base(config_of(Setting(model=model, small=True, batch=1, seq=8)), Settings(), "ours")


def packed(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """What a base in few bits stores so."""
    try:
        return dict(in_blocks(model, "nf4"))
    except ValueError:
        return {}


@pytest.mark.parametrize("model", sorted({*families.examples().values()} - DESCRIBED_WHOLE - {"whisper-base"}))
def test_matrices_that_are_packed_have_the_weights_that_the_architecture_says(model: str) -> None:
    found = from_config(config_of(Setting(model=model, small=True, batch=1, seq=8)))
    whole = built(model)
    layers = packed(whole)
    for name in senses(whole):  # bitsandbytes packs what joins patches, too, which stands outside of the eyes' blocks
        inside = whole.get_submodule(name).named_modules(prefix=name)
        layers |= {each: layer for each, layer in inside if isinstance(layer, torch.nn.Linear)}
    assert sum(layer.weight.numel() for layer in layers.values()) == found.packable


@pytest.mark.parametrize("model", ["falcon-7b", "falcon-40b"])
def test_nothing_of_falcon_is_packed(model: str) -> None:
    assert from_config(load_model(model).config).packable == 0


def test_the_eyes_of_a_model_are_packed_too() -> None:
    whole = from_config(load_model("gemma-3-4b").config)
    blocks = sum(one.weights for one in whole.linears() if one.in_block)
    assert whole.packable - blocks == 27 * (4 * 1152**2 + 2 * 1152 * 4304)

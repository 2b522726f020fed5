"""NF4 against bitsandbytes (``nf4_fixture.py`` wrote what it gave) and against a search written out number by number."""

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from reference_impls.parts import nf4

THEIRS = load_file(Path(__file__).with_name("nf4_fixture.safetensors"))
BLOCKS = {
    "many_blocks": 32,
    "half": 64,
    "brain": 64,
    "single": 64,
    "short_last_block": 64,
    "odd": 64,
    "wide_blocks": 256,
}
DOUBLE = {name: f"{name}.scales" in THEIRS for name in BLOCKS}
LEVELS = [  # appendix E of the paper
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]
each_case = pytest.mark.parametrize("name", BLOCKS)


def part(name: str, leaf: str) -> Tensor:
    return THEIRS[f"{name}.{leaf}"]


def linear(d_in: int, d_out: int, dtype: torch.dtype = torch.float32) -> nn.Linear:
    return nn.Linear(d_in, d_out).to(dtype).requires_grad_(False)


def packed(layer: nn.Linear, **how: Any) -> nf4.NF4Linear:
    return nf4.NF4Linear(layer, nf4.quantise(layer.weight, **how), how.get("block", 64))


def test_levels_are_the_papers() -> None:
    assert torch.equal(torch.tensor(nf4.NORMAL), torch.tensor(LEVELS))


@each_case
def test_codes_and_first_scales_are_those_of_bitsandbytes(name: str) -> None:
    ours = nf4.quantise(part(name, "weight"), BLOCKS[name], DOUBLE[name])
    assert torch.equal(ours.codes, part(name, "codes"))
    if DOUBLE[name]:
        assert torch.equal(ours.scales, part(name, "scales"))
        torch.testing.assert_close(ours.offset, part(name, "offset"), rtol=1e-7, atol=0)
    else:
        assert torch.equal(ours.absmax, part(name, "absmax"))


@pytest.mark.parametrize("name", [name for name in BLOCKS if DOUBLE[name]])
def test_scales_in_8_bits_are_those_of_bitsandbytes_but_for_its_ties(name: str) -> None:
    """Its kernel for the CPU looks levels up in a table of 2¹⁶ entries, and so takes either of two that are as near."""
    ours, theirs = nf4.quantise(part(name, "weight"), BLOCKS[name]).absmax, part(name, "absmax")
    x = part(name, "weight").float().flatten()
    blocks = [x[at : at + BLOCKS[name]] for at in range(0, len(x), BLOCKS[name])]
    sizes = torch.stack([block.abs().max() for block in blocks])
    shares = (sizes - part(name, "offset")) / part(name, "scales")[torch.arange(len(sizes)) // 256]
    grid = torch.tensor(nf4.DYNAMIC)
    farther = (grid[theirs.int()] - shares).abs() - (grid[ours.int()] - shares).abs()
    assert farther.min() >= -1e-6, "ours must be the nearest"
    assert all(gap < 2**-14 for gap in farther[ours != theirs].tolist())
    assert (ours != theirs).float().mean() < 0.02


@each_case
def test_reading_what_bitsandbytes_packed_gives_what_it_reads(name: str) -> None:
    scales, offset = (THEIRS.get(f"{name}.{leaf}", torch.empty(0)) for leaf in ("scales", "offset"))
    theirs = nf4.Packed(part(name, "codes"), part(name, "absmax"), scales, offset)
    weight = part(name, "weight")
    assert torch.equal(nf4.dequantise(theirs, weight.shape, weight.dtype, BLOCKS[name]), part(name, "read"))


@pytest.mark.parametrize(("shape", "block"), [((5, 7), 4), ((4, 8), 8), ((3, 3), 64)])
def test_packing_is_a_search_for_the_nearest_level(shape: tuple[int, int], block: int) -> None:
    weight = torch.randn(shape)
    numbers, read = weight.flatten().tolist(), []
    for start in range(0, len(numbers), block):
        largest = max(map(abs, numbers[start : start + block]))
        read += [largest * min(LEVELS, key=lambda q, w=w: abs(q - w / largest)) for w in numbers[start : start + block]]
    ours = nf4.dequantise(nf4.quantise(weight, block, double=False), shape, torch.float32, block)
    torch.testing.assert_close(ours.flatten(), torch.tensor(read), rtol=1e-6, atol=0)


def test_what_was_read_packs_to_the_same_codes_again() -> None:
    weight = torch.randn(32, 64)
    once = nf4.quantise(weight, double=False)
    twice = nf4.quantise(nf4.dequantise(once, weight.shape, torch.float32), double=False)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize("double", [False, True])
def test_error_is_at_most_half_the_widest_gap_between_levels(double: bool) -> None:
    weight = torch.randn(64, 64)
    error = (nf4.dequantise(nf4.quantise(weight, double=double), weight.shape, torch.float32) - weight).abs()
    largest = weight.abs().amax(1)  # a row is a block here
    gap = max(b - a for a, b in itertools.pairwise(LEVELS))
    slack = 0.01 * largest if double else 1e-6  # what 8 bits lose of a scale
    assert (error <= (gap / 2 * largest + slack)[:, None]).all()
    assert (error > 0.9 * gap / 2 * largest[:, None]).any(), "the bound is tight"


def test_zeros_stay_zeros() -> None:
    for double in (False, True):
        assert not nf4.dequantise(nf4.quantise(torch.zeros(3, 50), double=double), (3, 50), torch.float32).any()


def test_weight_takes_four_bits_and_an_eighth() -> None:
    layer = packed(linear(1024, 512))
    stored = sum(t.numel() * t.itemsize for name, t in layer.state_dict().items() if name != "bias")
    assert stored * 8 / (1024 * 512) == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layer_computes_with_the_unpacked_weight_forwards_and_backwards(dtype: torch.dtype) -> None:
    layer = packed(linear(48, 40, dtype))
    x = torch.randn(2, 3, 48, dtype=dtype, requires_grad=True)
    weight = layer.weight
    assert (weight.dtype, weight.shape) == (dtype, (40, 48))
    y = layer(x)
    torch.testing.assert_close(y, nn.functional.linear(x, weight, layer.bias))
    g = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, x, g)[0], g @ weight)


def test_bias_may_train() -> None:
    layer = packed(linear(8, 6))
    layer.bias.requires_grad_(True)
    g = torch.randn(2, 3, 6)
    layer(torch.randn(2, 3, 8)).backward(g)
    torch.testing.assert_close(layer.bias.grad, g.sum((0, 1)))


def test_unpacked_weight_is_not_kept_for_the_backward_pass() -> None:
    layer = packed(linear(64, 64))
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        layer(torch.randn(2, 64, requires_grad=True)).sum()
    assert torch.Size([64, 64]) not in kept


def test_scales_keep_their_32_bits_when_the_model_is_cast() -> None:
    layer = packed(linear(64, 64))
    exact = layer.weight
    low = copy.deepcopy(layer).to(torch.bfloat16)
    assert (low.bias.dtype, low.weight.dtype) == (torch.bfloat16, torch.bfloat16)
    assert torch.equal(low.unpacked(torch.float32), exact)
    single = packed(linear(64, 64), double=False).to(torch.bfloat16)
    assert single.absmax.dtype == torch.float32


class Seen(TorchDispatchMode):
    """Notes the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "prim":  # questions, not work
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_dry_run_sees_one_operation_and_the_true_sizes() -> None:
    with FakeTensorMode():
        layer = packed(nn.Linear(4096, 11008, bias=False, dtype=torch.bfloat16))
        assert (layer.codes.shape, layer.codes.dtype) == ((4096 * 11008 // 2,), torch.uint8)
        assert (layer.absmax.shape, layer.absmax.dtype) == ((4096 * 11008 // 64,), torch.uint8)
        assert (layer.scales.shape, layer.scales.dtype) == ((4096 * 11008 // 64 // 256,), torch.float32)
        x = torch.empty(2, 4096, dtype=torch.bfloat16, requires_grad=True)
        with Seen() as seen:
            y = layer(x)
        assert (y.shape, y.dtype) == ((2, 11008), torch.bfloat16)
        assert seen.names == ["peft_atlas.dequantise_nf4.default", "aten.t.default", "aten.mm.default"]

"""NF4, a 4-bit type for weights: a codec, and a frozen linear layer that keeps its weight so.

A weight becomes, for each block of 64 numbers, one scale (the largest size in it) and for each number the nearest of 16
levels: quantiles of a normal distribution. Double quantisation stores the scales, less their mean, in 8 bits: in blocks
of 256, on a grid that is finer near zero. Bit by bit as in bitsandbytes (arXiv:2305.14314, section 3).
"""

from collections.abc import Sequence
from importlib import import_module, util
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reference_impls.parts.packed import PackedLinear

_SIDES = [[NormalDist().inv_cdf(p) for p in torch.linspace(0.9677083, 0.5, n)[:-1].tolist()] for n in (9, 8)]
_STRETCHED = torch.tensor(sorted([*_SIDES[0], 0.0, *(-q for q in _SIDES[1])]))
NORMAL: list[float] = (_STRETCHED / _STRETCHED.max()).tolist()  # 16 levels for weights, from -1 to 1
_MIDDLES = [10.0 ** (i - 6) * m for i in range(7) for m in torch.linspace(0.1, 1, 2**i + 1).unfold(0, 2, 1).mean(1)]
DYNAMIC: list[float] = sorted([0.0, 1.0, *(sign * float(m) for m in _MIDDLES for sign in (-1, 1))])  # 256, for scales
_SCALES = 256  # scales that share one scale of their own


class Packed(NamedTuple):
    """A weight of n numbers in 4 bits each, in N blocks; two codes share a byte, the first in its high half."""

    codes: Tensor  # uint8 (⌈n / 2⌉,)
    absmax: Tensor  # scales, uint8 (N,); without double quantisation float32, and what follows is empty
    scales: Tensor  # the scales' scales, float32 (⌈N / 256⌉,)
    offset: Tensor  # their mean, float32 ()


def _blocks(x: Tensor, size: int) -> Tensor:
    """Any shape -> (blocks, size); the last block is filled up with zeros."""
    missing = -x.numel() % size
    return (nn.functional.pad(x.flatten(), (0, missing)) if missing else x).reshape(-1, size)


def _nearest(x: Tensor, largest: Tensor, levels: Sequence[float]) -> Tensor:
    """Which level is nearest to each number (blocks, size) as a share of its block's ``largest`` (blocks,): uint8."""
    grid = torch.tensor(levels, device=x.device)
    shares = x * (1 / largest.clamp(min=1e-38))[:, None]
    return torch.bucketize(shares, (grid[:-1] + grid[1:]) / 2, out_int32=True).to(torch.uint8)


@torch.no_grad()
def quantise(weight: Tensor, block: int = 64, double: bool = True) -> Packed:
    """A weight of any shape and floating type, packed; ``double``: its scales in 8 bits."""
    x = _blocks(weight.float().contiguous(), block)
    absmax = x.abs().amax(1)  # (N,)
    codes = _nearest(x, absmax, NORMAL).flatten()[: weight.numel() + weight.numel() % 2]
    codes = codes[::2] << 4 | codes[1::2]
    if not double:
        return Packed(codes, absmax, absmax.new_empty(0), absmax.new_empty(0))
    rest = _blocks(absmax - absmax.mean(), _SCALES)
    scales = rest.abs().amax(1)
    return Packed(codes, _nearest(rest, scales, DYNAMIC).flatten()[: len(absmax)], scales, absmax.mean())


@torch.library.custom_op("peft_atlas::dequantise_nf4", mutates_args=())
def dequantise(packed: Sequence[Tensor], shape: Sequence[int], dtype: torch.dtype, block: int = 64) -> Tensor:
    """The weight of ``shape`` that ``packed`` stands for: a single operation, and a dry run counts it as such."""
    codes, absmax, scales, offset = packed
    if absmax.dtype == torch.uint8:
        dynamic = torch.tensor(DYNAMIC, device=codes.device)
        absmax = (_blocks(dynamic[absmax.int()], _SCALES) * scales[:, None]).flatten()[: len(absmax)] + offset
    if codes.is_cuda and util.find_spec("bitsandbytes"):  # its kernel needs no room for what lies between
        import_module("bitsandbytes")
        return torch.ops.bitsandbytes.dequantize_4bit(codes, absmax, block, "nf4", shape, dtype)
    normal = torch.tensor(NORMAL, device=codes.device)
    pairs = torch.cartesian_prod(normal, normal)[codes.int()]  # (⌈n / 2⌉, 2): the two numbers of each byte
    values = _blocks(pairs, block) * absmax[:, None]  # (N, block)
    return values.flatten()[: torch.Size(shape).numel()].view(shape).to(dtype)


dequantise.register_fake(lambda packed, shape, dtype, block=64: packed[0].new_empty(shape, dtype=dtype))


class NF4Linear(PackedLinear):
    """A frozen linear layer in 4 bits, computing in its input's type."""

    def __init__(self, layer: nn.Linear, packed: Packed, block: int = 64) -> None:
        super().__init__(layer, packed._asdict())
        self.block = block

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """W (d_out, d_in)."""
        packed = [self.codes, self.absmax, self.scales, self.offset]
        return dequantise(packed, [self.out_features, self.in_features], dtype, self.block)

    def packed(self, matrix: Tensor) -> dict[str, Tensor]:
        """The codes of ``matrix`` and their scales, in 8 bits if they are now."""
        return quantise(matrix, self.block, double=self.absmax.dtype == torch.uint8)._asdict()

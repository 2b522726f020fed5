"""Our codecs in 8 and 4 bits against bitsandbytes' own kernels for processors."""

import bitsandbytes  # noqa: F401 - its operations are called by name
import pytest
import torch
from torch import nn

from reference_impls.parts import int8, nf4
from tests.reference_impls.test_int8 import with_outliers

OPS = torch.ops.bitsandbytes


def test_codes_and_scales_in_eight_bits_are_the_same() -> None:
    weight = torch.randn(20, 48)
    codes, scales = int8.quantise(weight)
    theirs, their_scales, _ = OPS.int8_vectorwise_quant(weight.half())
    assert torch.equal(codes, theirs)
    assert torch.equal(scales, their_scales)
    unpacked = int8.dequantise(codes, scales, torch.float32)
    torch.testing.assert_close(unpacked, OPS.int8_vectorwise_dequant(theirs, scales))


@pytest.mark.parametrize("rows", [2, 7])
def test_rows_with_outliers_are_rounded_alike(rows: int) -> None:
    x = with_outliers(rows)
    codes, scales = int8.rounded(x, int8.THRESHOLD)
    theirs, their_scales, columns = OPS.int8_vectorwise_quant(x.clone(), int8.THRESHOLD)
    assert columns.tolist() == [3, 17]
    codes[:, columns] = 0
    assert torch.equal(codes, theirs)
    assert torch.equal(scales, their_scales)


@pytest.mark.parametrize("outliers", [False, True])
def test_products_in_eight_bits_are_the_same(outliers: bool) -> None:
    plain = nn.Linear(48, 20, bias=False)
    layer = int8.Int8Linear(plain, int8.quantise(plain.weight))
    x = with_outliers(7) if outliers else torch.randn(7, 48).half()
    theirs, scales, columns = OPS.int8_vectorwise_quant(x.clone(), int8.THRESHOLD)
    wanted, _ = OPS.int8_mixed_scaled_mm(x, theirs, layer.codes, scales, layer.scales, columns)
    torch.testing.assert_close(layer(x), wanted, rtol=2e-3, atol=2e-3)  # a number in float16, rounded twice


def test_four_bits_are_read_alike() -> None:
    weight = torch.randn(32, 64)
    ours = nf4.quantise(weight, double=False)
    theirs = OPS.dequantize_4bit(ours.codes, ours.absmax, 64, "nf4", (32, 64), torch.float32)
    assert torch.equal(theirs, nf4.dequantise(ours, (32, 64), torch.float32))

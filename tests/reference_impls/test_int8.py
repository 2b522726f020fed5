"""LLM.int8(): what rounding costs, what outliers are for, and what the layer keeps; ``tests/stored`` has bitsandbytes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reference_impls.parts.int8 import Int8Linear, dequantise, quantise


def layer(d_in: int = 48, d_out: int = 20, bias: bool = False) -> tuple[nn.Linear, Int8Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(d_in, d_out, bias=bias)
    return plain, Int8Linear(plain, quantise(plain.weight))


def with_outliers(rows: int, columns: int = 48) -> Tensor:
    """Rows in float16 of which the first and the last have a number of more than 6."""
    x = torch.randn(rows, columns).half()
    x[0, 3], x[-1, 17] = 9.0, -7.5
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_is_that_of_the_matrix_but_for_rounding(dtype: torch.dtype) -> None:
    plain, packed = layer(bias=True)
    x = torch.randn(3, 5, 48).to(dtype)
    found, wanted = packed(x), plain.to(dtype)(x)
    assert found.dtype == dtype
    assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_outliers_keep_the_product_as_good_as_it_is_without_them() -> None:
    plain, packed = layer()
    x = torch.randn(7, 48)
    x[:, 3] *= 400

    def missed() -> float:
        return float((packed(x) - plain(x)).abs().max() / plain(x).abs().max())

    best = missed()
    packed.outliers = lambda found: found.new_empty(0, dtype=torch.long)
    assert best < 0.005
    assert missed() > 5 * best


def test_gradient_of_the_input_is_that_of_the_unpacked_matrix_and_nothing_is_kept_for_it() -> None:
    _, packed = layer(bias=True)
    x = torch.randn(3, 5, 48, requires_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = packed(x)
    assert kept == []
    g = torch.randn_like(out)
    out.backward(g)
    torch.testing.assert_close(x.grad, g @ packed.weight)
    torch.testing.assert_close(packed.bias.grad, g.sum((0, 1)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_no_number_is_further_off_than_half_a_step_of_its_row(rows: int, columns: int, dtype: torch.dtype) -> None:
    torch.manual_seed(rows * 100 + columns)
    weight = torch.randn(rows, columns).to(dtype)
    codes, scales = quantise(weight)
    off = (dequantise(codes, scales, torch.float32) - weight.float()).abs()
    assert (off <= scales[:, None] * (0.5 / 127 + 1e-3)).all()  # what float16 rounds comes on top


def test_a_row_of_zeros_stays_one() -> None:
    codes, scales = quantise(torch.zeros(2, 8))
    assert not codes.any()
    assert not dequantise(codes, scales, torch.float32).any()


def test_a_cast_of_the_model_leaves_codes_and_scales_alone_and_writing_packs_anew() -> None:
    _, packed = layer()
    packed = packed.to(torch.bfloat16)
    assert (packed.codes.dtype, packed.scales.dtype, packed.weight.dtype) == (torch.int8, torch.float32, torch.bfloat16)
    packed.weight = torch.ones(20, 48)
    assert torch.equal(packed.weight, torch.ones(20, 48, dtype=torch.bfloat16))

"""SSB against its equation in float64, against a singular value decomposition, and against the methods it contains."""

import copy

import pytest
import torch
from torch import nn

from reference_impls import ia3, ssb, ssl


def scaled(bias: bool = True) -> ssb.SSBLinear:
    layer = ssb.SSBLinear(nn.Linear(6, 5, bias=bias).double())
    for p in (layer.l, layer.t):
        nn.init.normal_(p)
    return layer


@pytest.mark.parametrize("bias", [True, False])
def test_forward_is_the_papers_equation(bias: bool) -> None:
    layer, x = scaled(bias), torch.randn(2, 4, 6, dtype=torch.float64)
    weight = torch.einsum("o,oi,i->oi", layer.t, layer.base.weight, layer.l)
    expected = torch.einsum("bti,oi->bto", x, weight)
    expected = expected + layer.base.bias if bias else expected
    torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_both_vectors_fold_into_the_weight_and_the_bias_stays(bias: bool) -> None:
    layer, x = scaled(bias), torch.randn(4, 6, dtype=torch.float64)
    expected = layer(x)
    merged = copy.deepcopy(layer).merged()
    torch.testing.assert_close(merged(x), expected, rtol=1e-11, atol=1e-12)
    if bias:
        assert torch.equal(merged.bias, layer.base.bias)


def test_both_sets_of_singular_vectors_are_rescaled_and_the_values_stay() -> None:
    layer = scaled()
    u, sigma, vh = torch.linalg.svd(layer.base.weight, full_matrices=False)
    expected = (layer.t[:, None] * u) @ torch.diag(sigma) @ (vh * layer.l)
    torch.testing.assert_close(copy.deepcopy(layer).merged().weight, expected, rtol=1e-11, atol=1e-12)


def test_it_contains_ssl_and_on_layers_without_bias_ia3() -> None:
    layer, x = scaled(bias=False), torch.randn(4, 6, dtype=torch.float64)
    outputs, inputs = ia3.ScaledOutput(layer.base), ssl.attach(nn.ModuleDict({"q": layer.base}), ssl.Config("q")).q
    with torch.no_grad():
        outputs.l.copy_(layer.t)
        inputs.l.copy_(layer.l)
        torch.testing.assert_close(layer(x), outputs.l * inputs(x), rtol=1e-11, atol=1e-12)
        layer.l.fill_(1)
        torch.testing.assert_close(layer(x), outputs(x), rtol=1e-11, atol=1e-12)


def test_scales_start_at_one_and_both_get_a_gradient() -> None:
    layer = ssb.SSBLinear(nn.Linear(6, 5))
    assert torch.equal(layer.l, torch.ones(6))
    assert torch.equal(layer.t, torch.ones(5))
    layer(torch.randn(3, 6)).square().sum().backward()
    assert layer.l.grad.abs().min() > 0
    assert layer.t.grad.abs().min() > 0

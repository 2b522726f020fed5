"""rsLoRA against its equation, in float64, and the size of its change at every rank."""

import copy

import pytest
import torch
from torch import nn

from reference_impls import lora, rslora


@pytest.fixture
def layer() -> rslora.RsLoRALinear:
    layer = rslora.RsLoRALinear(nn.Linear(6, 5).double(), rank=3, alpha=12.0).double()
    for p in (layer.A, layer.B):
        nn.init.normal_(p)
    return layer


def test_forward_is_the_papers_equation(layer: rslora.RsLoRALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    change = torch.einsum("or,ri->oi", layer.B, layer.A) * 12.0 / 3**0.5
    expected = torch.einsum("bti,oi->bto", x, layer.base.weight + change) + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_merge_changes_no_output(layer: rslora.RsLoRALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-12, atol=1e-12)


def first_step(kind: type[lora.LoRALinear], rank: int) -> float:
    """How far one step of gradient descent on B moves the output of a layer for one input: a mean over layers."""
    torch.manual_seed(1)
    distances = []
    for _ in range(50):
        layer = kind(nn.Linear(256, 256, bias=False), rank, 16.0)
        x, direction = torch.randn(1, 256), torch.randn(1, 256)
        before = layer(x)
        (before * direction).sum().backward()
        with torch.no_grad():
            layer.B -= 1e-3 * layer.B.grad
            distances.append((layer(x) - before).norm().item())
    return sum(distances) / len(distances)


def test_step_moves_the_output_equally_far_at_every_rank() -> None:
    assert first_step(rslora.RsLoRALinear, 256) == pytest.approx(first_step(rslora.RsLoRALinear, 16), rel=0.1)
    assert first_step(lora.LoRALinear, 256) == pytest.approx(first_step(lora.LoRALinear, 16) / 16, rel=0.1)


def test_default_scale_is_one() -> None:
    config = rslora.Config()
    assert rslora.RsLoRALinear(nn.Linear(300, 256), config.rank, config.alpha).scale == 1.0

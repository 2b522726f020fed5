"""LoKr against the definition of the Kronecker product, number by number in float64."""

import copy

import pytest
import torch
from torch import nn

from reference_impls import lokr


@pytest.fixture
def layer() -> lokr.LoKrLinear:
    layer = lokr.LoKrLinear(nn.Linear(12, 15).double(), factor=3, rank=2, alpha=5.0)
    for p in (layer.A, layer.B, layer.C):
        nn.init.normal_(p)
    return layer


def test_forward_is_the_papers_equation(layer: lokr.LoKrLinear) -> None:
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    weight = layer.base.weight.detach().clone()
    for row in range(15):
        for column in range(12):
            tile = sum(layer.B[row % 5, i].item() * layer.A[i, column % 4].item() for i in range(2))
            weight[row, column] += 5.0 / 2 * layer.C[row // 5, column // 4].item() * tile
    torch.testing.assert_close(layer(x), x @ weight.T + layer.base.bias, rtol=1e-12, atol=1e-12)


def test_merge_changes_no_output(layer: lokr.LoKrLinear) -> None:
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-12, atol=1e-12)


def test_rank_of_the_change_is_factor_times_rank(layer: lokr.LoKrLinear) -> None:
    before = layer.base.weight.clone()
    assert torch.linalg.matrix_rank(layer.merged().weight - before) == 3 * 2


def test_product_is_never_formed() -> None:
    layer, saved = lokr.LoKrLinear(nn.Linear(64, 48, bias=False), factor=4, rank=2, alpha=2.0), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(1, 64, requires_grad=True))
    ours = [
        t.numel() for t in saved if t.untyped_storage().data_ptr() != layer.base.weight.untyped_storage().data_ptr()
    ]
    assert max(ours) <= 64


def test_start_is_zero_for_a_and_random_for_the_others() -> None:
    layer = lokr.LoKrLinear(nn.Linear(400, 800), factor=8, rank=5, alpha=1.0)
    assert torch.equal(layer.A, torch.zeros(5, 50))
    for parameter, fan_in in ((layer.B, 5), (layer.C, 8)):
        assert 0.9 / fan_in**0.5 < parameter.abs().max() <= 1 / fan_in**0.5  # uniform in ±1/√fan_in


@pytest.mark.parametrize("factor", [0, -1, 2, 4, 5])
def test_factor_that_does_not_divide_is_refused(factor: int) -> None:
    with pytest.raises(ValueError, match=f"factor {factor} does not divide a 15 x 12 matrix"):
        lokr.LoKrLinear(nn.Linear(12, 15), factor=factor, rank=1, alpha=1.0)


@pytest.mark.parametrize("rank", [0, 5])
def test_rank_that_exceeds_a_tile_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} does not fit a tile of 5 x 4"):
        lokr.LoKrLinear(nn.Linear(12, 15), factor=3, rank=rank, alpha=1.0)

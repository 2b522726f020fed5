"""LoHa against its equation, entry by entry in float64."""

import copy

import pytest
import torch
from torch import nn

from reference_impls import loha


@pytest.fixture
def layer() -> loha.LoHaLinear:
    layer = loha.LoHaLinear(nn.Linear(12, 10).double(), rank=3, alpha=12.0)
    for p in (layer.A1, layer.A2, layer.B1, layer.B2):
        nn.init.normal_(p)
    return layer


def test_forward_is_the_papers_equation(layer: loha.LoHaLinear) -> None:
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    weight = layer.base.weight.detach().clone()
    for row in range(10):
        for column in range(12):
            first = sum(layer.B1[row, i].item() * layer.A1[i, column].item() for i in range(3))
            second = sum(layer.B2[row, i].item() * layer.A2[i, column].item() for i in range(3))
            weight[row, column] += 12.0 / 3 * first * second
    torch.testing.assert_close(layer(x), x @ weight.T + layer.base.bias, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_dense_change(layer: loha.LoHaLinear) -> None:
    x, g = torch.randn(4, 12, dtype=torch.float64), torch.randn(4, 10, dtype=torch.float64)
    parameters = (layer.A1, layer.A2, layer.B1, layer.B2)
    ours = torch.autograd.grad((layer(x) * g).sum(), parameters)
    dense = 4.0 * (layer.B1 @ layer.A1) * (layer.B2 @ layer.A2)
    expected = torch.autograd.grad((x @ dense.T * g).sum(), parameters)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_merge_changes_no_output(layer: loha.LoHaLinear) -> None:
    x = torch.randn(2, 4, 12, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-12, atol=1e-12)


def test_rank_of_the_change_is_the_square_of_the_rank(layer: loha.LoHaLinear) -> None:
    before = layer.base.weight.clone()
    assert torch.linalg.matrix_rank(layer.merged().weight - before) == 9


def test_change_is_never_formed() -> None:
    layer, saved = loha.LoHaLinear(nn.Linear(64, 48, bias=False), rank=2, alpha=2.0), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(1, 64, requires_grad=True))
    ours = [
        t.numel() for t in saved if t.untyped_storage().data_ptr() != layer.base.weight.untyped_storage().data_ptr()
    ]
    assert max(ours) <= 4 * 64


def test_start_is_as_in_the_official_code() -> None:
    layer = loha.LoHaLinear(nn.Linear(500, 400), rank=4, alpha=1.0)
    assert torch.equal(layer.B2, torch.zeros(400, 4))
    for parameter, std in ((layer.A1, 1.0), (layer.A2, 1.0), (layer.B1, 0.1)):
        assert parameter.std().item() == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize("rank", [0, -1, 11])
def test_impossible_rank_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} does not fit a 10 x 12 matrix"):
        loha.LoHaLinear(nn.Linear(12, 10), rank=rank, alpha=1.0)

"""MiSS against its equation, in float64, with pieces that divide the input and pieces that do not."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import miss

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]


@pytest.fixture(params=[3, 4, 5, 12], ids=lambda rank: f"pieces-of-{rank}")
def layer(request: pytest.FixtureRequest) -> miss.MiSSLinear:
    layer = miss.MiSSLinear(nn.Linear(12, 7).double(), request.param).double()
    nn.init.normal_(layer.D)
    return layer


def test_forward_is_the_papers_equation(layer: miss.MiSSLinear) -> None:
    x = torch.randn(2, 3, 12, dtype=torch.float64)
    expected = layer.base(x)
    for i in range(12):  # input i meets row i mod r of D
        expected = expected + x[..., i, None] * layer.D[i % len(layer.D)]
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_merge_changes_no_output(layer: miss.MiSSLinear) -> None:
    x = torch.randn(2, 3, 12, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-12, atol=1e-12)


def test_rank_of_the_change_is_that_of_d() -> None:
    layer = miss.MiSSLinear(nn.Linear(24, 16), 8)
    nn.init.normal_(layer.D)
    before = layer.weight.clone()
    assert torch.linalg.matrix_rank(layer.merged().weight - before, rtol=1e-5) == 8


def test_the_whole_input_is_not_kept_for_the_backward_pass() -> None:
    layer = miss.MiSSLinear(nn.Linear(40, 50).requires_grad_(False), 8)
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor is not layer.weight and tensor.data_ptr() not in {p.data_ptr() for p in layer.parameters()}:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(4, 40, requires_grad=True))
    assert kept == [4 * 8]


@pytest.mark.parametrize("rank", [0, -1, 65])
def test_impossible_piece_is_refused(rank: int, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=f"rank {rank}"):
        miss.attach(model, miss.Config(rank=rank))
    assert all(p.requires_grad for p in model.parameters())

"""LoRETTA_rep against its equation in float64: every entry of the trains is a product of slices."""

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from reference_impls import loretta_rep


def entries(train: loretta_rep.TensorTrain) -> Tensor:
    """The matrix, entry by entry."""
    cores = [core.detach() for core in train.cores]
    indices = itertools.product(*(range(core.shape[1]) for core in cores))
    flat = []
    for index in itertools.islice(indices, math.prod(train.shape)):
        product = torch.ones(1, 1, dtype=torch.float64)
        for core, i in zip(cores, index, strict=True):
            product = product @ core[:, i, :]
        flat.append(product.item())
    return torch.tensor(flat, dtype=torch.float64).view(train.shape)


@pytest.fixture(params=[(16, 24), (20, 13)], ids=["whole", "with_unused_entries"])
def layer(request: pytest.FixtureRequest) -> loretta_rep.LoRETTALinear:
    base = nn.Linear(*request.param).double()
    layer = loretta_rep.LoRETTALinear(base, loretta_rep.Config(rank=4, tensor_rank=3, alpha=10.0))
    for p in (*layer.G.parameters(), *layer.H.parameters()):
        nn.init.normal_(p)
    return layer


def test_forward_is_the_papers_equation(layer: loretta_rep.LoRETTALinear) -> None:
    x = torch.randn(2, 3, layer.in_features, dtype=torch.float64)
    A, B = entries(layer.G).T, entries(layer.H).T
    expected = x @ layer.base.weight.T + layer.base.bias + 2.5 * x @ A.T @ B.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_merge_changes_no_output(layer: loretta_rep.LoRETTALinear) -> None:
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-10, atol=1e-10)


def test_every_core_gets_a_gradient_at_the_first_step() -> None:
    layer = loretta_rep.LoRETTALinear(nn.Linear(64, 64), loretta_rep.Config())
    layer(torch.randn(3, 64)).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in (*layer.G.parameters(), *layer.H.parameters()))


@pytest.mark.parametrize("rank", [1, 5])
def test_matrix_starts_with_the_spread_of_a_linear_layer(rank: int) -> None:
    squares = [
        loretta_rep.TensorTrain(torch.empty(1), 64, 8, rank).matrix().detach().square().mean() for _ in range(400)
    ]
    assert torch.stack(squares).mean().item() == pytest.approx(1 / 72, rel=0.35)


@pytest.mark.parametrize(
    ("n", "modes"),
    [
        (5, [5]),
        (64, [8, 8]),
        (256, [8, 32]),
        (511, [8, 64]),
        (512, [8, 8, 8]),
        (6144, [8, 8, 8, 12]),
        (6145, [8, 8, 8, 13]),
    ],
)
def test_modes_are_eights_and_what_is_left(n: int, modes: list[int]) -> None:
    assert loretta_rep.modes_of(n) == modes


def test_number_of_cores_entries_for_a_wide_matrix() -> None:
    train = loretta_rep.TensorTrain(torch.empty(1), 4096, 8, 5)
    assert sum(p.numel() for p in train.parameters()) == 680
    assert train.matrix().shape == (4096, 8)


@pytest.mark.parametrize(("field", "value"), [("rank", 0), ("rank", 65), ("tensor_rank", 0)])
def test_impossible_ranks_are_refused(field: str, value: int) -> None:
    model = nn.ModuleDict({"query": nn.Linear(64, 64)})
    with pytest.raises(ValueError, match=str(value)):
        loretta_rep.attach(model, loretta_rep.Config(**{field: value}))
    assert all(p.requires_grad for p in model.parameters())

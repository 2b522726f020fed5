"""BOFT against its equation, with permutation matrices and explicit inverses in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from reference_impls import boft

D, B, M = 32, 4, 3


@pytest.fixture
def layer() -> boft.BOFTLinear:
    layer = boft.BOFTLinear(nn.Linear(D, 10).double(), factors=M, block_size=B)
    nn.init.normal_(layer.q)
    return layer


def factor(layer: boft.BOFTLinear, i: int) -> Tensor:
    """B_i (d_in, d_in): each block is written where its two pieces are, which is what P_i does."""
    out = torch.zeros(D, D, dtype=torch.float64)
    pieces, distance, half = D // (B // 2), 2 ** (i - 1), B // 2
    pairs = [(p, p + distance) for p in range(pieces) if p // distance % 2 == 0]
    for block, (left, right) in enumerate(pairs):
        Q, numbers = torch.zeros(B, B, dtype=torch.float64), iter(layer.q[i - 1, block].tolist())
        for row in range(B):
            for column in range(row + 1, B):
                Q[row, column] = next(numbers)
                Q[column, row] = -Q[row, column]
        eye = torch.eye(B, dtype=torch.float64)
        R = (eye + Q) @ torch.inverse(eye - Q)
        where = [*range(left * half, (left + 1) * half), *range(right * half, (right + 1) * half)]
        for row in range(B):
            for column in range(B):
                out[where[row], where[column]] = R[row, column]
    return out


def test_forward_is_the_papers_equation(layer: boft.BOFTLinear) -> None:
    R = factor(layer, 3) @ factor(layer, 2) @ factor(layer, 1)
    x = torch.randn(2, 4, D, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ R @ layer.base.weight.T + layer.base.bias, rtol=1e-10, atol=1e-10)


def test_merge_changes_no_output(layer: boft.BOFTLinear) -> None:
    x = torch.randn(2, 4, D, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-11, atol=1e-11)


def test_rows_keep_their_lengths_and_angles(layer: boft.BOFTLinear) -> None:
    before = layer.base.weight.detach().clone()
    after = layer.merged().weight
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after @ after.T, before @ before.T, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("factors", "reached"), [(1, 4), (2, 8), (3, 16), (4, 32)])
def test_each_factor_doubles_what_a_coordinate_reaches(factors: int, reached: int) -> None:
    layer = boft.BOFTLinear(nn.Linear(D, D, bias=False).double(), factors, B)
    nn.init.normal_(layer.q)
    nn.init.eye_(layer.base.weight)
    rotation = layer(torch.eye(D, dtype=torch.float64))
    assert ((rotation.abs() > 1e-12).sum(dim=1) == reached).all()


def test_one_factor_is_oft() -> None:
    layer = boft.BOFTLinear(nn.Linear(D, 10).double(), factors=1, block_size=8)
    nn.init.normal_(layer.q)
    twin = boft.cayley(boft.skew(layer.q[0], 8))
    x = torch.randn(3, D, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.base(boft.turn(x, twin)))


@pytest.mark.parametrize(("factors", "size"), [(0, 4), (5, 4), (2, 3), (1, 5), (2, 32), (1, 0)])
def test_butterfly_that_does_not_fit_is_refused(factors: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"{factors} factors with blocks of {size} do not make a butterfly"):
        boft.BOFTLinear(nn.Linear(D, 10), factors, size)

"""OFT against its equation, with whole matrices and explicit inverses in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import oft
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]
B, K = 4, 3


@pytest.fixture
def layer() -> oft.OFTLinear:
    layer = oft.OFTLinear(nn.Linear(B * K, 10).double(), oft.Config(block_size=B))
    nn.init.normal_(layer.q)
    return layer


def rotation(layer: oft.OFTLinear) -> Tensor:
    """R (d_in, d_in), entry by entry from the trained numbers."""
    R = torch.zeros(B * K, B * K, dtype=torch.float64)
    for block in range(K):
        Q, numbers = torch.zeros(B, B, dtype=torch.float64), iter(layer.q[block].tolist())
        for row in range(B):
            for column in range(row + 1, B):
                Q[row, column] = next(numbers)
                Q[column, row] = -Q[row, column]
        eye = torch.eye(B, dtype=torch.float64)
        R[B * block : B * block + B, B * block : B * block + B] = (eye + Q) @ torch.inverse(eye - Q)
    return R


def test_forward_is_the_papers_equation(layer: oft.OFTLinear) -> None:
    x = torch.randn(2, 4, B * K, dtype=torch.float64)
    expected = x @ rotation(layer) @ layer.base.weight.T + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-11)


def test_merge_changes_no_output(layer: oft.OFTLinear) -> None:
    x = torch.randn(2, 4, B * K, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-11, atol=1e-11)


def test_rows_keep_their_lengths_and_angles(layer: oft.OFTLinear) -> None:
    before = layer.base.weight.detach().clone()
    after = layer.merged().weight
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after @ after.T, before @ before.T, rtol=1e-11, atol=1e-11)


def test_blocks_keep_to_themselves(layer: oft.OFTLinear) -> None:
    x = torch.zeros(1, B * K, dtype=torch.float64)
    x[0, B] = 1.0
    turned = oft.turn(x, layer.rotation())
    assert turned[0, B : 2 * B].abs().min() > 0
    assert not turned[0, :B].any()
    assert not turned[0, 2 * B :].any()


def test_blocks_are_as_many_numbers_as_the_papers_example() -> None:
    layer = oft.OFTLinear(nn.Linear(128, 128), oft.Config(block_size=16))  # section 3.3: 8 blocks of 128 x 128
    assert layer.q.numel() == 960


def test_rotation_of_a_half_precision_layer_is_orthogonal_to_its_precision() -> None:
    layer = oft.OFTLinear(nn.Linear(64, 8, dtype=torch.bfloat16), oft.Config())
    nn.init.normal_(layer.q, std=0.2)
    R = layer.rotation()
    assert R.dtype == torch.bfloat16
    torch.testing.assert_close((R.mT @ R).float(), torch.eye(32).expand(2, 32, 32), rtol=0, atol=0.02)


def test_constrained_variant_stays_in_its_ball(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("llama")
    config = oft.Config(constrained=True, epsilon=1e-3)
    adapted = randomise(oft.attach(model, config))
    layers = [layer for _, layer in instances(adapted, oft.OFTLinear)]
    with torch.no_grad():
        layers[0].q[0] *= 1e-3  # shorter than the radius: stays as it is
    before = [layer.q.clone() for layer in layers]
    oft.step(adapted, 1, 10)
    radius = 1e-3 * 32**2 / 2**0.5  # ε b² / √k
    for layer, old in zip(layers, before, strict=True):
        for Q, q, was in zip(oft.skew(layer.q, 32), layer.q, old, strict=True):
            assert Q.norm() <= radius * (1 + 1e-5)
            torch.testing.assert_close(q / q.norm(), was / was.norm())
    assert torch.equal(layers[0].q[0], before[0][0])
    assert oft.skew(layers[0].q, 32)[1].norm().item() == pytest.approx(radius, rel=1e-5)


def test_step_leaves_the_plain_variant_alone(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("llama")
    adapted = randomise(oft.attach(model))
    before = [layer.q.clone() for _, layer in instances(adapted, oft.OFTLinear)]
    oft.step(adapted, 1, 10)
    assert all(torch.equal(layer.q, q) for (_, layer), q in zip(instances(adapted, oft.OFTLinear), before, strict=True))


def test_step_at_the_identity_gives_no_nan(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    adapted = oft.attach(model, oft.Config(constrained=True))
    oft.step(adapted, 1, 10)
    assert all(not layer.q.any() for _, layer in instances(adapted, oft.OFTLinear))


@pytest.mark.parametrize("size", [0, 1, 5, 24])
def test_block_size_that_does_not_divide_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"blocks of {size} do not divide the input width 12"):
        oft.OFTLinear(nn.Linear(12, 10), oft.Config(block_size=size))


def test_empty_ball_is_refused() -> None:
    with pytest.raises(ValueError, match="epsilon 0 leaves"):
        oft.OFTLinear(nn.Linear(12, 10), oft.Config(block_size=4, constrained=True, epsilon=0))

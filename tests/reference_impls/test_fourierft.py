"""FourierFT against the cosine sum, term by term in float64."""

import copy
import gc
import math
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import fourierft
from reference_impls.training.checkpoint import adapter_state

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
CONFIG = fourierft.Config(coefficients=7, scale=20.0)


@pytest.fixture
def layer() -> fourierft.FourierFTLinear:
    layer = fourierft.FourierFTLinear(nn.Linear(6, 5).double(), CONFIG)
    nn.init.normal_(layer.c)
    return layer


def basis(layer: fourierft.FourierFTLinear) -> Tensor:
    """What each coefficient contributes: (n, d_out, d_in)."""
    out = torch.zeros(7, 5, 6, dtype=torch.float64)
    for term, position in enumerate(layer.positions.tolist()):
        u, v = position // 6, position % 6
        for p in range(5):
            for q in range(6):
                out[term, p, q] = 20.0 / 30 * math.cos(2 * math.pi * (p * u / 5 + q * v / 6))
    return out


def test_forward_is_the_papers_equation(layer: fourierft.FourierFTLinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    change = torch.einsum("l,lpq->pq", layer.c, basis(layer))
    expected = x @ (layer.base.weight + change).T + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-11)


def test_gradient_of_the_coefficients_is_the_same_transform(layer: fourierft.FourierFTLinear) -> None:
    x, g = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    (layer(x) * g).sum().backward()
    of_the_weight = g.T @ x
    torch.testing.assert_close(layer.c.grad, torch.einsum("pq,lpq->l", of_the_weight, basis(layer)))
    transformed = 20.0 * torch.fft.ifft2(of_the_weight).real.flatten()[layer.positions]
    torch.testing.assert_close(layer.c.grad, transformed)


def test_merge_changes_no_output(layer: fourierft.FourierFTLinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-12, atol=1e-12)


def test_change_does_not_wait_for_the_backward_pass(
    layer: fourierft.FourierFTLinear, monkeypatch: pytest.MonkeyPatch
) -> None:
    formed: list[weakref.ref[Tensor]] = []
    original = fourierft.FourierFTLinear.change

    def spy(self: fourierft.FourierFTLinear) -> Tensor:
        change = original(self)
        formed.append(weakref.ref(change))
        return change

    monkeypatch.setattr(fourierft.FourierFTLinear, "change", spy)
    loss = layer(torch.randn(3, 6, dtype=torch.float64)).sum()
    gc.collect()
    assert [matrix() for matrix in formed] == [None]
    loss.backward()
    assert len(formed) == 2, "formed again in the backward pass"


def test_positions_are_distinct_shared_by_a_shape_and_drawn_from_the_seed() -> None:
    def positions(d_out: int, seed: int) -> list[int]:
        return fourierft.FourierFTLinear(nn.Linear(6, d_out), fourierft.Config(7, seed=seed)).positions.tolist()

    assert len(set(positions(5, 1))) == 7
    assert max(positions(5, 1)) < 30
    assert positions(5, 1) == positions(5, 1)
    assert positions(5, 1) != positions(5, 2)
    assert positions(5, 1) != positions(8, 1)


def test_coefficients_start_as_standard_normal_numbers() -> None:
    layer = fourierft.FourierFTLinear(nn.Linear(100, 100), fourierft.Config(coefficients=4000))
    assert layer.c.mean().item() == pytest.approx(0, abs=0.06)
    assert layer.c.std().item() == pytest.approx(1, abs=0.05)


def test_only_coefficients_are_saved(make_tiny: MakeTiny) -> None:
    adapted = fourierft.attach(make_tiny("llama")[0], CONFIG)
    assert {name.rpartition(".")[2] for name in adapter_state(adapted)} == {"c"}


@pytest.mark.parametrize("coefficients", [0, -1, 31])
def test_impossible_number_of_coefficients_is_refused(coefficients: int) -> None:
    with pytest.raises(ValueError, match=f"{coefficients} coefficients do not fit a 5 x 6 matrix"):
        fourierft.FourierFTLinear(nn.Linear(6, 5), fourierft.Config(coefficients))

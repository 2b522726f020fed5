"""Compacter against its equation, in float64: Kronecker products formed in full."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import compacter
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]


def matrix(layer: compacter.PHMLinear) -> Tensor:
    """Σᵢ Aᵢ ⊗ (sᵢ tᵢ), (d_in, d_out)."""
    return sum(torch.kron(A, s @ t) for A, s, t in zip(layer.rule.A, layer.s, layer.t, strict=True))


@pytest.mark.parametrize("rank", [1, 2])
def test_forward_is_the_papers_equation(rank: int) -> None:
    rule = compacter.Rule(torch.empty(1, dtype=torch.float64), 3)
    adapter = compacter.Adapter(rule, d=12, m=6, rank=rank)
    base = nn.Linear(5, 12).double()
    layer = compacter.AfterSublayer(base, adapter)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    h = base(x)
    inner = h @ matrix(adapter.down) + adapter.down.b
    inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    torch.testing.assert_close(layer(x), h + inner @ matrix(adapter.up) + adapter.up.b, rtol=1e-11, atol=1e-11)


def test_rank_of_a_matrix_may_exceed_the_rank_of_its_factors() -> None:
    layer = compacter.PHMLinear(compacter.Rule(torch.empty(1), 4), 16, 8, rank=1)
    nn.init.normal_(layer.rule.A)
    assert torch.linalg.matrix_rank(matrix(layer)) == 8


def test_all_adapters_share_one_rule(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("t5")
    compacter.attach(model)
    layers = [layer for _, layer in instances(model, compacter.PHMLinear)]
    assert len(layers) == 16
    assert len({id(layer.rule) for layer in layers}) == 1


def test_start_is_as_in_the_official_code() -> None:
    layer = compacter.PHMLinear(compacter.Rule(torch.empty(1), 8), 800, 80, rank=1)
    assert 0.008 < layer.rule.A.std() < 0.012
    assert not layer.b.any()
    bound = 2**0.5 * (6 / (100 + 1)) ** 0.5  # Glorot's for (100, 1), times the gain
    assert 0.9 * bound < layer.s.abs().max() <= bound


@pytest.mark.parametrize(("d", "m"), [(1024, 32), (768, 24), (64, 4), (800, 24)])
def test_bottleneck_is_a_multiple_of_the_factors(d: int, m: int) -> None:
    assert compacter.bottleneck(d, compacter.Config()) == m


@pytest.mark.parametrize("config", [compacter.Config(factors=5), compacter.Config(rank=0), compacter.Config(factors=0)])
def test_impossible_factors_are_refused(config: compacter.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=r"do not make|at least 1"):
        compacter.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())


def test_norms_train_on_request(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    compacter.attach(model, compacter.Config(train_norms=True))
    assert all(p.requires_grad for name, p in model.named_parameters() if "norm" in name)

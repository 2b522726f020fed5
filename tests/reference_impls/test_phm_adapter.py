"""The PHM adapter against its equation, in float64: Kronecker products formed in full."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import phm_adapter
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]


def matrix(layer: phm_adapter.PHMLinear) -> Tensor:
    """Σᵢ Aᵢ ⊗ Bᵢ, (d_in, d_out)."""
    return sum(torch.kron(A, B) for A, B in zip(layer.rule.A, layer.B, strict=True))


def test_forward_is_the_papers_equation() -> None:
    like = torch.empty(1, dtype=torch.float64)
    base = nn.Linear(5, 12).double()
    layer = phm_adapter.AfterSublayer(base, phm_adapter.Adapter(like, d=12, m=6, n=3))
    adapter = layer.adapter
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    h = base(x)
    inner = h @ matrix(adapter.down) + adapter.down.b
    inner = 0.5 * inner * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    torch.testing.assert_close(layer(x), h + inner @ matrix(adapter.up) + adapter.up.b, rtol=1e-11, atol=1e-11)


def test_matrix_has_full_rank_and_an_nth_of_the_numbers() -> None:
    layer = phm_adapter.PHMLinear(torch.empty(1), 64, 32, 4)
    nn.init.normal_(layer.rule.A)
    assert torch.linalg.matrix_rank(matrix(layer)) == 32
    assert layer.rule.A.numel() + layer.B.numel() == 4**3 + 64 * 32 // 4


def test_every_matrix_has_factors_of_its_own(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("t5")
    phm_adapter.attach(model, phm_adapter.Config(factors=4))
    layers = [layer for _, layer in instances(model, phm_adapter.PHMLinear)]
    assert len(layers) == 16
    assert len({id(layer.rule.A) for layer in layers}) == 16


def test_start_is_as_in_the_official_code() -> None:
    layer = phm_adapter.PHMLinear(torch.empty(1), 800, 80, 8)
    assert 0.008 < layer.rule.A.std() < 0.012
    assert not layer.b.any()
    bound = 2**0.5 * (6 / (100 + 10)) ** 0.5  # Glorot's for (100, 10), times the gain
    assert 0.95 * bound < layer.B.abs().max() <= bound


def test_default_takes_twelve_factors_which_a_width_of_64_does_not_allow(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="12 Kronecker factors do not make a 64 x 12 matrix"):
        phm_adapter.attach(model)
    with pytest.raises(ValueError, match="at least 1"):
        phm_adapter.attach(model, phm_adapter.Config(reduction=0))
    assert all(p.requires_grad for p in model.parameters())


def test_norms_train_on_request(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    phm_adapter.attach(model, phm_adapter.Config(factors=4, train_norms=True))
    assert all(p.requires_grad for name, p in model.named_parameters() if "norm" in name)

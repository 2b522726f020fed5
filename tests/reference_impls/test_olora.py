"""OLoRA: the orthonormal start, the layer against the paper's equation in float64, and the way back."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import olora, pissa
from reference_impls._surgery import detach

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
SCALE = 12.0 / 3


@pytest.fixture(params=[(6, 5), (5, 6)], ids=["wide", "tall"])
def layer(request: pytest.FixtureRequest) -> pissa.ShiftedLoRALinear:
    model = nn.Sequential(nn.Linear(*request.param).double())
    return next(iter(olora.attach(model, olora.Config(3, 12.0, "0")).children()))


def orthonormal(columns: Tensor) -> list[Tensor]:
    """Gram and Schmidt, column by column: what Q holds up to signs."""
    basis: list[Tensor] = []
    for column in columns.T:
        for direction in basis:
            column = column - (column @ direction) * direction
        basis.append(column / column.norm())
    return basis


def test_b_starts_orthonormal_on_the_first_columns_of_the_weight(layer: pissa.ShiftedLoRALinear) -> None:
    torch.testing.assert_close(layer.B.T @ layer.B, torch.eye(3).double(), rtol=1e-10, atol=1e-10)
    for mine, expected in zip(layer.B.T, orthonormal(layer.weight.detach()[:, :3]), strict=True):
        assert abs(abs(mine @ expected) - 1) < 1e-10
    torch.testing.assert_close(layer.A, layer.B.T @ layer.weight, rtol=1e-10, atol=1e-10)  # R = Qᵀ W
    assert torch.equal(layer.A, layer.A.triu())


def test_start_leaves_the_output_exactly(layer: pissa.ShiftedLoRALinear) -> None:
    x = torch.randn(4, layer.in_features, dtype=torch.float64)
    assert torch.equal(layer(x), layer.base(x))


def test_forward_is_the_papers_equation(layer: pissa.ShiftedLoRALinear) -> None:
    x, weight = torch.randn(4, layer.in_features, dtype=torch.float64), layer.base.weight.detach().clone()
    basis = torch.stack(orthonormal(weight[:, :3]), dim=1)
    nn.init.normal_(layer.A)
    nn.init.normal_(layer.B)
    whole = weight - SCALE * basis @ basis.T @ weight + SCALE * layer.B @ layer.A
    expected = x @ whole.T + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-10, atol=1e-10)


def test_detach_restores_the_weights_to_the_bit(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = randomise(olora.attach(model, olora.Config(rank=8)))
    adapted(**batch).loss.backward()
    after = detach(adapted).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_rank_beyond_a_matrix_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="rank 64 does not fit"):
        olora.attach(model)
    assert all(p.requires_grad for p in model.parameters())

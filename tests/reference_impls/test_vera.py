"""VeRA against its equation, in float64: the vectors, and the matrices that all layers share."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import vera
from reference_impls._site import instances
from reference_impls.training.checkpoint import adapter_state

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]


@pytest.fixture
def layers() -> list[vera.VeRALinear]:
    model = nn.ModuleDict({"a": nn.Linear(6, 5), "b": nn.Linear(4, 7)}).double()
    vera.attach(model, vera.Config(rank=9, target="a|b"))
    for _, layer in instances(model, vera.VeRALinear):
        nn.init.normal_(layer.d)
        nn.init.normal_(layer.b)
    return [layer for _, layer in instances(model, vera.VeRALinear)]


def test_forward_is_the_papers_equation(layers: list[vera.VeRALinear]) -> None:
    A, B = layers[0].shared.A, layers[0].shared.B
    assert (A.shape, B.shape) == ((9, 6), (7, 9))
    for layer in layers:
        x = torch.randn(2, 4, layer.in_features, dtype=torch.float64)
        change = torch.diag(layer.b) @ B[: layer.out_features] @ torch.diag(layer.d) @ A[:, : layer.in_features]
        expected = x @ (layer.base.weight + change).T + layer.base.bias
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-12, atol=1e-12)


def test_matrices_are_drawn_once_and_do_not_train(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    adapted = vera.attach(model, vera.Config(rank=32))
    adapted(**batch).loss.backward()
    layers = [layer for _, layer in instances(adapted, vera.VeRALinear)]
    assert len({id(layer.shared) for layer in layers}) == 1
    assert {name.rpartition(".")[2] for name, p in adapted.named_parameters() if p.requires_grad} == {"d", "b"}


def test_matrices_come_from_the_seed_and_are_not_saved(make_tiny: MakeTiny) -> None:
    drawn = []
    for seed, around in ((0, 1), (0, 2), (5, 1)):
        torch.manual_seed(around)
        model, _ = make_tiny("llama")
        vera.attach(model, vera.Config(rank=32, seed=seed))
        assert {name.rpartition(".")[2] for name in adapter_state(model)} == {"d", "b"}
        drawn.append(next(instances(model, vera.Projection))[1].A)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_start_is_the_papers() -> None:
    model = nn.Sequential(nn.Linear(300, 200))
    vera.attach(model, vera.Config(target="0"))
    layer = model[0]
    assert torch.equal(layer.d, torch.full((1024,), 0.1))
    assert not layer.b.any()
    for matrix, fan in ((layer.shared.A, 300), (layer.shared.B, 1024)):
        assert 0.99 * (6 / fan) ** 0.5 < matrix.abs().max() <= (6 / fan) ** 0.5  # Kaiming's uniform bound


def test_rank_below_one_is_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match="rank 0"):
        vera.attach(model, vera.Config(rank=0))
    assert all(p.requires_grad for p in model.parameters())

"""SparseAdapter: the masked adapter, SNIP's scores, the number of kept weights, against naive sums in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import houlsby_adapter, sparse_adapter
from reference_impls._site import instances
from reference_impls.fishmask import Mask

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]


def attached(model: nn.Module, **settings: object) -> tuple[nn.Module, Mask, list[sparse_adapter.SparseLinear]]:
    """The model with sparse adapters, their common mask, and their layers in order."""
    model = sparse_adapter.attach(model, sparse_adapter.Config(**settings))
    layers = sorted((layer for _, layer in instances(model, sparse_adapter.SparseLinear)), key=lambda part: part.index)
    return model, model.sparse_adapter, layers


def dense_weights(mask: Mask, layers: list[sparse_adapter.SparseLinear]) -> list[Tensor]:
    """Every matrix written out: zeros, and v at its positions in the long vector."""
    numbers = torch.zeros(mask.starts[-1], dtype=mask.v.dtype)
    for place, value in zip(mask.positions.tolist(), mask.v.tolist(), strict=True):
        numbers[place] = value
    sizes = [layer.shape[0] * layer.shape[1] for layer in layers]
    return [part.view(layer.shape) for part, layer in zip(numbers.split(sizes), layers, strict=True)]


def test_forward_is_the_papers_equation(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, mask, layers = attached(make_tiny("bert")[0].double(), bottleneck=3)
    randomise(model)
    weights = dense_weights(mask, layers)
    for number, (_, layer) in enumerate(instances(model, houlsby_adapter.AfterSublayer)):
        down, up = layers[2 * number], layers[2 * number + 1]
        assert layer.adapter.down is down
        x = torch.randn(2, 4, layer.in_features, dtype=torch.float64)
        h = x @ layer.weight.T + layer.bias
        inner = (torch.einsum("btd,md->btm", h, weights[2 * number]) + down.b).clamp(min=0)
        expected = h + torch.einsum("btm,dm->btd", inner, weights[2 * number + 1]) + up.b
        torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.9])
def test_kept_share_trains_and_biases_stay(sparsity: float, make_tiny: MakeTiny) -> None:
    model, mask, _ = attached(make_tiny("llama")[0], bottleneck=5, sparsity=sparsity)
    weights, biases = 4 * 2 * 64 * 5, 4 * (64 + 5)
    assert len(mask.v) == math.ceil(round((1 - sparsity) * weights, 6))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == len(mask.v) + biases
    assert len(set(mask.positions.tolist())) == len(mask.v)


def test_snip_keeps_the_weights_whose_removal_moves_the_loss_most(make_tiny: MakeTiny) -> None:
    """The score is the derivative of the loss by the mask at one, here measured by moving mask entries."""
    model, batch = make_tiny("bert")
    model, mask, layers = attached(model.double(), bottleneck=2, sparsity=0.5)
    drawn: list[Tensor] = []
    model.register_forward_pre_hook(lambda *_: drawn.extend(layer.dense for layer in layers) if not drawn else None)
    sparse_adapter.prepare(model, [batch, batch], sparse_adapter.Config(bottleneck=2, sparsity=0.5))
    theta = [weight.detach().clone() for weight in drawn]
    kept = torch.zeros(mask.starts[-1], dtype=torch.bool)
    kept[mask.positions] = True
    torch.testing.assert_close(mask.v, torch.cat([t.flatten() for t in theta])[mask.positions], rtol=0, atol=0)
    parts = kept.split([t.numel() for t in theta])

    def loss_at(matrix: int, entry: int, factor: float) -> float:
        for layer, weight in zip(layers, theta, strict=True):
            layer.dense = weight.clone()
        layers[matrix].dense.view(-1)[entry] *= factor
        with torch.no_grad():
            return model(**batch).loss.item()

    generator = torch.Generator().manual_seed(0)
    scores: dict[bool, list[float]] = {True: [], False: []}
    for matrix in range(len(layers)):
        for entry in torch.randperm(theta[matrix].numel(), generator=generator)[:12].tolist():
            slope = abs(loss_at(matrix, entry, 1 + 1e-4) - loss_at(matrix, entry, 1 - 1e-4)) / 2e-4
            scores[bool(parts[matrix][entry])].append(slope)
    assert min(len(found) for found in scores.values()) > 20
    assert min(scores[True]) >= max(scores[False]) * (1 - 1e-3)


def test_magnitude_keeps_the_largest_and_chance_keeps_any(make_tiny: MakeTiny) -> None:
    shares = {}
    for pruner in ("magnitude", "random"):
        config = sparse_adapter.Config(bottleneck=40, sparsity=0.7, pruner=pruner)
        model = sparse_adapter.attach(make_tiny("llama")[0], config)
        sparse_adapter.prepare(model, [], config)
        shares[pruner] = (model.sparse_adapter.v.abs() > 0.0207).double().mean().item()  # 70 % of N(0, 0.02²) lie below
    assert shares["magnitude"] > 0.95
    assert 0.27 < shares["random"] < 0.33


def test_kept_weights_train_on_and_their_places_stay(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    model, mask, layers = attached(model, bottleneck=4)
    sparse_adapter.prepare(model, [batch], sparse_adapter.Config(bottleneck=4))
    places, before = mask.positions.clone(), mask.v.detach().clone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    assert torch.equal(mask.positions, places)
    assert (mask.v != before).all()
    zeros = sum(int((layer.weight() == 0).sum()) for layer in layers)
    assert zeros == mask.starts[-1] - len(mask.v)
    assert all(layer.dense is None for layer in layers)


def test_large_sparse_keeps_as_many_weights_as_the_dense_adapter_has(make_tiny: MakeTiny) -> None:
    _, mask, layers = attached(make_tiny("llama")[0], bottleneck=12, sparsity=0.4, large=True)
    assert layers[0].shape == (20, 64)
    assert len(mask.v) == 4 * 2 * 64 * 12


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"pruner": "grasp"}, "no pruner 'grasp'"), ({"sparsity": 1.0}, "sparsity 1.0"), ({"bottleneck": 0}, "of 0")],
)
def test_impossible_settings_are_refused(settings: dict[str, object], reason: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=reason):
        attached(model, **settings)
    assert all(p.requires_grad for p in model.parameters())

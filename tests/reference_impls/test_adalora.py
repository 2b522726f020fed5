"""AdaLoRA: layer, penalty, importance, budget and choice against naive computations in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import adalora
from reference_impls._site import instances
from reference_impls.training.loop import train

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
SMALL = adalora.Config(init_rank=3, target_rank=2, alpha=12.0)


@pytest.fixture
def layer() -> adalora.SVDLinear:
    layer = adalora.SVDLinear(nn.Linear(6, 5).double().requires_grad_(False), SMALL).double()
    for p in (layer.P, layer.lam, layer.Q):
        nn.init.normal_(p)
    return layer


def test_forward_is_the_papers_equation(layer: adalora.SVDLinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = x @ (layer.weight + 12.0 / 3 * layer.P @ torch.diag(layer.lam) @ layer.Q).T + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-12, atol=1e-12)


def test_penalty_is_the_papers_and_vanishes_for_orthonormal_vectors(layer: adalora.SVDLinear) -> None:
    expected = 0.0
    for i in range(3):
        for j in range(3):
            same = float(i == j)
            expected += (layer.P[:, i] @ layer.P[:, j] - same) ** 2 + (layer.Q[i] @ layer.Q[j] - same) ** 2
    torch.testing.assert_close(layer.penalty(), expected, rtol=1e-12, atol=1e-12)
    nn.init.orthogonal_(layer.P)
    nn.init.orthogonal_(layer.Q)
    assert layer.penalty() < 1e-20


def test_loss_adds_gamma_times_every_layers_penalty(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    adapted = adalora.attach(model.double(), adalora.Config(orthogonality=0.7))
    layers = [layer for _, layer in instances(adapted, adalora.SVDLinear)]
    assert len(layers) == 12
    expected = adapted(**batch).loss + 0.7 * sum(layer.penalty() for layer in layers)
    torch.testing.assert_close(adalora.loss(adapted, batch), expected, rtol=1e-12, atol=1e-12)


def test_importance_is_smoothed_sensitivity_times_smoothed_uncertainty(layer: adalora.SVDLinear) -> None:
    mean: dict[tuple[str, int], float] = {}
    spread: dict[tuple[str, int], float] = {}
    for _ in range(4):
        for name in ("P", "lam", "Q"):
            w = getattr(layer, name)
            w.data = torch.randn_like(w)
            w.grad = torch.randn_like(w)
            for at, (number, slope) in enumerate(zip(w.flatten().tolist(), w.grad.flatten().tolist(), strict=True)):
                key = (name, at)
                sensitivity = abs(number * slope)
                mean[key] = 0.85 * mean.get(key, 0.0) + 0.15 * sensitivity
                spread[key] = 0.85 * spread.get(key, 0.0) + 0.15 * abs(sensitivity - mean[key])
        layer.observe()
    score = {key: mean[key] * spread[key] for key in mean}
    for k in range(3):
        left = sum(score["P", row * 3 + k] for row in range(5)) / 5
        right = sum(score["Q", k * 6 + column] for column in range(6)) / 6
        assert layer.importance()[k].item() == pytest.approx(score["lam", k] + left + right, rel=1e-10)


def test_optimizer_observes_before_it_moves(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("llama")
    adapted = randomise(adalora.attach(model))
    optimizer = adalora.optimizer(adapted, 0.1)
    adalora.loss(adapted, batch).backward()
    layers = [layer for _, layer in instances(adapted, adalora.SVDLinear)]
    expected = [0.15 * (layer.lam * layer.lam.grad).abs().detach() for layer in layers]
    optimizer.step()
    for layer, sensitivity in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer.smoothed["lam"][0], sensitivity)


def test_budget_falls_along_a_cubic_curve_between_two_plateaus() -> None:
    config = adalora.Config(warmup_share=0.1, final_share=0.4)
    for t in range(1, 1001):
        if t <= 100:
            expected = 12 * 70
        elif t > 600:
            expected = 8 * 70
        else:
            expected = int(8 * 70 + (12 * 70 - 8 * 70) * (1 - (t - 100) / 500) ** 3)
        assert abs(adalora.budget(t, 1000, 70, config) - expected) <= (100 < t <= 600), t


def kept(model: nn.Module) -> Tensor:
    return torch.cat([layer.lam for _, layer in instances(model, adalora.SVDLinear)]) != 0


def test_step_keeps_the_most_important_triplets_of_all_layers(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("llama")
    config = adalora.Config(allocate_every=10, warmup_share=0.1, final_share=0.4)
    adapted = randomise(adalora.attach(model.double(), config))
    optimizer = adalora.optimizer(adapted, 1e-3)
    adalora.loss(adapted, batch).backward()
    optimizer.step()
    scores = torch.cat([layer.importance() for _, layer in instances(adapted, adalora.SVDLinear)])
    for t in (5, 10, 29):  # warm-up, and between two allocations
        adalora.step(adapted, t, 100)
        assert kept(adapted).all()
    adalora.step(adapted, 30, 100)
    number = adalora.budget(30, 100, 14, config)
    assert 8 * 14 < number < 12 * 14
    assert set(kept(adapted).nonzero().flatten().tolist()) == set(scores.argsort(descending=True)[:number].tolist())
    adalora.step(adapted, 61, 100)
    assert set(kept(adapted).nonzero().flatten().tolist()) == set(scores.argsort(descending=True)[: 8 * 14].tolist())


def test_choice_is_final_in_the_last_phase_and_ranks_differ_between_layers(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    config = adalora.Config(allocate_every=2)
    adapted = adalora.attach(model, config)
    history: list[Tensor] = []
    train(
        adapted,
        adalora,
        config,
        iter([batch] * 60),
        lr=1e-2,
        steps=60,
        progress=lambda t, loss: history.append(kept(adapted)),
    )
    numbers = [int(mask.sum()) for mask in history]
    assert numbers[9] == 12 * 14
    assert numbers[20] > numbers[29] == 8 * 14
    assert all(torch.equal(mask, history[30]) for mask in history[30:])
    assert len({int(part.sum()) for part in history[-1].split(12)}) > 1


def test_removed_triplet_may_return_while_the_budget_falls(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("llama")
    adapted = randomise(adalora.attach(model, adalora.Config(allocate_every=1)))
    optimizer = adalora.optimizer(adapted, 1e-2)
    adalora.loss(adapted, batch).backward()
    optimizer.step()
    adalora.step(adapted, 40, 100)
    removed = ~kept(adapted)
    assert removed.any()
    optimizer.zero_grad()
    adalora.loss(adapted, batch).backward()
    optimizer.step()
    assert kept(adapted)[removed].all()


def test_step_without_its_optimizer_says_so(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    adapted = adalora.attach(model)
    with pytest.raises(ValueError, match="needs its own optimizer"):
        adalora.step(adapted, 9, 10)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (adalora.Config(init_rank=0, target_rank=0), "target_rank 0"),
        (adalora.Config(init_rank=4), "target_rank 8"),
        (adalora.Config(init_rank=65), "init_rank 65"),
        (adalora.Config(warmup_share=0.5), "leave no steps"),
        (adalora.Config(allocate_every=0), "allocate_every 0"),
    ],
)
def test_impossible_configuration_is_refused(config: adalora.Config, word: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=word):
        adalora.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())

"""SoRA: the gated change, the proximal step, its schedule and the pruning against naive computations in float64."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import lora, sora
from reference_impls._site import instances

MakeTiny = Callable[[str], tuple[nn.Module, dict[str, Tensor]]]
Randomise = Callable[[nn.Module], nn.Module]


@pytest.fixture
def layer() -> sora.SoRALinear:
    layer = sora.SoRALinear(nn.Linear(6, 5).double(), sora.Config(rank=3, alpha=12.0))
    for p in (layer.A, layer.B, layer.g):
        nn.init.normal_(p)
    return layer


def layers(model: nn.Module) -> list[sora.SoRALinear]:
    return [layer for _, layer in instances(model, sora.SoRALinear)]


def test_forward_is_the_papers_equation(layer: sora.SoRALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    change = torch.einsum("or,r,ri->oi", layer.B, layer.g, layer.A) * (12.0 / 3)
    expected = torch.einsum("bti,oi->bto", x, layer.base.weight + change) + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_merge_changes_no_output(layer: sora.SoRALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(copy.deepcopy(layer).merged()(x), expected, rtol=1e-12, atol=1e-12)


def test_shrinking_is_the_proximal_step_of_an_l1_penalty(layer: sora.SoRALinear) -> None:
    layer.threshold, old = 0.3, torch.tensor([0.31, -0.2, -1.0], dtype=torch.float64)
    layer.g.data.copy_(old)
    layer.shrink(rate=0.5)
    torch.testing.assert_close(layer.g.data, torch.tensor([0.16, -0.05, -0.85], dtype=torch.float64))
    layer.shrink(rate=1.0)
    assert layer.g.tolist()[:2] == [0.0, 0.0], "exactly zero"
    grid = torch.linspace(-2, 2, 400_001, dtype=torch.float64)
    for before, after in ((0.7, 0.4), (-0.7, -0.4), (0.2, 0.0)):  # argmin ½ (z − g)² + τ |z|
        best = grid[(0.5 * (grid - before).square() + 0.3 * grid.abs()).argmin()].item()
        assert best == pytest.approx(after, abs=1e-5)
        layer.g.data.fill_(before)
        layer.shrink(rate=1.0)
        assert layer.g[0].item() == pytest.approx(after)


@pytest.mark.parametrize("times_rate", [False, True])
def test_each_step_is_adamws_and_then_the_proximal_one_on_the_gates_alone(
    times_rate: bool, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny("llama")
    config = sora.Config(threshold=0.05, times_rate=times_rate)
    adapted = randomise(sora.attach(model.double(), config))
    optimizer = sora.optimizer(adapted, 0.02, config)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    copies = {name: p.detach().clone().requires_grad_(True) for name, p in trained.items()}
    plain = torch.optim.AdamW(copies.values(), lr=0.02, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        adapted(**batch).loss.backward()
        for name, p in trained.items():
            copies[name].grad = p.grad.clone()
        optimizer.step()
        plain.step()
        with torch.no_grad():
            for name, twin in copies.items():
                if name.endswith(".g"):
                    cut = 0.05 * (0.02 if times_rate else 1.0)
                    twin.copy_(torch.where(twin.abs() > cut, twin - twin.sign() * cut, 0.0))
        for name, p in trained.items():
            torch.testing.assert_close(p.detach(), copies[name].detach(), rtol=1e-12, atol=1e-14)


def test_rate_follows_the_learning_rates_schedule(make_tiny: MakeTiny) -> None:
    config = sora.Config(threshold=0.5, times_rate=True)
    adapted = sora.attach(make_tiny("llama")[0].double(), config)
    optimizer = sora.optimizer(adapted, 0.1, config)
    optimizer.param_groups[0]["lr"] = 0.02
    before = layers(adapted)[0].g.detach().clone()
    optimizer.step()  # no gradient: only the proximal step moves
    torch.testing.assert_close(layers(adapted)[0].g.detach(), nn.functional.softshrink(before, 0.01))


def test_threshold_rises_in_equal_stages(make_tiny: MakeTiny) -> None:
    config = sora.Config(threshold=0.1, last_threshold=0.3, stages=3)
    adapted = sora.attach(make_tiny("llama")[0], config)
    seen = [layers(adapted)[0].threshold]
    for t in range(1, 9):
        sora.step(adapted, t, 9)
        seen.append(layers(adapted)[0].threshold)
    assert seen == pytest.approx([0.1] * 3 + [0.2] * 3 + [0.3] * 3)
    sora.step(adapted, 9, 9)
    assert layers(adapted)[-1].threshold == pytest.approx(0.3)


def test_threshold_stays_without_a_schedule(make_tiny: MakeTiny) -> None:
    adapted = sora.attach(make_tiny("llama")[0])
    sora.step(adapted, 9, 10)
    assert {layer.threshold for layer in layers(adapted)} == {3e-4}


def test_pruning_drops_closed_ranks_and_changes_no_output(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("bert")
    adapted = randomise(sora.attach(model.double())).eval()
    with torch.no_grad():
        for number, layer in enumerate(layers(adapted)):
            layer.g[: number % 4] = 0
    expected = adapted(**batch).logits
    ranks = sora.prune(adapted)
    assert list(ranks.values()) == [8 - number % 4 for number in range(len(ranks))]
    torch.testing.assert_close(adapted(**batch).logits, expected, rtol=1e-9, atol=1e-12)
    for layer in layers(adapted):
        assert (layer.A.shape[0], layer.B.shape[1]) == (len(layer.g), len(layer.g))
        assert layer.scale == 16 / 8, "the first rank stays in the scale"
        as_lora = lora.LoRALinear(layer.base, rank=len(layer.g), alpha=layer.scale * len(layer.g)).double()
        as_lora.A, as_lora.B = layer.A, layer.B
        x = torch.randn(2, layer.in_features, dtype=torch.float64)
        torch.testing.assert_close(as_lora(x), layer(x))


def test_gates_close_where_the_loss_does_not_hold_them(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    config = sora.Config(threshold=0.05)
    adapted = sora.attach(model, config)
    optimizer = sora.optimizer(adapted, 0.01, config)
    for _ in range(30):
        optimizer.zero_grad()
        adapted(**batch).loss.backward()
        optimizer.step()
    kept = sum(sora.prune(adapted).values())
    assert 0 < kept < 0.6 * 8 * len(layers(adapted))


def test_start_is_as_in_the_official_code() -> None:
    layer = sora.SoRALinear(nn.Linear(4000, 4000), sora.Config(rank=2000))
    assert not layer.B.any()
    assert 0.9 / 4000**0.5 < layer.A.abs().max() <= 1 / 4000**0.5
    assert layer.g.std().item() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(
    "config",
    [sora.Config(threshold=-1.0), sora.Config(last_threshold=-1.0), sora.Config(stages=0), sora.Config(rank=0)],
)
def test_what_cannot_be_is_refused(config: sora.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=r"cannot be|does not fit"):
        sora.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())

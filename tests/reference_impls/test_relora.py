"""ReLoRA: the layer against LoRA's equation in float64, and what a restart does to model, weight, state and rate."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import relora
from reference_impls._site import instances
from reference_impls._surgery import detach
from reference_impls.training.checkpoint import adapter_state, load_adapter
from reference_impls.training.loop import train

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
SHORT = relora.Config(rank=4, alpha=8.0, restart_every=5, warmup=2, restart_warmup=2)


@pytest.fixture
def layer() -> relora.ReLoRALinear:
    layer = relora.ReLoRALinear(nn.Linear(6, 5).double().requires_grad_(False), rank=3, alpha=12.0).double()
    nn.init.normal_(layer.A)
    nn.init.normal_(layer.B)
    return layer


def test_forward_is_the_papers_equation(layer: relora.ReLoRALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    expected = x @ (layer.weight + 12.0 / 3 * layer.B @ layer.A).T + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_restart_moves_the_change_into_the_weight_and_leaves_the_output(layer: relora.ReLoRALinear) -> None:
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    before, A = layer(x), layer.A.detach().clone()
    weight = (layer.weight + 4.0 * layer.B @ layer.A).detach().clone()
    layer.restart()
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.weight, weight, rtol=1e-12, atol=1e-12)
    assert not layer.B.any()
    assert not torch.isclose(layer.A, A).any()
    assert 0.8 / 6**0.5 < layer.A.abs().max() <= 1 / 6**0.5


def test_rounds_add_up_to_a_change_of_higher_rank() -> None:
    layer = relora.ReLoRALinear(nn.Linear(20, 20), rank=3, alpha=3.0)
    start = layer.weight.detach().clone()
    ranks = []
    for _ in range(4):
        nn.init.normal_(layer.B)
        layer.restart()
        ranks.append(int(torch.linalg.matrix_rank(layer.weight - start, rtol=1e-4)))
    assert ranks == [3, 6, 9, 12]


@pytest.mark.parametrize(("share", "left"), [(0.0, 20), (0.25, 15), (0.9, 2), (1.0, 0)])
def test_pruning_erases_the_smallest_entries(share: float, left: int) -> None:
    mean = torch.randperm(20).reshape(4, 5) - 9.75
    square = mean.square()
    largest = mean.flatten().abs().sort().values[20 - left :]
    relora.prune({"exp_avg": mean, "exp_avg_sq": square}, share)
    assert torch.equal(mean[mean != 0].abs().sort().values, largest)
    assert torch.equal(square[square != 0].sort().values, largest.square())


def test_no_first_moment_is_left_without_a_second() -> None:
    mean = torch.randn(400)
    square = mean.square() * torch.rand(400)
    relora.prune({"exp_avg": mean, "exp_avg_sq": square}, 0.9)
    assert int((square != 0).sum()) == 40
    assert 0 < int((mean != 0).sum()) < 40
    assert (square[mean != 0] > 0).all()


def prepared(make_tiny: MakeTiny) -> tuple[nn.Module, torch.optim.Optimizer, Batch]:
    """An adapted model after one step of training with its optimizer."""
    model, batch = make_tiny("llama")
    adapted = relora.attach(model, SHORT)
    optimizer = relora.optimizer(adapted, 1e-2, SHORT)
    adapted(**batch).loss.backward()
    optimizer.step()
    return adapted, optimizer, batch


def test_restart_erases_most_of_adams_moments_and_keeps_its_count(make_tiny: MakeTiny) -> None:
    adapted, optimizer, batch = prepared(make_tiny)
    optimizer.zero_grad()
    adapted(**batch).loss.backward()
    optimizer.step()  # the second step: A has a gradient from here on
    before = {p: {key: value.clone() for key, value in state.items()} for p, state in optimizer.state.items()}
    relora.step(adapted, 4, 100)
    assert all(torch.equal(optimizer.state[p][key], value) for p, old in before.items() for key, value in old.items())
    relora.step(adapted, 5, 100)
    for p, old in before.items():
        assert optimizer.state[p]["step"] == old["step"] == 2
        for key in ("exp_avg", "exp_avg_sq"):
            now = optimizer.state[p][key]
            assert 0.89 < (now == 0).double().mean().item() < (0.91 if key == "exp_avg_sq" else 0.99)
            assert torch.equal(now[now != 0], old[key][now != 0])


def test_no_number_jumps_in_the_steps_after_a_restart(make_tiny: MakeTiny) -> None:
    """A has no gradient while B is zero: a first moment without a second would move it by millions of times the rate."""
    adapted, optimizer, batch = prepared(make_tiny)
    for t in (2, 3, 4, 5, 6, 7):
        optimizer.zero_grad()
        adapted(**batch).loss.backward()
        before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        for p, old in zip(optimizer.param_groups[0]["params"], before, strict=True):
            assert (p - old).abs().max() <= 10 * rate + 1e-9, t
        relora.step(adapted, t, 100)


def official(step: int, total: int, first: int, restart: int, every: int) -> float:
    """The jagged cosine, step by step: a cosine to a tenth, and after each restart a straight line up to it."""
    curve = [0.1 + 0.45 * (1 + math.cos(math.pi * (n - first) / (total - first))) for n in range(total + restart + 1)]
    if step < first:
        return step / first
    for begin in range(every, total, every):
        if begin <= step < begin + restart:
            return curve[begin + restart] * (step - begin) / restart
    return curve[step]


def test_rate_follows_the_jagged_cosine() -> None:
    config = relora.Config(restart_every=100, warmup=30, restart_warmup=10)
    for done in range(1000):
        expected = official(done, 1000, 30, 10, 100)
        assert relora.lr_share(done, 1000, config) == pytest.approx(expected, abs=1e-12), done
    assert relora.lr_share(300, 1000, config) == 0


def test_step_sets_the_rate_whatever_the_loops_own_schedule(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    adapted = relora.attach(model, SHORT)
    rates: list[float] = []
    rounds = adapted.relora

    def note(t: int, loss: float) -> None:
        if rounds.optimizer is not None:
            rates.append(rounds.optimizer.param_groups[0]["lr"])

    train(adapted, relora, SHORT, iter([batch] * 12), lr=1e-2, steps=12, progress=note)
    assert rates == pytest.approx([1e-2 * relora.lr_share(t, 12, SHORT) for t in range(1, 12)])
    assert rounds.optimizer is None


def test_training_restarts_after_every_round_but_the_last(make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = make_tiny("llama")
    adapted = relora.attach(model, SHORT)
    restarts: list[int] = []
    monkeypatch.setattr(relora.ReLoRALinear, "restart", lambda layer: restarts.append(1))
    train(adapted, relora, SHORT, iter([batch] * 15), lr=1e-2, steps=15)
    assert len(restarts) == 2 * 14


def test_training_over_restarts_lowers_the_loss_and_detaching_undoes_all(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("gpt2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start = model(**batch).loss.item()
    adapted = relora.attach(model, SHORT)
    train(adapted, relora, SHORT, iter([batch] * 40), lr=3e-2, steps=40)
    assert adapted(**batch).loss < start - 1
    weights = [layer.base.weight for _, layer in instances(adapted, relora.ReLoRALinear)]
    assert len(weights) == 12
    assert all(not weight.requires_grad and weight.grad is None for weight in weights)
    after = detach(adapted).state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_saved_state_holds_the_changed_weights(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("llama")
    adapted = relora.attach(model, SHORT)
    train(adapted, relora, SHORT, iter([batch] * 12), lr=1e-2, steps=12)
    expected = adapted(**batch).logits
    fresh = relora.attach(make_tiny("llama")[0], SHORT)
    load_adapter(fresh, adapter_state(adapted))
    assert torch.equal(fresh(**batch).logits, expected)
    merged = relora.merge(fresh)
    torch.testing.assert_close(merged(**batch).logits, expected, rtol=1e-4, atol=1e-5)


def test_step_without_its_optimizer_says_so(make_tiny: MakeTiny) -> None:
    adapted = relora.attach(make_tiny("llama")[0], SHORT)
    with pytest.raises(ValueError, match=r"relora\.optimizer"):
        relora.step(adapted, 1, 10)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (relora.Config(rank=8, restart_every=100), "warm-up of 500"),
        (relora.Config(rank=8, prune_state=1.5), "prune_state 1.5"),
        (relora.Config(), "rank 128"),
    ],
)
def test_impossible_configuration_is_refused(config: relora.Config, word: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("llama")
    with pytest.raises(ValueError, match=word):
        relora.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())

"""The training loop: what it takes from a method's module, what it fills in, and what it reports."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from reference_impls import bitfit, diff_pruning, full_fine_tuning, ia3, lora
from reference_impls.ladder import climb, task
from reference_impls.training import head, loop

RENAME = task.RUNGS["rename"]


class Line(nn.Module):
    """y = w x, with the model's interface."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> Any:
        return SimpleNamespace(loss=(self.w * x - labels).square().mean())


@dataclass(frozen=True)
class Inner:
    length: int = 3


@dataclass(frozen=True)
class Config:
    rank: int = 8
    prefix: Inner = Inner()


def method(**parts: Any) -> ModuleType:
    module = ModuleType("reference_impls.made_up")
    for name, part in {"Config": Config, **parts}.items():
        setattr(module, name, part)
    return module


def feed() -> Iterator[dict[str, torch.Tensor]]:
    for i in itertools.count(1):
        yield {"x": torch.tensor([float(i)]), "labels": torch.tensor([2.0 * i])}


def test_plain_module_trains_with_adamw_and_the_models_loss() -> None:
    model = Line()
    result = loop.train(model, method(), None, feed(), lr=0.5, steps=30)
    assert len(result.losses) == 30
    assert result.losses[0] == 4.0  # (0 x - 2)² at x = 1
    assert abs(model.w.item() - 2) < 0.2
    assert model.frozen.item() == 1
    assert (result.trainable, result.total) == (1, 2)
    assert not model.training


def test_batches_of_a_step_are_averaged_and_each_step_takes_its_own() -> None:
    sgd = method(optimizer=lambda model, lr, config: torch.optim.SGD([model.w], lr=lr))
    several, whole = Line(), Line()
    taken = loop.train(several, sgd, None, feed(), lr=1e-3, steps=2, accumulation=2)
    pairs = [[{"x": torch.tensor([i, i + 1.0]), "labels": torch.tensor([2 * i, 2 * i + 2.0])}] for i in (1.0, 3.0)]
    at_once = loop.train(whole, sgd, None, itertools.chain(*pairs), lr=1e-3, steps=2)
    torch.testing.assert_close(several.w, whole.w)
    torch.testing.assert_close(torch.tensor(taken.losses), torch.tensor(at_once.losses))


def test_parts_of_a_module_are_called_in_order_with_their_arguments() -> None:
    calls: list[Any] = []
    config = Config(rank=3)

    def prepare(model: nn.Module, batches: list[Any], given: Config) -> None:
        calls.append(("prepare", len(batches), given))

    def optimizer(model: nn.Module, lr: float, given: Config) -> torch.optim.Optimizer:
        calls.append(("optimizer", lr, given))
        return torch.optim.SGD([model.w], lr=lr)

    def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(("loss", batch["x"].item()))
        return model(**batch).loss

    def step(model: nn.Module, t: int, total: int) -> None:
        calls.append(("step", t, total))

    module = method(prepare=prepare, optimizer=optimizer, loss=loss, step=step)
    loop.train(Line(), module, config, feed(), lr=1e-3, steps=2)
    assert calls == [
        ("prepare", 2, config),
        ("optimizer", 1e-3, config),
        ("loss", 1.0),
        ("step", 1, 2),
        ("loss", 2.0),
        ("step", 2, 2),
    ]


@pytest.mark.parametrize("method", [bitfit, diff_pruning], ids=lambda method: method.__name__.rpartition(".")[2])
def test_head_trains_beside_the_method_and_nothing_else_of_the_base_does(
    method: ModuleType, make_tiny: Callable[[str], tuple[nn.Module, loop.Batch]]
) -> None:
    """Beside BitFit, whose training loop has the usual optimizer, and diff pruning, whose own leaves the head out."""
    base, batch = make_tiny("bert")
    old = {name: value.clone() for name, value in base.classifier.state_dict().items()}
    frozen = base.bert.embeddings.word_embeddings.weight.clone()
    model = method.attach(base)
    config = method.Config()
    loop.train(model, method, config, itertools.repeat(batch), lr=0.01, steps=2, head=["classifier.weight"])
    assert not torch.equal(base.classifier.weight, old["weight"])
    assert torch.equal(base.classifier.bias, old["bias"])
    if method is bitfit:
        assert torch.equal(base.bert.embeddings.word_embeddings.weight, frozen)


def test_head_that_is_no_longer_there_is_named(make_tiny: Callable[[str], tuple[nn.Module, loop.Batch]]) -> None:
    model = head.attach(make_tiny("bert")[0])
    with pytest.raises(ValueError, match=r"score\.weight of the head cannot train: the method put something else"):
        head.opened(model, ["classifier.weight", "score.weight"])


def test_learning_rate_rises_over_a_tenth_and_falls_to_a_twentieth() -> None:
    shares = [loop._share(step, 100) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == shares[10] == 1
    assert shares[100] == pytest.approx(0.05)
    assert all(a > b for a, b in itertools.pairwise(shares[10:]))


def test_progress_is_told_every_step() -> None:
    seen: list[tuple[int, float]] = []
    result = loop.train(
        Line(), method(), None, feed(), lr=0.1, steps=3, progress=lambda t, loss: seen.append((t, loss))
    )
    assert seen == [(1, result.losses[0]), (2, result.losses[1]), (3, result.losses[2])]


def test_model_with_nothing_to_train_is_refused() -> None:
    model = Line()
    model.w.requires_grad_(False)
    with pytest.raises(ValueError, match="made_up left nothing to train"):
        loop.train(model, method(), None, feed(), lr=0.1, steps=1)


def test_loss_that_is_no_number_stops_the_run() -> None:
    broken = ({"x": torch.tensor([float("nan")]), "labels": torch.zeros(1)} for _ in range(5))
    with pytest.raises(ValueError, match=r"the loss of step 1 is nan; a smaller learning rate than 0\.1"):
        loop.train(Line(), method(), None, broken, lr=0.1, steps=5)


def test_configure_reaches_into_nested_configurations() -> None:
    assert loop.configure(method(), {"rank": 4, "prefix.length": 7}) == Config(rank=4, prefix=Inner(length=7))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("rnk", "made_up.Config has no field 'rnk'; it has rank, prefix"),
        ("prefix.size", "made_up.Config.prefix has no field 'size'; it has length"),
        ("rank.size", "made_up.Config.rank has no field 'size'; it has none"),
    ],
)
def test_configure_names_a_field_that_does_not_exist(field: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loop.configure(method(), {field: 1})


@pytest.mark.parametrize("name", ["tpu9", "cuda:99", ""])
def test_device_that_cannot_be_used_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be used here"):
        loop.choose_device(name)


def test_device_auto_is_cuda_iff_there_is_one() -> None:
    assert loop.choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_climb_is_the_same_for_a_seed_and_another_for_another() -> None:
    runs = [climb.climb(lora, lora.Config(), RENAME, lr=1e-2, steps=3, seed=seed)[1].losses for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_climb_reports_time_memory_and_both_accuracies() -> None:
    _, result = climb.climb(ia3, ia3.Config(), RENAME, lr=1e-2, steps=2)
    assert result.seconds > 0
    assert result.memory_bytes >= 0
    assert "memory" in result.memory_kind
    assert result.before is not None
    assert result.after is not None
    assert result.before.exact < 0.2
    assert result.trainable == 4 * (128 + 128 + 256)


CLIMBS = [
    pytest.param(full_fine_tuning, 3e-3, 60, id="full_fine_tuning"),
    pytest.param(lora, 1e-2, 150, id="lora"),
    pytest.param(ia3, 1e-1, 150, id="ia3"),
    pytest.param(bitfit, 3e-2, 200, id="bitfit"),
]


@pytest.mark.parametrize(("module", "lr", "steps"), CLIMBS)
def test_method_climbs_the_first_rung(module: ModuleType, lr: float, steps: int) -> None:
    model, result = climb.climb(module, module.Config(), RENAME, lr=lr, steps=steps)
    assert result.before is not None
    assert result.after is not None
    assert result.before.exact < 0.2
    assert result.after.exact >= 0.9
    assert result.losses[-1] < 0.1 * result.losses[0]
    words = ["rename", "a", "c", "e", "f", "h", "l", "="]
    question = torch.tensor([[task.VOCABULARY.index(word) for word in words]])
    assert task.text(task.decode(model, question)[0]) == "l h f e c a <eos>"

"""LT-SFT: both phases against plain fine-tuning written out, rewinding, the pull to the start, and adding changes."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import fishmask, lt_sft
from reference_impls._site import instances

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
FAMILY = "bert"
FAST = lt_sft.Config(passes=2, first_lr=1e-3)


def mask_of(model: nn.Module) -> fishmask.Mask:
    ((_, mask),) = instances(model, fishmask.Mask)
    return mask


def halves(batch: Batch) -> list[Batch]:
    return [{k: v[part] for k, v in batch.items()} for part in (slice(0, 2), slice(2, 4))]


def body(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if not name.startswith("classifier")]


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in body(model)])


def fully_tuned(model: nn.Module, batches: list[Batch], config: lt_sft.Config) -> Tensor:
    """θ₁ by Adam's equations written out, for everything but the head."""
    start, theta = [p.detach().clone() for p in body(model)], body(model)
    m, v = ([torch.zeros_like(p) for p in theta] for _ in range(2))
    steps = config.passes * len(batches)
    for t in range(1, steps + 1):
        model.zero_grad()
        pull = sum((p - old).abs().sum() for p, old in zip(theta, start, strict=True)) / sum(p.numel() for p in theta)
        (model(**batches[(t - 1) % len(batches)]).loss + config.l1 * pull).backward()
        norm = torch.cat([p.grad.flatten() for p in theta]).norm()
        lr = config.first_lr * (steps - t + 1) / steps
        with torch.no_grad():
            for i, p in enumerate(theta):
                g = p.grad * min(1.0, 1.0 / (norm.item() + 1e-6))
                m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
                p -= lr * (m[i] / (1 - 0.9**t)) / ((v[i] / (1 - 0.999**t)).sqrt() + 1e-8)
    return vector(model)


@pytest.mark.parametrize("l1", [0.0, 5.0])
def test_mask_holds_the_entries_that_full_fine_tuning_moved_most(l1: float, make_tiny: MakeTiny) -> None:
    config = lt_sft.Config(passes=2, first_lr=1e-3, l1=l1)
    model, batch = make_tiny(FAMILY)
    before = vector(model.double())
    moved = (fully_tuned(model, halves(batch), config) - before).abs()
    model, _ = make_tiny(FAMILY)
    attached = lt_sft.attach(model.double(), config)
    lt_sft.prepare(attached, halves(batch), config)
    k = int(0.08 * len(before))
    assert len(mask_of(attached).v) == k
    chosen = torch.zeros(len(before), dtype=torch.bool).index_fill(0, mask_of(attached).positions, True)
    expected = torch.zeros_like(chosen).index_fill(0, moved.topk(k).indices, True)
    assert (chosen != expected).sum() <= 4, "only entries that moved as far may change places"
    if l1:
        plain = (fully_tuned(make_tiny(FAMILY)[0].double(), halves(batch), FAST) - before).abs()
        assert moved.sum() < plain.sum()


def test_everything_is_rewound_before_the_second_phase(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    before, weights = model(**batch).logits, copy.deepcopy([p.detach() for p in body(model)])
    attached = lt_sft.attach(model, FAST)
    lt_sft.prepare(attached, halves(batch), FAST)
    assert torch.equal(attached(**batch).logits, before)
    assert all(torch.equal(p, old) for p, old in zip(fishmask.tensors(attached), weights, strict=True))
    assert not mask_of(attached).v.any()
    assert [name for name, p in attached.named_parameters() if p.requires_grad] == ["fishmask.v"]
    assert all(p.grad is None for p in attached.parameters())


def test_second_phase_moves_only_the_chosen_entries(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(FAMILY)
    before = vector(model)
    attached = lt_sft.attach(model, FAST)
    lt_sft.prepare(attached, halves(batch), FAST)
    mask = mask_of(randomise(attached))
    positions, numbers = mask.positions.clone(), mask.v.detach().clone()
    after = vector(lt_sft.merge(attached))
    torch.testing.assert_close(after, before.index_add(0, positions, numbers))
    assert ((after != before).sum() - len(positions)).abs() <= 5  # a number may be too small to move its entry


def test_changes_of_two_tasks_add_up(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny(FAMILY)
    before, changes = vector(model.double()), []
    for part in (slice(0, 2), slice(2, 4)):
        model, batch = make_tiny(FAMILY)
        attached = lt_sft.attach(model.double(), FAST)
        lt_sft.prepare(attached, [{k: v[part] for k, v in batch.items()}], FAST)
        mask = mask_of(randomise(attached))
        changes.append((mask.positions.clone(), mask.v.detach().clone()))
    expected = before
    model, _ = make_tiny(FAMILY)
    model.double()
    for positions, numbers in changes:
        expected = expected.index_add(0, positions, numbers)
        attached = lt_sft.attach(model, FAST)
        mask_of(attached).choose(positions)
        with torch.no_grad():
            mask_of(attached).v.copy_(numbers)
        model = lt_sft.merge(attached)
    torch.testing.assert_close(vector(model), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("passes", "rows"), [(0, 1), (1, 0)])
def test_first_phase_without_a_step_is_refused(passes: int, rows: int, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    with pytest.raises(ValueError, match=f"{passes} passes over {rows} batches"):
        lt_sft.prepare(lt_sft.attach(model), [batch] * rows, lt_sft.Config(passes=passes))

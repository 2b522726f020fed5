"""SaRA: the mask, the penalty, the second mask and the final weights against naive computations in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import fishmask, sara
from reference_impls._site import instances

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
FAMILY = "bert"
SOON = sara.Config(progressive_step=2)


def mask_of(model: nn.Module) -> fishmask.Mask:
    ((_, mask),) = instances(model, fishmask.Mask)
    return mask


def body(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if not name.startswith("classifier")}


def prepared(model: nn.Module, config: sara.Config = SOON) -> nn.Module:
    attached = sara.attach(model.double(), config)
    sara.prepare(attached, [], config)
    return attached


def test_smallest_entries_train_and_start_where_they_were(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    before = model.double()(**batch).logits
    sizes = torch.cat([p.abs().flatten() for p in body(model).values()])
    attached = prepared(model)
    k = int(0.1 * len(sizes))
    assert set(mask_of(attached).positions.tolist()) == set(sizes.argsort()[:k].tolist())
    assert torch.equal(attached(**batch).logits, before)


def test_weights_are_the_papers_equation(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny(FAMILY)
    start = body(model.double())
    sizes = torch.cat([p.abs().flatten() for p in start.values()]).sort().values
    tau = sizes[int(0.1 * len(sizes)) - 1]
    attached = randomise(prepared(model))
    mask = mask_of(attached)
    change = torch.zeros(mask.starts[-1], dtype=torch.float64)
    change[mask.positions] = mask.v.detach()
    trained = dict(zip(start, change.split([p.numel() for p in start.values()]), strict=True))
    merged = body(sara.merge(attached))
    for name, theta in start.items():
        small = (theta.abs() <= tau).double()
        learnt = theta + trained[name].view_as(theta)
        torch.testing.assert_close(merged[name], theta * (1 - small) + learnt * small, rtol=1e-12, atol=1e-12)


def test_penalty_is_the_nuclear_norm_of_one_matrix_after_the_other(
    make_tiny: MakeTiny, randomise: Randomise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sara, "_WIDE", 48)
    config = sara.Config(rank_penalty=0.5)
    model, batch = make_tiny(FAMILY)
    attached = randomise(prepared(model, config)).eval()
    weights = [p.detach() for p in fishmask.tensors(attached)]
    mask = mask_of(attached)
    chosen = torch.zeros(mask.starts[-1], dtype=torch.float64)
    values = torch.cat([p.flatten() for p in weights])[mask.positions] + mask.v.detach()
    chosen[mask.positions] = values
    parts = [part.view_as(p) for part, p in zip(chosen.split([p.numel() for p in weights]), weights, strict=True)]
    wide = [part for part in parts if part.dim() == 2 and min(part.shape) > 48]
    task = attached(**batch).loss
    assert len(wide) > 5
    for part in (*wide, wide[0]):
        norm = torch.linalg.eigvalsh(part @ part.T).clamp(min=0).sqrt().sum()
        torch.testing.assert_close(sara.loss(attached, batch), task + 0.5 * norm, rtol=1e-4, atol=1e-4)


def test_penalty_pulls_on_the_entries_of_its_matrix(make_tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sara, "_WIDE", 48)
    gradients = []
    for penalty in (0.0, 0.5):
        config = sara.Config(rank_penalty=penalty)
        model, batch = make_tiny(FAMILY)
        attached = prepared(model, config).eval()
        sara.loss(attached, batch).backward()
        gradients.append(mask_of(attached).v.grad)
    first = next(i for i, p in enumerate(fishmask.tensors(attached)) if p.dim() == 2 and min(p.shape) > 48)
    low, high = mask_of(attached).bounds[first : first + 2]
    pulled = gradients[1] != gradients[0]
    assert pulled[low:high].all()
    assert not pulled[:low].any()
    assert not pulled[high:].any()


def test_small_matrices_are_not_penalised(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)  # 64 wide
    attached = prepared(model, sara.Config(rank_penalty=100.0)).eval()
    assert torch.equal(sara.loss(attached, batch), attached(**batch).loss)


def test_entries_that_have_grown_rest_after_the_second_mask_and_the_others_train_on(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    attached = prepared(model)
    mask = mask_of(attached)
    start = torch.cat([p.detach().flatten() for p in fishmask.tensors(attached)])[mask.positions]
    tau = start.abs().max()
    optimizer = sara.optimizer(attached, 1e-2, SOON)
    history = []
    for t in range(1, 6):
        optimizer.zero_grad()
        sara.loss(attached, batch).backward()
        optimizer.step()
        sara.step(attached, t, 5)
        history.append(mask.v.detach().clone())
        if t == 2:
            assert not optimizer.state, "the second mask starts with a fresh optimizer"
    grown = (start + history[1]).abs() > tau
    assert 0.05 < grown.double().mean() < 0.95
    assert torch.equal(history[-1][grown], history[1][grown])
    reached = history[0] != 0  # not the rows of tokens that the batch lacks
    assert (history[-1] != history[1])[~grown & reached].double().mean() > 0.9
    assert (history[1] != history[0])[grown].any(), "before that, all train"


def test_preparing_looks_at_no_batch(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(FAMILY)

    class Forbidden(list):  # type: ignore[type-arg]
        def __iter__(self):  # type: ignore[no-untyped-def]
            raise AssertionError("a batch was read")

    sara.prepare(sara.attach(model), Forbidden())


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_impossible_fraction_is_refused(fraction: float, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(FAMILY)
    with pytest.raises(ValueError, match=str(fraction)):
        sara.attach(model, sara.Config(fraction=fraction))
    assert all(p.requires_grad for p in model.parameters())

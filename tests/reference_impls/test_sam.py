"""SAM: the score against the optimisation problem that it solves, and the choice against plain gradients in float64."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import fishmask, sam
from reference_impls._site import instances

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
FAMILY = "bert"


def mask_of(model: nn.Module) -> fishmask.Mask:
    ((_, mask),) = instances(model, fishmask.Mask)
    return mask


def parts(batch: Batch) -> list[Batch]:
    return [{k: v[part] for k, v in batch.items()} for part in (slice(0, 1), slice(1, 4))]


def naive_gradient(model: nn.Module, batches: list[Batch]) -> Tensor:
    """The gradient of the summed losses in one long vector, task head left out."""
    model.double().zero_grad()
    sum(model(**batch).loss for batch in batches).backward()
    return torch.cat([p.grad.flatten() for name, p in model.named_parameters() if not name.startswith("classifier")])


def test_squared_gradient_over_curvature_solves_the_problem() -> None:
    """All masks with two ones are tried, each with its best step."""
    g, h = torch.randn(6, dtype=torch.float64), torch.rand(6, dtype=torch.float64) + 0.5
    lowest = {}
    for chosen in itertools.combinations(range(6), 2):
        at = list(chosen)
        delta = -torch.linalg.solve(torch.diag(h[at]), g[at])
        lowest[chosen] = (g[at] @ delta + 0.5 * delta @ torch.diag(h[at]) @ delta).item()
    best = min(lowest, key=lowest.__getitem__)
    assert set(best) == set((g.square() / h).topk(2).indices.tolist())
    assert lowest[best] == pytest.approx(-0.5 * (g.square() / h).topk(2).values.sum().item())


def test_mask_holds_the_entries_with_the_largest_summed_gradient(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    g = naive_gradient(model, parts(batch))
    model, _ = make_tiny(FAMILY)
    attached = sam.attach(model.double())
    sam.prepare(attached, parts(batch))
    k = int(0.005 * len(g))
    assert set(mask_of(attached).positions.tolist()) == set(g.square().argsort(descending=True)[:k].tolist())


def test_signs_count_so_the_choice_is_not_that_of_summed_squares(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    attached = sam.attach(model.double())
    sam.prepare(attached, parts(batch))
    squares = sum(naive_gradient(make_tiny(FAMILY)[0], [part]).square() for part in parts(batch))
    chosen = mask_of(attached).positions
    assert set(chosen.tolist()) != set(squares.topk(len(chosen)).indices.tolist())


def test_burn_in_limits_the_batches(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    g = naive_gradient(model, parts(batch)[:1])
    model, _ = make_tiny(FAMILY)
    attached = sam.attach(model.double())
    sam.prepare(attached, parts(batch), sam.Config(burn_in=1))
    chosen = mask_of(attached).positions
    assert set(chosen.tolist()) == set(g.square().topk(len(chosen)).indices.tolist())


def test_preparation_moves_nothing_and_leaves_no_gradient(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    before = model(**batch).logits
    attached = sam.attach(model)
    sam.prepare(attached, [batch])
    assert torch.equal(attached(**batch).logits, before)
    assert all(p.grad is None for p in attached.parameters())
    assert [name for name, p in attached.named_parameters() if p.requires_grad] == ["fishmask.v"]


def test_change_is_sparse_and_lands_where_it_was_chosen(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny(FAMILY)
    names = [name for name, _ in model.named_parameters() if not name.startswith("classifier")]
    before = torch.cat([model.get_parameter(name).detach().flatten() for name in names]).double()
    attached = sam.attach(model.double())
    sam.prepare(attached, [batch])
    mask = mask_of(randomise(attached))
    expected = before.scatter_add(0, mask.positions.clone(), mask.v.detach().clone())
    merged = sam.merge(attached)
    after = torch.cat([merged.get_parameter(name).detach().flatten() for name in names])
    torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", [sam.Config(), sam.Config(burn_in=0)])
def test_no_gradient_is_refused(config: sam.Config, make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    attached = sam.attach(model)
    with pytest.raises(ValueError, match="no batch"):
        sam.prepare(attached, [batch] if config.burn_in == 0 else [], config)

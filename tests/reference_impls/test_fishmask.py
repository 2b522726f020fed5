"""FishMask: the information, the choice and the sparse change against naive computations in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import fishmask
from reference_impls._site import instances

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
FAMILY = "bert"


def naive_information(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Squared gradients of the log-likelihood, summed over examples, by plain backward passes on the base model."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in range(4):
        model.zero_grad()
        answer = model(**{k: v[row : row + 1] for k, v in batch.items() if k != "labels"}).logits
        torch.log_softmax(answer, dim=-1)[0, batch["labels"][row]].backward()
        for name, p in model.named_parameters():
            total[name] += p.grad**2
    return {name: value for name, value in total.items() if not name.startswith("classifier")}


def chosen(mask: fishmask.Mask) -> set[int]:
    return set(mask.positions.tolist())


def test_mask_holds_the_entries_with_the_largest_fisher_information(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    information = torch.cat([v.flatten() for v in naive_information(model.double(), batch).values()])
    model, _ = make_tiny(FAMILY)
    attached = fishmask.attach(model.double())
    fishmask.prepare(attached, [batch])
    ((_, mask),) = instances(attached, fishmask.Mask)
    k = int(0.005 * len(information))
    assert mask.v.numel() == k
    assert chosen(mask) == set(information.argsort(descending=True)[:k].tolist())


def test_split_into_batches_does_not_matter_and_samples_limit_it(make_tiny: MakeTiny) -> None:
    masks = []
    for batches, samples in (([slice(0, 4)], 1024), ([slice(0, 1), slice(1, 4)], 1024), ([slice(0, 4)], 2)):
        model, batch = make_tiny(FAMILY)
        attached = fishmask.attach(model.double())
        parts = [{k: v[part] for k, v in batch.items()} for part in batches]
        fishmask.prepare(attached, parts, fishmask.Config(samples=samples))
        masks.append(chosen(next(instances(attached, fishmask.Mask))[1]))
    assert masks[0] == masks[1]
    assert masks[0] != masks[2]


def test_each_chosen_entry_moves_by_its_number_and_no_other(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    names = [name for name, _ in model.named_parameters() if not name.startswith("classifier")]
    before = torch.cat([model.get_parameter(name).detach().flatten() for name in names]).double()
    attached = fishmask.attach(model.double())
    fishmask.prepare(attached, [batch])
    ((_, mask),) = instances(attached, fishmask.Mask)
    nn.init.normal_(mask.v)
    positions, numbers = mask.positions.clone(), mask.v.detach().clone()
    merged = fishmask.merge(attached)
    change = torch.cat([merged.get_parameter(name).detach().flatten() for name in names]) - before
    expected = torch.zeros_like(change)
    for position, number in zip(positions.tolist(), numbers.tolist(), strict=True):
        expected[position] = number
    torch.testing.assert_close(change, expected, rtol=1e-12, atol=1e-12)


def test_gradient_is_the_dense_gradient_at_the_chosen_entries(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    model.double()(**batch).loss.backward()
    dense = torch.cat([p.grad.flatten() for name, p in model.named_parameters() if not name.startswith("classifier")])
    model, _ = make_tiny(FAMILY)
    attached = fishmask.attach(model.double())
    fishmask.prepare(attached, [batch])
    ((_, mask),) = instances(attached, fishmask.Mask)
    attached(**batch).loss.backward()
    torch.testing.assert_close(mask.v.grad, dense[mask.positions], rtol=1e-9, atol=1e-12)


def test_optimizer_keeps_only_as_many_states_as_entries(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    attached = fishmask.attach(model)
    optimizer = torch.optim.AdamW([p for p in attached.parameters() if p.requires_grad])
    attached(**batch).loss.backward()
    optimizer.step()
    ((_, mask),) = instances(attached, fishmask.Mask)
    held = [t.numel() for state in optimizer.state.values() for t in state.values() if t.dim()]
    assert held == [mask.v.numel()] * 2


@pytest.mark.parametrize(("total", "k"), [(100, 7), (97, 10), (10, 10), (1000, 1)])
def test_shares_before_preparation_agree_with_the_positions(total: int, k: int) -> None:
    sizes = [total // 3, 1, total - total // 3 - 1]
    mask = fishmask.Mask(sizes, k, like=torch.zeros(1))
    guessed = list(mask.bounds)
    mask.locate()
    assert guessed == mask.bounds
    assert (mask.bounds[0], mask.bounds[-1]) == (0, k)


def test_choosing_again_starts_again_from_the_base(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny(FAMILY)
    before = model(**batch).logits
    attached = fishmask.attach(model)
    nn.init.normal_(next(instances(attached, fishmask.Mask))[1].v)
    assert not torch.equal(attached(**batch).logits, before)
    fishmask.prepare(attached, [batch])
    assert torch.equal(attached(**batch).logits, before)


def test_no_examples_are_refused(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(FAMILY)
    with pytest.raises(ValueError, match="no example"):
        fishmask.prepare(fishmask.attach(model), [])


@pytest.mark.parametrize("density", [0.0, 1e-9, 1.5])
def test_impossible_density_is_refused(density: float, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(FAMILY)
    with pytest.raises(ValueError, match="density"):
        fishmask.attach(model, fishmask.Config(density=density))
    assert all(p.requires_grad for p in model.parameters())

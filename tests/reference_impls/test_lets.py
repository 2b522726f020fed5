"""LeTS: branches on frozen activations, the gathering module, early pruning and the search, against naive runs."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import lets
from reference_impls._site import instances
from reference_impls.training.checkpoint import adapter_state, load_adapter

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]
LINEAR = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)


def differences(model: nn.Module) -> list[Tensor]:
    """Every M ⊙ δ written out, in the order of blocks and LINEAR."""
    mask = model.lets.mask
    whole = torch.zeros(mask.starts[-1], dtype=mask.v.dtype)
    for place, value in zip(mask.positions.tolist(), mask.v.tolist(), strict=True):
        whole[place] = value
    layers = [layer for _, layer in instances(model, lets.DeltaLinear)]
    return [
        part.view_as(layer.weight)
        for part, layer in zip(whole.split([x.weight.numel() for x in layers]), layers, strict=True)
    ]


def lstm(cell: nn.LSTM, sequence: list[Tensor], suffix: str) -> list[Tensor]:
    """One direction of an LSTM, gate by gate."""
    weights = [getattr(cell, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    state = memory = torch.zeros(*sequence[0].shape[:-1], cell.hidden_size, dtype=sequence[0].dtype)
    states = []
    for x in sequence:
        enter, forget, candidate, leave = (x @ weights[0].T + state @ weights[1].T + weights[2] + weights[3]).chunk(
            4, -1
        )
        memory = forget.sigmoid() * memory + enter.sigmoid() * candidate.tanh()
        state = leave.sigmoid() * memory.tanh()
        states.append(state)
    return states


@pytest.mark.parametrize("decisions", [(None, None), (True, False), (False, True)])
def test_output_is_the_equation(decisions: tuple[bool | None, ...], make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, batch = make_tiny("bert")
    plain = copy.deepcopy(model.double())
    randomise(lets.attach(model))
    branches = [branch for _, branch in instances(model, lets.Branch)]
    for branch, decision in zip(branches, decisions, strict=True):
        if decision is not None:
            branch.alpha.data.fill_(1.0 if decision else -1.0)
            branch.decide()
    inputs: list[tuple[Tensor, dict[str, object]]] = []
    for block in plain.bert.encoder.layer:
        block.register_forward_pre_hook(lambda _, args, kw: inputs.append((args, kw)), with_kwargs=True)
    with torch.no_grad():
        plain(**batch)
    reads = list(inputs)
    results = []
    for at, branch in enumerate(branches):
        args, kw = reads[at]
        twin = copy.deepcopy(plain.bert.encoder.layer[at])
        h = twin(*args, **kw)
        for name, delta in zip(LINEAR, differences(model)[6 * at :], strict=False):
            twin.get_submodule(name).weight.data += delta
        mine = twin(*args, **kw)
        p = 1 / (1 + (-branch.alpha.detach()).exp()) if branch.own is None else float(branch.own)
        results.append(p * mine + (1 - p) * h)
    forwards = lstm(model.lets.lstm, results, "")
    backwards = lstm(model.lets.lstm, results[::-1], "_reverse")[::-1]
    read = sum(torch.cat(both, -1) for both in zip(forwards, backwards, strict=True)) / 2
    v = read @ model.lets.U.weight.T + model.lets.U.bias
    expected = plain.classifier(plain.bert.pooler(v))
    torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-9, atol=1e-9)


def test_no_branch_depends_on_another_and_no_gradient_passes_between_blocks(
    make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny("bert")
    randomise(lets.attach(model)).train()
    _, second = (branch for _, branch in instances(model, lets.Branch))
    seen: list[Tensor] = []
    second.base.attention.self.query.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    model(**batch)
    with torch.no_grad():
        model.lets.mask.v[: model.lets.mask.bounds[6]] += 1  # all of the first block's difference
    model(**batch).loss.backward()
    assert len(seen) == 4
    assert all(torch.equal(x, seen[0]) and not x.requires_grad for x in seen)


def test_pruning_keeps_the_steepest_entries_and_the_difference_starts_at_zero(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    lets.attach(model.double(), lets.Config(density=0.02))
    lets.prepare(model, [batch], lets.Config(density=0.02))
    mask = model.lets.mask
    assert not mask.v.any()
    kept = torch.zeros(mask.starts[-1], dtype=torch.bool)
    kept[mask.positions] = True
    layers = [layer for _, layer in instances(model, lets.DeltaLinear)]

    def slope(index: int, entry: int) -> float:
        """∂ loss / ∂ δ at one entry, measured: only branches see the difference, the frozen run does not."""
        losses = []
        for move in (1e-4, -1e-4):
            one = torch.zeros_like(layers[index].weight).view(-1)
            one[entry] = move
            handle = layers[index].difference.register_forward_hook(
                lambda _, args, out, one=one: out + one.view_as(out)
            )
            with torch.no_grad():
                losses.append(model(**batch).loss.item())
            handle.remove()
        return abs(losses[0] - losses[1]) / 2e-4

    slopes: dict[bool, list[float]] = {True: [], False: []}
    order = torch.cat((mask.positions[:: len(mask.v) // 20], torch.randperm(mask.starts[-1])[:60]))
    for place in order.tolist():
        index = next(i for i in range(len(layers)) if place < mask.starts[i + 1])
        slopes[bool(kept[place])].append(slope(index, place - mask.starts[index]))
    assert min(slopes[True]) >= max(slopes[False]) * (1 - 1e-3)
    assert all(not layer.weight.requires_grad for layer in layers)


def test_loss_has_the_price_of_blocks_still_searched(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    lets.attach(model, lets.Config(price=3.0))
    first, second = (branch for _, branch in instances(model, lets.Branch))
    first.alpha.data.fill_(0.4)
    price = 3.0 / 2 * (1 / (1 + torch.tensor(-0.4).exp()) + 0.5)
    torch.testing.assert_close(lets.loss(model, batch), model(**batch).loss + price)
    second.decide()
    torch.testing.assert_close(lets.loss(model, batch), model(**batch).loss + price - 0.75)


def test_search_ends_halfway_and_a_shared_block_is_not_run_again(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    lets.attach(model)
    first, second = (branch for _, branch in instances(model, lets.Branch))
    first.alpha.data.fill_(0.2)
    second.alpha.data.fill_(-0.2)
    lets.step(model, 4, 10)
    assert first.own is second.own is None
    lets.step(model, 5, 10)
    assert (first.own, second.own) == (True, False)
    assert not first.alpha.requires_grad
    runs: list[int] = []
    for number, branch in enumerate((first, second)):
        branch.base.intermediate.dense.register_forward_hook(lambda *_, n=number: runs.append(n))
    model(**batch)
    assert runs == [0, 0, 1]
    before = adapter_state(model)
    other, _ = make_tiny("bert")
    load_adapter(lets.attach(other), before)
    assert [branch.own for _, branch in instances(other, lets.Branch)] == [True, False]
    torch.testing.assert_close(other(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_models_that_are_no_encoders_are_refused(family: str, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny(family)
    with pytest.raises(ValueError, match="no encoder"):
        lets.attach(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("config", [lets.Config(density=0.0), lets.Config(density=1.5), lets.Config(width=65)])
def test_sizes_that_leave_nothing_are_refused(config: lets.Config, make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    with pytest.raises(ValueError, match="leave"):
        lets.attach(model, config)
    assert all(p.requires_grad for p in model.parameters())

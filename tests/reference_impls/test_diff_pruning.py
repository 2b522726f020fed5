"""Diff pruning: gates, penalty, phases and the final change against naive computations in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reference_impls import diff_pruning
from reference_impls._site import instances

Batch = dict[str, Tensor]
MakeTiny = Callable[[str], tuple[nn.Module, Batch]]
Randomise = Callable[[nn.Module], nn.Module]


def naive_gate(logit: float, u: float) -> float:
    """The hard-concrete gate for one number."""
    s = 1 / (1 + math.exp(-(math.log(u) - math.log(1 - u) + logit)))
    return min(1.0, max(0.0, s * 3.0 - 1.5))


@pytest.fixture(params=[False, True], ids=["elements", "structured"])
def diff(request: pytest.FixtureRequest) -> diff_pruning.Diff:
    config = diff_pruning.Config(structured=request.param)
    diff = diff_pruning.Diff(torch.zeros(3, 4, dtype=torch.float64), config)
    for parameter in diff.parameters():
        nn.init.normal_(parameter)
    return diff


def test_change_is_the_papers_equation_with_drawn_gates(diff: diff_pruning.Diff) -> None:
    diff.train().draw()
    assert diff.noise is not None
    u = [noise.sigmoid() for noise in diff.noise]  # the draw, from its logit
    group = naive_gate(diff.alpha_group.item(), u[1].item()) if diff.alpha_group is not None else 1.0
    weight = torch.randn(3, 4, dtype=torch.float64)
    for i in range(3):
        for j in range(4):
            gate = naive_gate(diff.alpha[i, j].item(), u[0][i, j].item())
            expected = weight[i, j] + group * gate * diff.w[i, j]
            torch.testing.assert_close(diff(weight)[i, j], expected, rtol=1e-10, atol=1e-10)


def test_evaluation_takes_the_median_gate(diff: diff_pruning.Diff) -> None:
    diff.draw()
    diff.eval()
    group = naive_gate(diff.alpha_group.item(), 0.5) if diff.alpha_group is not None else 1.0
    expected = [[group * naive_gate(logit, 0.5) for logit in row] for row in diff.alpha.tolist()]
    gates = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(diff.change(), gates * diff.w, rtol=1e-12, atol=1e-12)


def test_penalty_is_the_expected_number_of_open_gates() -> None:
    torch.manual_seed(5)
    diff = diff_pruning.Diff(torch.zeros(40_000), diff_pruning.Config(alpha_init=0.7, penalty=2.0))
    nn.init.ones_(diff.w)
    diff.train().draw()
    open_share = (diff.change() > 0).double().mean().item()
    assert diff.penalty().item() / 2.0 / 40_000 == pytest.approx(open_share, abs=0.01)


def test_gates_start_open() -> None:
    diff = diff_pruning.Diff(torch.zeros(40_000), diff_pruning.Config())
    nn.init.ones_(diff.w)
    diff.train().draw()
    change = diff.change()
    assert (change > 0).double().mean().item() == pytest.approx(0.993, abs=0.002)
    assert (change == 1).double().mean().item() == pytest.approx(0.967, abs=0.004)


def test_gradients_are_those_that_the_official_code_writes_out(diff: diff_pruning.Diff) -> None:
    diff.train().draw()
    assert diff.noise is not None
    g = torch.randn(3, 4, dtype=torch.float64)
    (diff.change() * g).sum().backward()
    s = (diff.noise[0] + diff.alpha.detach()).sigmoid()
    z, slope = (3 * s - 1.5).clamp(0, 1), 3 * s * (1 - s) * ((3 * s > 1.5) & (3 * s < 2.5))
    if diff.alpha_group is None:
        z_group = torch.ones((), dtype=torch.float64)
    else:
        t = (diff.noise[1] + diff.alpha_group.detach()).sigmoid()
        z_group, slope_group = (3 * t - 1.5).clamp(0, 1), 3 * t * (1 - t) * ((3 * t > 1.5) & (3 * t < 2.5))
        torch.testing.assert_close(diff.alpha_group.grad, (g * diff.w * z).sum() * slope_group, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(diff.w.grad, g * z * z_group, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(diff.alpha.grad, g * diff.w * z_group * slope, rtol=1e-9, atol=1e-12)


def test_every_pretrained_parameter_has_a_change_and_the_head_has_none(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    pretrained = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("classifier"))
    tensors = sum(not name.startswith("classifier") for name, _ in model.named_parameters())
    attached = diff_pruning.attach(model, diff_pruning.Config(structured=True))
    assert sum(p.numel() for p in attached.parameters() if p.requires_grad) == 2 * pretrained + tensors


def test_tied_embeddings_change_together(make_tiny: MakeTiny, randomise: Randomise) -> None:
    model, _ = make_tiny("gpt2")
    attached = randomise(diff_pruning.attach(model))
    assert attached.lm_head.weight is not attached.transformer.wte.weight  # computed at each reading
    assert torch.equal(attached.eval().lm_head.weight, attached.transformer.wte.weight)
    merged = diff_pruning.merge(attached)
    assert merged.lm_head.weight is merged.transformer.wte.weight


def test_loss_is_the_models_own_plus_the_penalty(make_tiny: MakeTiny) -> None:
    model, batch = make_tiny("bert")
    attached = diff_pruning.attach(model.double(), diff_pruning.Config(penalty=1e-3)).train()
    total = diff_pruning.loss(attached, batch)
    gates = sum(1 / (1 + math.exp(-5.0)) * d.alpha.numel() for _, d in instances(attached, diff_pruning.Diff))
    torch.testing.assert_close(total, attached(**batch).loss + 1e-3 * gates, rtol=1e-9, atol=1e-9)


def test_gates_have_a_learning_rate_of_their_own(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    attached = diff_pruning.attach(model)
    changes, gates = diff_pruning.optimizer(attached, 3e-4).param_groups
    assert (changes["lr"], gates["lr"]) == (3e-4, 0.1)
    assert {id(p) for p in changes["params"]} == {id(d.w) for _, d in instances(attached, diff_pruning.Diff)}
    assert len(changes["params"]) + len(gates["params"]) == sum(p.requires_grad for p in attached.parameters())


@pytest.mark.parametrize("structured", [False, True])
def test_halfway_the_largest_entries_stay_and_their_mask_is_fixed(
    structured: bool, make_tiny: MakeTiny, randomise: Randomise
) -> None:
    model, batch = make_tiny("bert")
    config = diff_pruning.Config(structured=structured)
    attached = randomise(diff_pruning.attach(model.double(), config)).eval()
    diffs = [d for _, d in instances(attached, diff_pruning.Diff)]
    before = torch.cat([d.change().detach().flatten() for d in diffs])
    diff_pruning.step(attached, 4, 10)
    assert diffs[0].alpha.requires_grad, "too early: nothing happens before half of the steps"
    diff_pruning.step(attached, 5, 10)
    after = torch.cat([d.change().detach().flatten() for d in diffs])
    kept = after != 0
    assert kept.sum() == int(0.005 * len(before))
    torch.testing.assert_close(after[kept], before[kept], rtol=1e-12, atol=1e-12)
    assert before[kept].abs().min() >= before[~kept].abs().max()

    attached.train()
    optimizer = diff_pruning.optimizer(attached, 1e-2, config)
    for _ in range(3):
        optimizer.zero_grad()
        diff_pruning.loss(attached, batch).backward()
        optimizer.step()
        diff_pruning.step(attached, 9, 10)
    final = torch.cat([d.change().detach().flatten() for d in diffs])
    assert torch.equal(final != 0, kept)
    assert not torch.equal(final, after)
    assert all(not p.requires_grad for d in diffs for p in d.logits)


def test_change_that_is_zero_is_not_kept(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    attached = diff_pruning.attach(model)
    diff_pruning.step(attached, 1, 1)
    diffs = [d for _, d in instances(attached, diff_pruning.Diff)]
    assert all((d.alpha < 0).all() for d in diffs), "every gate is shut: there was nothing to keep"


def test_equal_changes_are_cut_at_the_exact_number(make_tiny: MakeTiny) -> None:
    model, _ = make_tiny("bert")
    attached = diff_pruning.attach(model)
    diffs = [d for _, d in instances(attached, diff_pruning.Diff)]
    for diff in diffs:
        nn.init.ones_(diff.w)
    diff_pruning.step(attached, 1, 1)
    assert sum(int((d.w != 0).sum()) for d in diffs) == int(0.005 * sum(d.w.numel() for d in diffs))

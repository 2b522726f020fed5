"""Diff pruning: learns a change of every parameter together with a mask that drives most of the change to zero.

    θ = θ₀ + z_g z ⊙ w        z = clip(s (r − l) + l, 0, 1),   s = σ(log u − log(1 − u) + α),   u ~ U(0, 1)
    loss = task + λ [Σ σ(α − log(−l / r)) + Σ σ(α_g − log(−l / r))]        the expected number of open gates

For each parameter tensor θ₀ of the model, w and α have its shape. z is hard-concrete: differentiable in α, yet exactly
0 or 1 most of the time (l = −1.5, r = 1.5). Two numbers train per parameter of the model, w from 0 (so the model starts
where it was) and α from 5 (open). The structured variant gives each tensor one more logit α_g, which opens or shuts it
as a whole; otherwise z_g = 1.

``step`` takes the three phases: first the relaxed training above; halfway, only the largest entries of the change stay;
then these train on with the mask fixed. The remaining change is 0.5 % of the model and adds onto θ₀.

Paper:     Guo, Rush, Kim 2021, arXiv:2012.07463, sections 3.1 to 3.3
Official:  github.com/dguo98/DiffPruning at eaa70b2, examples/run_glue_diffpruning.py and run_glue_fixmask_finetune.py
Differs:   in evaluation z is its median (u = ½), the official code draws it there too; the fixed mask is the same
           gate driven to ±∞; one learning rate for w in both phases (1e-5, then 5e-5 there); the task head stays
           frozen; groups are single tensors, as in the code, and off by default: two numbers per parameter exactly
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._site import backbone, instances
from reference_impls._surgery import derive, freeze, refuse, settle

_LOW, _HIGH = -1.5, 1.5  # section 3.1: the interval that the relaxed gate is stretched to
_FIXED = 50.0  # a logit so large that no draw of u moves the gate: open, or shut with a minus
_EDGE = 1e-4  # u stays this far from 0 and 1, as in the official code


@dataclass(frozen=True)
class Config:
    """The official script's values for BERT-large."""

    density: float = 0.005  # share of the change that survives
    penalty: float = 1.25e-7  # λ
    alpha_init: float = 5.0  # P(z > 0) = 0.993 at the start
    structured: bool = False  # one more gate per tensor: the paper's "struct." rows
    alpha_lr: float = 0.1  # learning rate of the gates; w has the caller's


class Diff(nn.Module):
    """One parameter tensor's change w behind its gates."""

    def __init__(self, weight: Tensor, config: Config) -> None:
        super().__init__()
        self.density, self.penalty_weight = config.density, config.penalty
        self.w = nn.Parameter(torch.zeros_like(weight))
        self.alpha = nn.Parameter(torch.full_like(weight, config.alpha_init))
        self.alpha_group = nn.Parameter(weight.new_full((1,), config.alpha_init)) if config.structured else None
        self.noise: list[Tensor] | None = None  # log u − log(1 − u) for each of ``logits``, drawn by ``loss``

    @property
    def logits(self) -> list[nn.Parameter]:
        """α, and α_g in the structured variant."""
        return [self.alpha] if self.alpha_group is None else [self.alpha, self.alpha_group]

    def draw(self) -> None:
        """Draws new gates for the coming forward pass, which may read the tensor several times."""
        self.noise = [torch.rand_like(logit).clamp(_EDGE, 1 - _EDGE).logit() for logit in self.logits]

    def change(self) -> Tensor:
        """z_g z ⊙ w, with the gates last drawn (training) or their medians (evaluation)."""
        change: Tensor = self.w
        for i, logit in enumerate(self.logits):
            change = change * gate(logit if self.noise is None or not self.training else logit + self.noise[i])
        return change

    def forward(self, weight: Tensor) -> Tensor:
        """The tensor with its change."""
        return weight + self.change()

    def penalty(self) -> Tensor:
        """λ times the expected number of open gates."""
        open_gates = [(logit - math.log(-_LOW / _HIGH)).sigmoid().sum() for logit in self.logits]
        return self.penalty_weight * sum(open_gates[1:], start=open_gates[0])


def gate(logit: Tensor) -> Tensor:
    """The hard-concrete gate in [0, 1]."""
    return (logit.sigmoid() * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and gives each of its parameters, the task head's apart, a gated change."""
    entries = list(backbone(freeze(model)))
    if not entries:
        refuse(model, f"{type(model).__name__} has no parameter to change")
    for name, parameter in entries:
        derive(model, name, Diff(parameter, config))
    return model


def optimizer(model: nn.Module, lr: float, config: Config = Config()) -> torch.optim.Optimizer:
    """AdamW with ``lr`` for the changes and ``config.alpha_lr`` for the gates."""
    diffs = [diff for _, diff in instances(model, Diff)]
    gates = [logit for diff in diffs for logit in diff.logits]
    groups = [
        {"params": [diff.w for diff in diffs], "lr": lr},
        {"params": gates, "lr": config.alpha_lr},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The task's loss with newly drawn gates, plus the penalty on open ones."""
    diffs = [diff for _, diff in instances(model, Diff)]
    for diff in diffs:
        diff.draw()
    return model(**batch).loss + sum(diff.penalty() for diff in diffs if diff.alpha.requires_grad)


def step(model: nn.Module, t: int, total: int) -> None:
    """Halfway through the ``total`` steps, prunes the change and fixes the mask."""
    diffs = [diff for _, diff in instances(model, Diff)]
    if t >= total // 2 and diffs[0].alpha.requires_grad:
        _prune(diffs)


@torch.no_grad()
def _prune(diffs: list[Diff]) -> None:
    """Keeps the largest entries of the change over all tensors: their gates open for good, all others shut."""
    changes = [diff.eval().change() for diff in diffs]
    kept = max(1, int(diffs[0].density * sum(change.numel() for change in changes)))
    sizes = torch.cat([change.abs().flatten() for change in changes])
    largest = torch.zeros_like(sizes, dtype=torch.bool)
    largest[sizes.topk(kept).indices] = True
    parts = largest.split([change.numel() for change in changes])
    for diff, change, part in zip(diffs, changes, parts, strict=True):
        keep = part.view_as(change) & (change != 0)
        diff.w.copy_(change * keep)
        diff.alpha.copy_(torch.where(keep, _FIXED, -_FIXED))
        if diff.alpha_group is not None:
            diff.alpha_group.fill_(_FIXED)
        for logit in diff.logits:
            logit.requires_grad_(False)
            logit.grad = None
        diff.train()


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its parameter, the gates at their medians, and restores the plain model."""
    return settle(model.eval())

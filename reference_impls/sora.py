"""SoRA: LoRA with a gate on every rank; the gates shrink at each step, and a rank whose gate reaches zero is dropped.

    y = x Wᵀ + b + (α / r) (g ⊙ (x Aᵀ)) Bᵀ        x (…, d_in)   W (d_out, d_in)   A (r, d_in)   g (r,)   B (d_out, r)

    after each step    g ← sign(g) max(|g| − τ, 0)

Training starts with the largest rank that one would pay for. Shrinking by τ is the proximal step of an L1 penalty on g:
a gate closes, to exactly zero, unless the loss pulls it open faster than it shrinks. So each matrix finds a rank of its
own. B starts at zero, so the adapted model equals the base model. Afterwards ``prune`` drops the closed ranks and
leaves a LoRA of the remaining rank, still scaled by α over the first rank; the change adds onto W.

The scheduler raises τ in equal stages, for a model that gets sparser in the course of one run.

Paper:     Ding et al. 2023, arXiv:2311.11696, section 3
Official:  github.com/TsinghuaC3I/SoRA at 7ca93d5, src/lora.py, src/sparse_optimizer.py (no licence file)
Differs:   the paper's τ is the learning rate times a penalty; the official scripts shrink by the number itself, as here,
           and another file there multiplies it by the rate: ``times_rate``. Their second, ordinary L1 term of the loss
           and their weight decay of gates are left out. Stages are equal parts of one run, there whole runs
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._site import ATTENTION, FFN_IN, FFN_OUT, instances
from reference_impls._surgery import freeze, refuse, replace, settle
from reference_impls.lora import LoRALinear


@dataclass(frozen=True)
class Config:
    """The official scripts' values for DeBERTaV3-base."""

    rank: int = 8  # r at the start; scripts/run_glue_sora_no_schedule.sh
    alpha: float = 16.0  # scale = alpha / rank; src/lora.py
    threshold: float = 3e-4  # τ, sparse_lambda_2 of the same script; of the first stage
    times_rate: bool = False  # the paper's form: τ is the threshold times the learning rate
    stages: int = 1  # 1 is no schedule; scripts/run_glue_sora_schedule_dense.sh has 7
    last_threshold: float = 7e-4  # of the last stage; max_lambda of the same script
    target: str = f"{ATTENTION}|{FFN_IN}|{FFN_OUT}"  # src/lora.py: q, k, v, o and both feed-forward matrices


class SoRALinear(LoRALinear):
    """A frozen linear layer with a low-rank change whose ranks can be shut."""

    def __init__(self, base: nn.Linear, config: Config) -> None:
        super().__init__(base, config.rank, config.alpha)
        self.g = nn.Parameter(nn.init.normal_(base.weight.new_empty(config.rank)))
        self.first, self.last, self.stages = config.threshold, config.last_threshold, config.stages
        self.threshold = config.threshold

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the change's."""
        low = self.g * (x @ self.A.T)  # (…, d_in) -> (…, r)
        return self.base(x) + self.scale * (low @ self.B.T)  # (…, r) -> (…, d_out)

    @torch.no_grad()
    def shrink(self, rate: float) -> None:
        """The proximal step; ``rate`` multiplies the threshold."""
        self.g.copy_(nn.functional.softshrink(self.g, rate * self.threshold))

    @torch.no_grad()
    def prune(self) -> None:
        """Drops the closed ranks; A takes up the gates of the others, which become one."""
        kept = self.g != 0
        self.A = nn.Parameter(self.g[kept, None] * self.A[kept])
        self.B = nn.Parameter(self.B[:, kept])
        self.g = nn.Parameter(torch.ones_like(self.g[kept]))

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight."""
        self.base.weight += self.scale * ((self.B * self.g) @ self.A)
        return self.base


class ProximalAdamW(torch.optim.AdamW):
    """AdamW, and after each of its steps the gates shrink."""

    def __init__(self, model: nn.Module, lr: float, times_rate: bool) -> None:
        super().__init__([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
        self.layers, self.times_rate = [layer for _, layer in instances(model, SoRALinear)], times_rate

    def step(self, closure: None = None) -> None:
        """One step of AdamW, then the proximal step."""
        super().step(closure)
        for layer in self.layers:
            layer.shrink(self.param_groups[0]["lr"] if self.times_rate else 1.0)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a gated low-rank change beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, the rank exceeds a matrix, a threshold is negative or no stage is left.
    """
    freeze(model)
    if min(config.threshold, config.last_threshold) < 0 or config.stages < 1:
        refuse(model, f"thresholds {config.threshold} and {config.last_threshold} in {config.stages} stages cannot be")
    replace(model, config.target, lambda layer: SoRALinear(layer, config))
    return model


def optimizer(model: nn.Module, lr: float, config: Config = Config()) -> torch.optim.Optimizer:
    """AdamW with the proximal step."""
    return ProximalAdamW(model, lr, config.times_rate)


def step(model: nn.Module, t: int, total: int) -> None:
    """Sets the threshold of the stage that step ``t + 1`` of ``total`` belongs to."""
    for _, layer in instances(model, SoRALinear):
        stage = min(layer.stages - 1, math.floor(t * layer.stages / total))
        part = stage / (layer.stages - 1) if layer.stages > 1 else 0.0
        layer.threshold = layer.first + part * (layer.last - layer.first)


def prune(model: nn.Module) -> dict[str, int]:
    """Drops the closed ranks of every change in place; returns how many each layer keeps. The output stays as it was."""
    ranks = {}
    for name, layer in instances(model, SoRALinear):
        layer.prune()
        ranks[name] = len(layer.g)
    return ranks


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

"""AdaLoRA: writes each change like a singular value decomposition and moves a common budget of ranks where it counts.

    y = x Wᵀ + b + s ((x Qᵀ) ⊙ λ) Pᵀ,   s = α / r        x (…, d_in)   P (d_out, r)   λ (r,)   Q (r, d_in)
    loss = task + γ Σ (‖PᵀP − I‖² + ‖QQᵀ − I‖²)           over all adapted matrices; squared Frobenius norms
    S_k = s(λ_k) + mean_j s(P_jk) + mean_j s(Q_kj)         the importance of triplet k of one matrix, where s = Ī · Ū,
    Ī ← β₁ Ī + (1 − β₁) I,   Ū ← β₂ Ū + (1 − β₂) |I − Ī|   of the sensitivity I = |w ∂loss/∂w| of a number w

λ starts at zero, so training starts at the base model. ``step`` keeps the b(t) most important triplets of the whole
model and sets the λ of the others to zero; while the budget still falls these may return. After a warm-up, b falls
along a cubic curve from r to the target rank per matrix; then the choice is final and training goes on. P diag(λ) Q
merges away.

Paper:     Zhang et al. 2023, arXiv:2303.10512, sections 3.1 to 3.3 and algorithm 1
Official:  github.com/QingruZhang/AdaLoRA at d10f5eb, loralib/loralib/adalora.py (MIT)
Differs:   the penalty is the paper's; the official code (and peft) takes the mean of un-squared norms, so its γ does not
           carry over. Sensitivity is taken before the optimizer's step, as in algorithm 1, there after it. Ties do not
           overrun the budget. The schedule's phases are shares of the run, steps there
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import LINEAR, instances
from reference_impls._surgery import freeze, refuse, replace, settle


@dataclass(frozen=True)
class Config:
    """The official README's values, where no other place is named."""

    init_rank: int = 12  # r: 1.5 times the target
    target_rank: int = 8  # the mean rank per matrix at the end
    alpha: float = 16.0
    orthogonality: float = 0.1  # γ, table 8
    sensitivity_decay: float = 0.85  # β₁, section 4.1
    uncertainty_decay: float = 0.85  # β₂, same place
    allocate_every: int = 100  # ΔT in steps, table 8; 10 in the README's short run
    warmup_share: float = 0.17  # of the run at full rank: 500 steps of 3,000
    final_share: float = 0.5  # of the run with the choice made: 1,500 steps of 3,000
    target: str = LINEAR  # section 4.1: all matrices of a block


class SVDLinear(Around):
    """A frozen linear layer with a change of r weighted triplets."""

    def __init__(self, base: nn.Linear, config: Config) -> None:
        super().__init__(base)
        r = config.init_rank
        if not 0 < r <= min(base.in_features, base.out_features):
            raise ValueError(f"init_rank {r} does not fit a {base.out_features} x {base.in_features} matrix")
        self.config, self.scale = config, config.alpha / r
        self.P = nn.Parameter(base.weight.new_empty(base.out_features, r))
        self.lam = nn.Parameter(base.weight.new_zeros(r))
        self.Q = nn.Parameter(base.weight.new_empty(r, base.in_features))
        for vectors in (self.P, self.Q):
            nn.init.normal_(vectors, std=0.02)  # as in the official code
        self.smoothed: dict[str, tuple[Tensor, Tensor]] = {}  # Ī and Ū of P, λ and Q
        self.watching = True  # until the final phase

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the change's."""
        low = (x @ self.Q.T) * self.lam  # (…, d_in) -> (…, r)
        return self.base(x) + self.scale * (low @ self.P.T)  # (…, r) -> (…, d_out)

    def penalty(self) -> Tensor:
        """How far P and Q are from orthonormal vectors."""
        identity = torch.eye(len(self.lam), device=self.lam.device, dtype=self.lam.dtype)
        return (self.P.T @ self.P - identity).square().sum() + (self.Q @ self.Q.T - identity).square().sum()

    @torch.no_grad()
    def observe(self) -> None:
        """Takes the present gradients into the smoothed sensitivity and uncertainty."""
        for name in ("P", "lam", "Q"):
            w = getattr(self, name)
            if w.grad is None or not self.watching:
                continue
            sensitivity = (w * w.grad).abs()
            mean, spread = self.smoothed.get(name, (torch.zeros_like(w), torch.zeros_like(w)))
            mean = torch.lerp(sensitivity, mean, self.config.sensitivity_decay)
            spread = torch.lerp((sensitivity - mean).abs(), spread, self.config.uncertainty_decay)
            self.smoothed[name] = (mean, spread)

    def importance(self) -> Tensor:
        """S (r,); ``ValueError`` when no step of ``optimizer`` has been observed."""
        if len(self.smoothed) < 3:
            raise ValueError("no gradient was seen: AdaLoRA needs its own optimizer, or observe() before each step")
        P, lam, Q = (mean * spread for mean, spread in (self.smoothed[name] for name in ("P", "lam", "Q")))
        return lam + P.mean(dim=0) + Q.mean(dim=1)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight."""
        self.base.weight += self.scale * ((self.P * self.lam) @ self.Q)
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts triplets beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, a rank does not fit, or the phases fill more than the run.
    """
    freeze(model)
    if not 0 < config.target_rank <= config.init_rank:
        refuse(model, f"target_rank {config.target_rank} must lie between 1 and init_rank {config.init_rank}")
    if min(config.warmup_share, config.final_share) < 0 or config.warmup_share + config.final_share >= 1:
        refuse(model, f"shares {config.warmup_share} and {config.final_share} leave no steps to reduce the budget in")
    if config.allocate_every < 1:
        refuse(model, f"allocate_every {config.allocate_every} is no number of steps")
    replace(model, config.target, lambda layer: SVDLinear(layer, config))
    return model


def optimizer(model: nn.Module, lr: float, config: Config = Config()) -> torch.optim.Optimizer:
    """AdamW that lets every layer observe its gradients before it takes a step."""
    layers = [layer for _, layer in instances(model, SVDLinear)]
    adamw = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    adamw.register_step_pre_hook(lambda *_: _observe(layers))
    return adamw


def _observe(layers: list[SVDLinear]) -> None:
    for layer in layers:
        layer.observe()


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The task's loss plus γ times the penalty of every layer."""
    layers = [layer for _, layer in instances(model, SVDLinear)]
    return model(**batch).loss + layers[0].config.orthogonality * sum(layer.penalty() for layer in layers)


def budget(t: int, total: int, matrices: int, config: Config) -> int:
    """b(t): how many triplets of all ``matrices`` are kept after step ``t`` (from 1) of ``total``; section 3.3."""
    start, end = int(config.warmup_share * total), total - int(config.final_share * total)
    left = 1 - (min(max(t, start), end) - start) / (end - start)  # 1 in the warm-up, 0 in the final phase
    return int(matrices * (config.target_rank + (config.init_rank - config.target_rank) * left**3))


def step(model: nn.Module, t: int, total: int) -> None:
    """Cuts the model to its budget: every ``allocate_every`` steps while it falls, at each step when it is final."""
    layers = [layer for _, layer in instances(model, SVDLinear)]
    config = layers[0].config
    start, end = int(config.warmup_share * total), total - int(config.final_share * total)
    if t > end or (t > start and t % config.allocate_every == 0):
        _keep(layers, budget(t, total, len(layers), config))
    for layer in layers:
        layer.watching = t + 1 < end


@torch.no_grad()
def _keep(layers: list[SVDLinear], number: int) -> None:
    """Sets every λ to zero but those of the ``number`` most important triplets."""
    scores = torch.cat([layer.importance() for layer in layers])
    kept = torch.zeros_like(scores)
    kept[scores.topk(number).indices] = 1
    for layer, part in zip(layers, kept.split(len(layers[0].lam)), strict=True):
        layer.lam.mul_(part)


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

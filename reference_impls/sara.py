"""SaRA: trains the weights that are too small to matter, and keeps what they become close to low rank.

    θ = θ₀ ⊙ (1 − M) + P ⊙ M,      M = [|θ₀| ≤ τ],      P = θ₀ + scatter(v),   v (k,)
    loss = task + λ ‖P ⊙ M‖_*                            the nuclear norm of one matrix at a time

θ₀ is every parameter of the model but the task head. The k = ⌊fraction · |θ₀|⌋ entries smallest in size hardly change
what the model does, so they are free to learn; τ is the largest of them. v, their change, starts at zero. The penalty on
the trained entries of each matrix, the sum of its singular values, keeps them from overfitting.

``step`` draws the mask again after ``progressive_step`` steps: entries that have grown beyond τ keep their values and
rest, those that are still small train on, with a fresh optimizer. At the end P takes the place of the small weights.
``prepare`` draws the first mask: it needs no data, only values, which a dry run has not.

Paper:     Hu et al. 2024, arXiv:2409.06633, sections 3.2 to 3.4
Official:  github.com/sjtuplayer/SaRA at 5cb8c67, optim/adamw.py (licence not seen)
Differs:   the official code fixes τ (2e-3 for Stable Diffusion) and counts what is below; a share fits any model's scale.
           It writes back |θ₀|, a lost sign that is not copied. One matrix a step gets the penalty, as there, but in turn
           instead of at random. After the second mask v keeps its length; there the optimizer gets a shorter one
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls import fishmask
from reference_impls._site import instances
from reference_impls._surgery import add, settle

_WIDE = 64  # the official code: a matrix with a side this short gets no penalty


@dataclass(frozen=True)
class Config:
    """The official README's values, and a share in place of its threshold."""

    fraction: float = 0.1  # the paper calls the smallest 10 % to 20 % ineffective
    rank_penalty: float = 5e-4  # λ, --lambda_rank
    progressive_step: int = 2500  # --progresive_iter, half of the run


class Progress(nn.Module):
    """What ``loss`` and ``step`` remember."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.turn = 0  # the matrix that is penalised next
        self.optimizer: torch.optim.Optimizer | None = None


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and lets k of its entries train, evenly spread until ``prepare`` finds the smallest.

    Raises ``ValueError`` when the fraction leaves no entry, or more entries than there are.
    """
    fishmask.attach(model, fishmask.Config(density=config.fraction))
    add(model, "sara", Progress(config))
    return model


@torch.no_grad()
def prepare(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """Draws the mask of the smallest entries; looks at no batch."""
    fishmask.choose_largest(model, [-weight.abs() for weight in fishmask.tensors(model)])


def optimizer(model: nn.Module, lr: float, config: Config = Config()) -> torch.optim.Optimizer:
    """AdamW, remembered because ``step`` restarts it."""
    mask, progress = _parts(model)
    progress.optimizer = torch.optim.AdamW([mask.v], lr=lr, weight_decay=0.0)
    return progress.optimizer


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The task's loss, plus λ times the nuclear norm of the next matrix's trained entries."""
    mask, progress = _parts(model)
    task = model(**batch).loss
    weights = fishmask.tensors(model)
    wide = [i for i, weight in enumerate(weights) if weight.dim() == 2 and min(weight.shape) > _WIDE]
    if not wide or not progress.config.rank_penalty:
        return task
    i = wide[progress.turn % len(wide)]
    progress.turn += 1
    trained = small(mask, i, weights[i])
    return task + progress.config.rank_penalty * torch.linalg.svdvals(trained.float()).sum()


def small(mask: fishmask.Mask, i: int, weight: Tensor) -> Tensor:
    """P ⊙ M for the ``i``-th tensor: its trained entries, and zero elsewhere."""
    low, high = mask.bounds[i], mask.bounds[i + 1]
    where = mask.positions[low:high] - mask.starts[i]
    values = weight.flatten()[where] + mask.v[low:high]  # P
    return torch.zeros_like(weight).flatten().index_add(0, where, values).view_as(weight)


@torch.no_grad()
def step(model: nn.Module, t: int, total: int) -> None:
    """After ``progressive_step`` steps, lets those entries rest that have grown beyond τ."""
    mask, progress = _parts(model)
    if t != progress.config.progressive_step:
        return
    start = torch.cat([weight.flatten() for weight in fishmask.tensors(model)])[mask.positions]
    still_small = (start + mask.v).abs() <= start.abs().max()  # τ
    mask.v.register_hook(lambda gradient: gradient * still_small)
    if progress.optimizer is not None:
        progress.optimizer.state.clear()  # without momentum, an entry without gradient stays where it is


def _parts(model: nn.Module) -> tuple[fishmask.Mask, Progress]:
    ((_, mask),) = instances(model, fishmask.Mask)
    ((_, progress),) = instances(model, Progress)
    return mask, progress


def merge(model: nn.Module) -> nn.Module:
    """Writes P into the weights and restores the plain model."""
    return settle(model)

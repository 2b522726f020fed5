"""LT-SFT: fine-tunes fully, keeps the entries that moved most, goes back to the start and trains only these again.

    θ = θ₀ + scatter(φ),   φ (k,) at the k positions with the largest |θ₁ − θ₀|,      k = ⌊density · |θ₀|⌋

θ₀ is every parameter of the model but the task head, as one long vector, and θ₁ what ordinary fine-tuning makes of it.
``prepare`` is that first phase: it trains θ on the batches that it is given, with an optional pull λ mean|θ − θ₀| towards
the start, fixes the positions and restores θ₀. Then φ, zero at the start, is all that trains, and adds onto θ₀ to merge.
It is a lottery ticket: the winning entries, rewound.

The changes of two tasks, or of a language and a task, are sparse vectors over the same θ₀ and can be added: merge one,
attach again, load or train the other. The first phase costs what full fine-tuning does, in time and memory.

Paper:     Ansell, Ponti, Korhonen, Vulić 2021, arXiv:2110.07560, sections 3.1 and 3.2
Official:  github.com/cambridgeltl/composable-sft at 0289343, src/sft/lt_sft.py (Apache-2.0)
Differs:   the first phase sees the batches of ``prepare`` as often as ``passes`` says, in the paper as many steps as the
           second; one round of choosing, the official code can unfreeze in several. It trains and rewinds the head too,
           and may leave out norms or embeddings; here the head stays frozen. φ trains by itself as in FishMask, whose
           mask this is; the official code masks dense gradients
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls import fishmask
from reference_impls._surgery import settle


@dataclass(frozen=True)
class Config:
    """The official script's values, examples/token-classification/train_pos_tagging.sh."""

    density: float = 0.08  # 14,155,776 of the 178 million parameters of multilingual BERT
    passes: int = 1  # of the first phase over its batches: --full_ft_max_epochs_per_iteration
    first_lr: float = 5e-5  # of the first phase; falls to zero in a straight line
    l1: float = 0.0  # λ, off in the script; the paper's value could not be verified


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and lets k of its entries train, evenly spread until ``prepare`` chooses them.

    Raises ``ValueError`` when the density leaves no entry, or more entries than there are.
    """
    return fishmask.attach(model, fishmask.Config(density=config.density))


def prepare(model: nn.Module, batches: Sequence[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """The first phase: trains every parameter, chooses the entries that moved most, and restores the rest."""
    steps = config.passes * len(batches)
    if steps < 1:
        raise ValueError(f"{config.passes} passes over {len(batches)} batches train nothing to choose from")
    weights = fishmask.tensors(model)
    start = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=config.first_lr, weight_decay=0.0)
    for t in range(steps):
        optimizer.param_groups[0]["lr"] = config.first_lr * (1 - t / steps)
        loss = model(**batches[t % len(batches)]).loss
        if config.l1:
            loss = loss + config.l1 * distance(weights, start)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        model.zero_grad()
    with torch.no_grad():
        moved = [(weight - old).abs() for weight, old in zip(weights, start, strict=True)]
        for weight, old in zip(weights, start, strict=True):
            weight.requires_grad_(False).copy_(old)
        fishmask.choose_largest(model, moved)


def distance(weights: Sequence[Tensor], start: Sequence[Tensor]) -> Tensor:
    """Mean size of an entry of θ − θ₀."""
    total = sum((weight - old).abs().sum() for weight, old in zip(weights, start, strict=True))
    return total / sum(old.numel() for old in start)


def merge(model: nn.Module) -> nn.Module:
    """Writes φ into the weights and restores the plain model."""
    return settle(model)

"""VeRA: all layers share one frozen random pair of matrices, and each trains only two vectors that scale it.

    y = x Wᵀ + β + b ⊙ ((d ⊙ (x Aᵀ)) Bᵀ)        x (…, d_in)   A (r, d_in)   B (d_out, r)   d (r,)   b (d_out,)

A and B are drawn once for the whole model, as large as its largest adapted layer; the others use their first columns
and rows. They never train: r + d_out numbers do, per matrix, instead of LoRA's r (d_in + d_out). b starts at zero, so
training starts at the base model, and d at 0.1. The change diag(b) B diag(d) A is added to W after training.

Paper:     Kopiczko, Blankevoort, Asano 2023, arXiv:2310.11454, equation 2 and sections 3.1 to 3.3
Official:  none read; the paper's site dkopi.github.io/vera links to the authors' code
Differs:   nothing known. A and B come from ``seed``, so they are neither saved nor dependent on the device; they are
           Kaiming-uniform with the fan of the whole shared matrix, as in peft, with whose default seed they agree
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import QKV, QUERY, VALUE
from reference_impls._surgery import freeze, refuse, replace, settle


@dataclass(frozen=True)
class Config:
    """Size and seed of the shared matrices, and where they are used."""

    rank: int = 1024  # table 8, RoBERTa-base; 256 on RoBERTa-large
    d_initial: float = 0.1  # section 3.3; smaller starts did as well
    seed: int = 0  # of A and B: what a task's file needs besides the vectors
    target: str = f"{QUERY}|{VALUE}|{QKV}"  # section 4.1


class Projection(nn.Module):
    """The frozen random matrices that every layer shares."""

    def __init__(self) -> None:
        super().__init__()
        self.d_in = self.d_out = 0

    def fit(self, layer: nn.Linear) -> None:
        """Makes room for ``layer``."""
        self.d_in, self.d_out = max(self.d_in, layer.in_features), max(self.d_out, layer.out_features)

    def draw(self, rank: int, seed: int, like: Tensor) -> None:
        """Draws A (r, largest d_in) and B (largest d_out, r): the same numbers on every device."""
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("A", (rank, self.d_in)), ("B", (self.d_out, rank))):
            matrix = nn.init.kaiming_uniform_(torch.empty(shape), generator=generator)
            self.register_buffer(name, matrix.to(like.device, like.dtype), persistent=False)


class VeRALinear(Around):
    """A frozen linear layer beside the shared matrices and its own two trained vectors."""

    def __init__(self, base: nn.Linear, shared: Projection, rank: int, d_initial: float) -> None:
        super().__init__(base)
        self.shared = shared
        self.d = nn.Parameter(base.weight.new_full((rank,), d_initial))
        self.b = nn.Parameter(base.weight.new_zeros(base.out_features))
        shared.fit(base)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """The layer's part of A, (r, d_in), and of B, (d_out, r)."""
        return self.shared.A[:, : self.in_features], self.shared.B[: self.out_features]

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the scaled random projection's."""
        A, B = self.matrices()
        low = self.d * (x @ A.T)  # (…, d_in) -> (…, r)
        return self.base(x) + self.b * (low @ B.T)  # (…, r) -> (…, d_out)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight."""
        A, B = self.matrices()
        self.base.weight += self.b[:, None] * ((B * self.d) @ A)
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts scaled random matrices beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the rank is below 1.
    """
    freeze(model)
    if config.rank < 1:
        refuse(model, f"rank {config.rank} leaves no random direction to scale; give at least 1")
    shared = Projection()
    hits = replace(model, config.target, lambda layer: VeRALinear(layer, shared, config.rank, config.d_initial))
    shared.draw(config.rank, config.seed, model.get_submodule(hits[0]).weight)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

"""MiSS: adds up pieces of the input and sends the sum through one trained matrix, beside the frozen one.

    y = x Wᵀ + b + (Σ_g x₍g₎) D          x (…, d_in) in pieces x₍g₎ (…, r), g = 1 … ⌈d_in / r⌉          D (r, d_out)

Only D trains: r d_out numbers per matrix. It equals a change of W in which the block Dᵀ (d_out, r) is repeated along
the inputs, so groups of inputs share its columns; its rank is r, twice LoRA's for as many numbers. D starts at zero,
so training starts at the base model. Of the input, only the r sums are kept for the backward pass. D merges away.

Paper:     Kang, Yin 2024, arXiv:2409.15371 (version of December 2025), equation 2 and table 2, the efficient form
Official:  github.com/JL-er/MiSS at a17e631 (no licence file), which trains with huggingface/peft's MissConfig
Differs:   where r does not divide d_in, the last piece is shorter (peft pads x with zeros, to the same effect). The
           variants ``bat`` (blocks multiplied by the weight's own) and ``mini`` (D repeated along the outputs too) are
           left out
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from reference_impls._layer import Around
from reference_impls._site import LINEAR
from reference_impls._surgery import freeze, replace, settle


@dataclass(frozen=True)
class Config:
    """Length of a piece, and where."""

    rank: int = 64  # table 10; 128 on 13B in table 11
    target: str = LINEAR  # table 10: all seven matrices of a block


class MiSSLinear(Around):
    """A frozen linear layer with a trained matrix behind the sum of its input's pieces."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__(base)
        if not 0 < rank <= base.in_features:
            raise ValueError(f"rank {rank}: the input of a layer has {base.in_features} numbers, no such piece")
        self.whole = base.in_features - base.in_features % rank  # up to here r divides
        self.D = nn.Parameter(base.weight.new_zeros(rank, base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the sum's."""
        r = len(self.D)
        low = x[..., : self.whole].unflatten(-1, (-1, r)).sum(-2)  # (…, d_in) -> (…, pieces, r) -> (…, r)
        if self.whole < self.in_features:
            low = low + pad(x[..., self.whole :], (0, r - self.in_features % r))
        return self.base(x) + low @ self.D  # (…, r) -> (…, d_out)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with Dᵀ added to each of its weight's pieces."""
        for piece in self.base.weight.split(len(self.D), dim=1):  # views (d_out, r), the last one perhaps narrower
            piece += self.D.T[:, : piece.shape[1]]
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a shared piece beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or a piece is longer than an input.
    """
    freeze(model)
    replace(model, config.target, lambda layer: MiSSLinear(layer, config.rank))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

"""LoRA: learns the change of a weight matrix as a product of two thin ones, beside the frozen matrix.

    y = x Wᵀ + b + (α / r) (x Aᵀ) Bᵀ          x (…, d_in)   W (d_out, d_in)   A (r, d_in)   B (d_out, r)

Only A and B train: r (d_in + d_out) numbers per matrix instead of d_in d_out. B starts at zero, so the adapted model
equals the base model; A starts random, so that B receives a gradient at the first step (A itself does from the second).
The change (α / r) B A has rank at most r and can be added to W after training: no cost at inference.

Paper:     Hu et al. 2021, arXiv:2106.09685, equation 3 and section 4.1
Official:  github.com/microsoft/LoRA, loralib/layers.py (MIT)
Differs:   A is Kaiming-uniform as in the official code, the paper says Gaussian; no dropout on x (the official code
           offers it, default 0). Default targets are the paper's query and value projections; all linear layers do
           better (Dettmers et al. 2023, arXiv:2305.14314, section 4).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import QKV, QUERY, VALUE
from reference_impls._surgery import freeze, replace, settle


@dataclass(frozen=True)
class Config:
    """What the paper leaves to the user."""

    rank: int = 8  # section 7.2: 4 to 8 suffice on GPT-3
    alpha: float = 8.0  # scale = alpha / rank; the paper sets alpha to the first rank tried and never tunes it
    target: str = f"{QUERY}|{VALUE}|{QKV}"  # section 7.1: with a given budget these two together do best


class LoRALinear(Around):
    """A frozen linear layer with a trainable low-rank change."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(base)
        if not 0 < rank <= min(base.in_features, base.out_features):
            raise ValueError(f"rank {rank} does not fit a {base.out_features} x {base.in_features} matrix")
        self.scale = alpha / rank
        self.A = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.B = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # nn.Linear's own initialisation

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the change's."""
        low = x @ self.A.T  # (…, d_in) -> (…, r)
        return self.base(x) + self.scale * (low @ self.B.T)  # (…, r) -> (…, d_out)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight."""
        self.base.weight += self.scale * (self.B @ self.A)
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a low-rank change beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the rank exceeds a matrix.
    """
    return insert(freeze(model), config)


def insert(model: nn.Module, config: Config = Config()) -> nn.Module:
    """The second half of ``attach``: for methods that combine LoRA with others on a frozen model."""
    replace(model, config.target, lambda layer: LoRALinear(layer, config.rank, config.alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

"""KronA: learns the change of a weight matrix as a Kronecker product of two small ones, beside the frozen matrix.

    y = x Wᵀ + b + s x (A ⊗ B)ᵀ        A (a1, a2)   B (d_out / a1, d_in / a2)   so that A ⊗ B is (d_out, d_in)

The product is never formed: with X the input of one token as an (a2, d_in / a2) matrix, (A ⊗ B) x is A X Bᵀ read row by
row. rank(A ⊗ B) = rank A · rank B, so a1 a2 + (d_out / a1)(d_in / a2) numbers can make a change of full rank, where
LoRA's is bounded by r. B starts at zero (the adapted model equals the base model), A random. It merges away.

Paper:     Edalati et al. 2022, arXiv:2212.10650, section 3
Official:  none published
Differs:   the paper's shapes for A and B could not be verified; 16 x 16 divides the widths of BERT, T5, ViT and Llama
           and is close to the smallest count for widths below 1024. Which factor starts at zero is our choice (the
           product is zero either way). s is tuned per task in the paper; 1 here.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reference_impls._layer import Around
from reference_impls._site import QKV, QUERY, VALUE
from reference_impls._surgery import freeze, replace, settle


@dataclass(frozen=True)
class Config:
    """Shape of A, scale and targets."""

    a1: int = 16  # rows of A; must divide d_out. Ours: see "Differs"
    a2: int = 16  # columns of A; must divide d_in
    scale: float = 1.0  # s, tuned in the paper
    target: str = f"{QUERY}|{VALUE}|{QKV}"  # as LoRA; the survey compares the two there


def kronecker(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Gives x (A ⊗ B)ᵀ without forming A ⊗ B: x (…, a2 b2), A (a1, a2), B (b1, b2) -> (…, a1 b1)."""
    tiles = x.unflatten(-1, (A.shape[1], B.shape[1]))  # (…, a2 b2) -> (…, a2, b2)
    return (A @ (tiles @ B.T)).flatten(-2)  # (…, a2, b1), (…, a1, b1) -> (…, a1 b1)


class KronALinear(Around):
    """A frozen linear layer with a trainable Kronecker product beside it."""

    def __init__(self, base: nn.Linear, a1: int, a2: int, scale: float) -> None:
        super().__init__(base)
        if a1 < 1 or a2 < 1 or base.out_features % a1 or base.in_features % a2:
            raise ValueError(f"A of {a1} x {a2} does not divide a {base.out_features} x {base.in_features} matrix")
        self.scale = scale
        self.A = nn.Parameter(base.weight.new_empty(a1, a2))
        self.B = nn.Parameter(base.weight.new_zeros(base.out_features // a1, base.in_features // a2))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the product's, tile by tile."""
        change = checkpoint(
            kronecker, x, self.A, self.B, use_reentrant=False, preserve_rng_state=False
        )  # keeps x alone
        return self.base(x) + self.scale * change

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the product added to its weight."""
        self.base.weight += self.scale * torch.kron(self.A, self.B)
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a Kronecker product beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or A's shape does not divide a matrix.
    """
    freeze(model)
    replace(model, config.target, lambda layer: KronALinear(layer, config.a1, config.a2, config.scale))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every product to its weight and restores plain linear layers."""
    return settle(model)

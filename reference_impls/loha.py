"""LoHa: learns the change of a weight matrix as the element-wise product of two low-rank ones, of rank up to r².

    y = x Wᵀ + b + (α / r) x [(B₁ A₁) ⊙ (B₂ A₂)]ᵀ      x (…, d_in)   W (d_out, d_in)   A₁, A₂ (r, d_in)   B₁, B₂ (d_out, r)

2 r (d_in + d_out) numbers train, as many as LoRA's of rank 2 r, but the change may have rank r². B₂ starts at zero, so
the adapted model equals the base model; the other three start random. The change adds onto W after training.

The libraries form the change in full for every layer. It need not be: the product of two sums of r columns times rows
is a sum of r², so (B₁ A₁) ⊙ (B₂ A₂) = B A, where column (i, j) of B is the product of column i of B₁ and column j of
B₂, and the rows of A likewise. x meets A and B in turn, at most r² (d_in + d_out) numbers, no matrix of W's size.

Paper:     Hyeon-Woo et al. 2021, arXiv:2108.06098, section 2.2, proposition 1 (FedPara, for whole weights); as an
           adapter Yeh et al. 2023, arXiv:2309.14859, equation 3
Official:  github.com/KohakuBlueleaf/LyCORIS at 01eed77, lycoris/modules/loha.py (Apache-2.0)
Differs:   linear layers only, no Tucker form for convolutions; no dropout of rows or modules (off there too)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import LINEAR
from reference_impls._surgery import freeze, replace, settle


@dataclass(frozen=True)
class Config:
    """The LyCORIS paper's defaults for image models."""

    rank: int = 4  # its appendix on hyperparameters
    alpha: float = 2.0  # scale = alpha / rank, same place
    target: str = LINEAR  # every matrix of every block, as there


class LoHaLinear(Around):
    """A frozen linear layer with a trainable Hadamard product of two low-rank matrices beside it."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(base)
        if not 0 < rank <= min(base.in_features, base.out_features):
            raise ValueError(f"rank {rank} does not fit a {base.out_features} x {base.in_features} matrix")
        self.scale = alpha / rank
        new = base.weight.new_empty
        self.A1, self.A2 = (nn.Parameter(new(rank, base.in_features)) for _ in range(2))
        self.B1, self.B2 = (nn.Parameter(new(base.out_features, rank)) for _ in range(2))
        nn.init.normal_(self.A1)  # these four as in the official code
        nn.init.normal_(self.A2)
        nn.init.normal_(self.B1, std=0.1)
        nn.init.zeros_(self.B2)

    def factors(self) -> tuple[Tensor, Tensor]:
        """A (r², d_in) and B (d_out, r²), whose product B A is the change before scaling."""
        A = (self.A1[:, None] * self.A2).flatten(0, 1)  # (r, 1, d_in) * (r, d_in) -> (r², d_in)
        B = (self.B1[:, :, None] * self.B2[:, None]).flatten(1)  # (d_out, r, 1) * (d_out, 1, r) -> (d_out, r²)
        return A, B

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the change's."""
        A, B = self.factors()
        low = x @ A.T  # (…, d_in) -> (…, r²)
        return self.base(x) + self.scale * (low @ B.T)  # (…, r²) -> (…, d_out)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight."""
        self.base.weight += self.scale * (self.B1 @ self.A1) * (self.B2 @ self.A2)
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a change beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the rank exceeds a matrix.
    """
    freeze(model)
    replace(model, config.target, lambda layer: LoHaLinear(layer, config.rank, config.alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

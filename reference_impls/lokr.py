"""LoKr: learns the change of a weight matrix as a Kronecker product whose larger factor is a low-rank product.

    y = x Wᵀ + b + (α / r) x [C ⊗ (B A)]ᵀ      C (f, f)   A (r, d_in / f)   B (d_out / f, r)   W (d_out, d_in)

The change consists of f × f tiles, all the same low-rank matrix B A, each weighted by one entry of C. Its rank may reach
f r, with f² + r (d_in + d_out) / f numbers: fewer than LoRA's by nearly the factor f. A starts at zero, so the adapted
model equals the base model; B and C start random. No matrix of W's size is formed: the f parts of x meet A and C, then
B. The change adds onto W after training.

Paper:     Yeh et al. 2023, arXiv:2309.14859, equations 4 and 5
Official:  github.com/KohakuBlueleaf/LyCORIS at 01eed77, lycoris/modules/lokr.py (Apache-2.0)
Differs:   B A always has rank r and f must divide both widths; the official code silently takes the whole block when r
           reaches half of it (that is KronA, see krona.py) and another f when this one does not divide. C is not
           decomposed; linear layers only; no dropout of rows or modules. The paper's runs keep the block whole
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import LINEAR
from reference_impls._surgery import freeze, replace, settle
from reference_impls.krona import kronecker


@dataclass(frozen=True)
class Config:
    """Number of tiles, and the rank within them."""

    factor: int = 8  # f, the LyCORIS paper's appendix on hyperparameters
    rank: int = 8  # r; ours, the default of Hugging Face PEFT
    alpha: float = 8.0  # scale = alpha / rank; same place
    target: str = LINEAR  # every matrix of every block, as in the LyCORIS paper


class LoKrLinear(Around):
    """A frozen linear layer with a trainable Kronecker product beside it."""

    def __init__(self, base: nn.Linear, factor: int, rank: int, alpha: float) -> None:
        super().__init__(base)
        d_in, d_out = base.in_features, base.out_features
        if factor < 1 or d_in % factor or d_out % factor:
            raise ValueError(f"factor {factor} does not divide a {d_out} x {d_in} matrix")
        d_in, d_out = d_in // factor, d_out // factor
        if not 0 < rank <= min(d_in, d_out):
            raise ValueError(f"rank {rank} does not fit a tile of {d_out} x {d_in}")
        self.scale = alpha / rank
        self.C = nn.Parameter(base.weight.new_empty(factor, factor))
        self.A = nn.Parameter(base.weight.new_zeros(rank, d_in))
        self.B = nn.Parameter(base.weight.new_empty(d_out, rank))
        nn.init.kaiming_uniform_(self.C, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.B, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the change's, as C ⊗ (B A) = (I ⊗ B) (C ⊗ A)."""
        low = kronecker(x, self.C, self.A)  # (…, d_in) -> (…, f r)
        tiles = low.unflatten(-1, self.C.shape[:1] + self.A.shape[:1]) @ self.B.T  # (…, f, r) -> (…, f, d_out / f)
        return self.base(x) + self.scale * tiles.flatten(-2)  # (…, d_out)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight."""
        self.base.weight += self.scale * torch.kron(self.C, self.B @ self.A)
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a change beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, the factor does not divide a width or the rank exceeds a tile.
    """
    freeze(model)
    replace(model, config.target, lambda layer: LoKrLinear(layer, config.factor, config.rank, config.alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

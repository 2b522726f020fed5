"""BOFT: rotates a layer's input as OFT does, by a product of sparse rotations that together mix all coordinates.

    y = (x R) Wᵀ + β        R = B_m … B₁,    B_i = P_i diag(R_i1, …, R_ik) P_iᵀ,    R_ij = (I + Q_ij) (I − Q_ij)⁻¹

    x (…, d_in)   W (d_out, d_in)   B_i, P_i (d_in, d_in)   R_ij, Q_ij (b, b), Q_ij skew-symmetric   k = d_in / b

OFT's blocks never mix coordinates of different blocks. Here the coordinates are cut into pieces of b / 2. In B₁ a block
joins neighbouring pieces, in B₂ pieces that are two apart, then four, as in the fast Fourier transform: m = 1 + log₂ k
factors connect every input to every output with m d_in (b − 1) / 2 numbers. They start at zero, so R starts as the
identity, and R is multiplied into W after training. Each P_i is a reshape; neither P_i nor R is formed.

Paper:     Liu et al. 2023, arXiv:2311.06243, section 4, "block butterfly"
Official:  github.com/wy1iu/butterfly-oft at 5b5a7b0, which points to Hugging Face PEFT (no licence)
Differs:   PEFT also trains a scale per output, the paper's count has none; it stores full blocks and skews them, and
           without its CUDA kernel falls back to one factor with a warning. The order of the factors is PEFT's. No
           dropout of blocks
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import LINEAR
from reference_impls._surgery import freeze, replace, settle
from reference_impls.oft import cayley, skew, turn


@dataclass(frozen=True)
class Config:
    """Number of factors and size of their blocks."""

    factors: int = 2  # m; tables 2 and 3, Llama-2-7B
    block_size: int = 8  # b; same place
    target: str = LINEAR  # appendix A: every linear layer of the blocks


def join(x: Tensor, R: Tensor, distance: int) -> Tensor:
    """Gives x B, turning pairs of pieces of b / 2 numbers that are ``distance`` pieces apart. x (…, k b), R (k, b, b)."""
    pairs = x.unflatten(-1, (-1, 2, distance, R.shape[-1] // 2))  # (…, k b) -> (…, k / distance, 2, distance, b / 2)
    turned = turn(pairs.transpose(-3, -2).flatten(-4), R)  # the two pieces of a pair side by side
    return turned.unflatten(-1, (-1, distance, 2, R.shape[-1] // 2)).transpose(-3, -2).flatten(-4)


class BOFTLinear(Around):
    """A frozen linear layer whose input passes through m sparse rotations."""

    def __init__(self, base: nn.Linear, factors: int, block_size: int) -> None:
        super().__init__(base)
        b, d = block_size, base.in_features
        if factors < 1 or b < 2 or b % 2 or d % (b * 2 ** (factors - 1)):
            raise ValueError(f"{factors} factors with blocks of {b} do not make a butterfly of the input width {d}")
        self.block_size = b
        self.q = nn.Parameter(base.weight.new_zeros(factors, d // b, b * (b - 1) // 2))

    def rotations(self) -> Tensor:
        """The blocks of all factors (m, k, b, b)."""
        return cayley(skew(self.q, self.block_size))

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output for the rotated input."""
        for i, R in reversed([*enumerate(self.rotations())]):  # x B_m … B₁
            x = join(x, R, 2**i)
        return self.base(x)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with W Rᵀ = W B₁ᵀ … B_mᵀ as its weight."""
        weight = self.base.weight
        for i, R in enumerate(self.rotations()):
            weight = join(weight, R.mT, 2**i)
        self.base.weight.copy_(weight)
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and rotates the input of every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the butterfly does not fit an input width.
    """
    freeze(model)
    replace(model, config.target, lambda layer: BOFTLinear(layer, config.factors, config.block_size))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Multiplies every rotation into its weight and restores plain linear layers."""
    return settle(model)

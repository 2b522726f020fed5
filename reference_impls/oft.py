"""OFT: turns the input of a weight matrix by a trained rotation, which keeps the angles between the matrix's rows.

    y = (x R) Wᵀ + β       R = diag(R₁, …, R_k),   R_i = (I + Q_i) (I − Q_i)⁻¹,   Q_iᵀ = −Q_i

    x (…, d_in)   W (d_out, d_in)   R_i, Q_i (b, b)   k = d_in / b

A row of W, the paper's neuron, is turned as a whole: w becomes R w, with its length and its angles to all other rows as
they were. Each R_i is the Cayley transform of a skew-symmetric Q_i, so it is orthogonal whatever the trained numbers
are. Only the b (b − 1) / 2 numbers above the diagonal of each Q_i train; from zero, so that R starts as the identity.
R is multiplied into W after training. Here it turns x instead of W: no matrix of W's size is formed.

In the constrained variant (COFT), ``step`` pulls each Q_i back into a ball around zero: the model stays near its start.

Paper:     Qiu et al. 2023, arXiv:2306.07280, equations 2 and 3, section 3
Official:  github.com/Zeju1997/oft at 8b9c7c5, oft-control/oft.py (MIT)
Differs:   the paper fixes four blocks, whose size grows with the width; here the size is fixed, as in Hugging Face PEFT.
           The official code takes R or its transpose in different classes; R as above is the paper's. The radius of
           the constrained variant is the official code's ε b² / √k. No re-scaling of rows, no dropout of blocks
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import ATTENTION, instances
from reference_impls._surgery import freeze, replace, settle


@dataclass(frozen=True)
class Config:
    """Size of the blocks, and the ball of the constrained variant."""

    block_size: int = 32  # b; Hugging Face PEFT's default
    constrained: bool = False  # the paper's COFT
    epsilon: float = 6e-5  # appendix A, for subjects of images; only the constrained variant uses it
    target: str = ATTENTION  # appendix A: the attention layers


def skew(entries: Tensor, b: int) -> Tensor:
    """Skew-symmetric matrices (…, b, b) from their numbers above the diagonal (…, b (b − 1) / 2), row by row."""
    rows, columns = torch.triu_indices(b, b, 1, device=entries.device)
    upper = entries.new_zeros(*entries.shape[:-1], b * b).index_copy(-1, rows * b + columns, entries)
    upper = upper.unflatten(-1, (b, b))
    return upper - upper.mT


def cayley(Q: Tensor) -> Tensor:
    """(I + Q)(I − Q)⁻¹ = 2 (I − Q)⁻¹ − I for skew-symmetric Q (…, b, b): orthogonal, and the identity for Q = 0."""
    exact = Q if Q.dtype == torch.float64 else Q.float()  # no solver for half precision; the blocks are small
    identity = torch.eye(Q.shape[-1], dtype=exact.dtype, device=Q.device)
    return (2 * torch.linalg.inv(identity - exact) - identity).to(Q.dtype)


def turn(x: Tensor, R: Tensor) -> Tensor:
    """Gives x diag(R₁, …, R_k): x (…, k b), R (k, b, b)."""
    parts = x.unflatten(-1, R.shape[:2])  # (…, k b) -> (…, k, b)
    return torch.einsum("...kb,kbc->...kc", parts, R.to(x.dtype)).flatten(-2)


class OFTLinear(Around):
    """A frozen linear layer whose input is rotated."""

    def __init__(self, base: nn.Linear, config: Config) -> None:
        super().__init__(base)
        b, d = config.block_size, base.in_features
        if b < 2 or d % b:
            raise ValueError(f"blocks of {b} do not divide the input width {d}")
        if config.constrained and not config.epsilon > 0:
            raise ValueError(f"epsilon {config.epsilon} leaves the constrained variant no room")
        self.block_size = b
        self.radius = config.epsilon * b**2 / (d // b) ** 0.5 if config.constrained else None
        self.q = nn.Parameter(base.weight.new_zeros(d // b, b * (b - 1) // 2))

    def rotation(self) -> Tensor:
        """The blocks of R (k, b, b)."""
        return cayley(skew(self.q, self.block_size))

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output for the rotated input."""
        return self.base(turn(x, self.rotation()))

    @torch.no_grad()
    def constrain(self) -> None:
        """Shortens every Q_i that is longer than the radius; ‖Q_i‖ counts the numbers below the diagonal too."""
        if self.radius is not None:
            lengths = 2**0.5 * self.q.norm(dim=1, keepdim=True)
            self.q *= (self.radius / lengths).clamp(max=1)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with W Rᵀ as its weight."""
        self.base.weight.copy_(turn(self.base.weight, self.rotation().mT))
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and rotates the input of every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the block size does not divide an input width.
    """
    freeze(model)
    replace(model, config.target, lambda layer: OFTLinear(layer, config))
    return model


def step(model: nn.Module, t: int, total: int) -> None:
    """In the constrained variant, brings every rotation back near the identity."""
    for _, layer in instances(model, OFTLinear):
        layer.constrain()


def merge(model: nn.Module) -> nn.Module:
    """Multiplies every rotation into its weight and restores plain linear layers."""
    return settle(model)

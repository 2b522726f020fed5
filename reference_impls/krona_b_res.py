"""KronA^B_res: a Kronecker product beside the whole feed-forward network, with a residual whose weight is learned.

    y = FFN(x) + s x (A ⊗ B)ᵀ + s_r x      x, y (…, d)   A (a1, a2)   B (d / a1, d / a2)   s_r one number

KronA moves from single matrices to the place of a parallel adapter: it reads what the feed-forward network reads and
adds to what it gives. The map is linear and has no bottleneck: up to full rank with a1 a2 + (d / a1)(d / a2) numbers,
where an adapter is as narrow as it is small. B and the residual's weight s_r start at zero, so the model starts where
it was. Beside a network that is not linear, nothing can be merged.

Paper:     Edalati et al. 2022, arXiv:2212.10650, section 3 (KronA^B and KronA^B_res)
Official:  none published
Differs:   the paper's text could not be read, only what others say of it: the shapes of A and B, their start and that
           of s_r are choices made here, as in krona.py. s is tuned per task in the paper; 1 here
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from reference_impls._branch import beside
from reference_impls._site import FFN_IN, FFN_OUT
from reference_impls._surgery import freeze
from reference_impls.krona import kronecker


@dataclass(frozen=True)
class Config:
    """Shape of A, scale, and between which layers the branch runs."""

    a1: int = 16  # rows of A; must divide the model's width. Ours: near the square root of the usual widths
    a2: int = 16  # columns of A; likewise
    scale: float = 1.0  # s, tuned in the paper
    first: str = FFN_IN  # reads this layer's input
    last: str = FFN_OUT  # adds to this layer's output


class Branch(nn.Module):
    """A Kronecker product and a weighted residual."""

    def __init__(self, like: Tensor, d: int, config: Config) -> None:
        super().__init__()
        a1, a2 = config.a1, config.a2
        if a1 < 1 or a2 < 1 or d % a1 or d % a2:
            raise ValueError(f"A of {a1} x {a2} does not divide the width {d}")
        self.scale = config.scale
        self.A = nn.Parameter(like.new_empty(a1, a2))
        self.B = nn.Parameter(like.new_zeros(d // a1, d // a2))
        self.s_r = nn.Parameter(like.new_zeros(()))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(…, d) -> (…, d)."""
        return self.scale * kronecker(x, self.A, self.B) + self.s_r * x


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and runs a branch beside every feed-forward network.

    Raises ``ValueError`` when the model has none under these names or A's shape does not divide its width.
    """

    def build(first: nn.Linear, last: nn.Linear) -> Branch:
        if first.in_features != last.out_features:
            raise ValueError(f"a branch from width {first.in_features} to {last.out_features} cannot be added")
        return Branch(last.weight, last.out_features, config)

    beside(freeze(model), config.first, config.last, build)
    return model

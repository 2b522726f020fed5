"""LoRETTA_rep: LoRA whose two thin matrices are chains of small tensors, multiplied out at each use.

    y = x Wᵀ + b + (α / r) (x Aᵀ) Bᵀ          x (…, d_in)   W (d_out, d_in)   A = TT(G)ᵀ (r, d_in)   B = TT(H)ᵀ (d_out, r)
    TT(G)[a₁, …, a_p] = G₁[a₁] G₂[a₂] ⋯ G_p[a_p]          G_i (t, k_i, t), with 1 in place of t at both ends

A matrix with n entries is read row by row as a tensor of p modes, k₁ ⋯ k_p = n, and each entry is a product of p slices.
The cores G and H are all that trains. Their number grows with the logarithm of the matrix: at rank 8 and a width of 4096
they are 680 for a matrix of 32,768 entries. All cores start random, scaled so that A and B have the variance of a linear
layer of their size: the model does not start where it was, but no core keeps the others from learning. The change has
rank at most r and merges.

Paper:     Yang, Zhou, Wong, Zhang 2024, arXiv:2402.11417, equations 3 and 4 and section 3.3
Official:  github.com/yifanycc/loretta at c66bbb3, loretta/tensor_layers/low_rank_tensors.py and layers.py (GPL-3.0)
Differs:   modes are eights and what is left, where the official code has a table of widths, and some last entries stay
           unused if they do not multiply to n. The paper takes the noise of the random start out of the weights; the
           code does not, nor do we. It trains the layer norms and a factored classifier too, which stay frozen here
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
    """The official README's values."""

    rank: int = 8
    tensor_rank: int = 5  # t
    alpha: float = 16.0  # scale = alpha / rank
    target: str = f"{QUERY}|{VALUE}|{QKV}"


class TensorTrain(nn.Module):
    """A matrix (d_in, d_out) as a chain of cores."""

    def __init__(self, like: Tensor, d_in: int, d_out: int, rank: int) -> None:
        super().__init__()
        modes = modes_of(d_in * d_out)
        if rank < 1:
            raise ValueError(f"tensor_rank {rank} must be at least 1")
        self.shape = (d_in, d_out)
        self.cores = nn.ParameterList()
        std = (d_in + d_out) ** -0.5  # of an entry of the matrix
        for i, mode in enumerate(modes):
            left, right = (1 if i == 0 else rank), (1 if i == len(modes) - 1 else rank)
            core = nn.Parameter(like.new_empty(left, mode, right))
            nn.init.normal_(core, std=std ** (1 / len(modes)) / math.sqrt(right))
            self.cores.append(core)

    def matrix(self) -> Tensor:
        """(d_in, d_out)."""
        chain = self.cores[0].flatten(0, 1)  # (k₁, t)
        for core in list(self.cores)[1:]:
            chain = (chain @ core.flatten(1)).view(-1, core.shape[2])  # (k₁ ⋯ kᵢ₋₁, t) -> (k₁ ⋯ kᵢ, t)
        return chain.flatten()[: math.prod(self.shape)].view(self.shape)


def modes_of(n: int) -> list[int]:
    """Modes of a tensor with at least ``n`` entries: eights, and last what is left, from 8 to 64."""
    p = 1
    while 8 ** (p + 1) <= n:
        p += 1
    return [8] * (p - 1) + [-(-n // 8 ** (p - 1))]


class LoRETTALinear(Around):
    """A frozen linear layer with a low-rank change whose factors are tensor trains."""

    def __init__(self, base: nn.Linear, config: Config) -> None:
        super().__init__(base)
        if not 0 < config.rank <= min(base.in_features, base.out_features):
            raise ValueError(f"rank {config.rank} does not fit a {base.out_features} x {base.in_features} matrix")
        self.scale = config.alpha / config.rank
        self.G = TensorTrain(base.weight, base.in_features, config.rank, config.tensor_rank)
        self.H = TensorTrain(base.weight, config.rank, base.out_features, config.tensor_rank)

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the change's."""
        low = x @ self.G.matrix()  # (…, d_in) -> (…, r)
        return self.base(x) + self.scale * (low @ self.H.matrix())  # (…, r) -> (…, d_out)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight."""
        self.base.weight += self.scale * (self.G.matrix() @ self.H.matrix()).T
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a factored change beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or a rank does not fit.
    """
    freeze(model)
    replace(model, config.target, lambda layer: LoRETTALinear(layer, config))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

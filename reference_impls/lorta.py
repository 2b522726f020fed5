"""LoRTA: one tensor of low rank holds the changes of all attention matrices of all layers and heads.

    y = x Wᵀ + b + (α / r) x [ A diag(c_H[1] ⊙ c_M[m] ⊙ c_L[l]) B, …, A diag(c_H[n] ⊙ c_M[m] ⊙ c_L[l]) B ]

x (…, d)   W (d_out, d), d_out = n d_h   A (d, r)   B (r, d_h)   c_H (heads, r)   c_M (4, r)   c_L (layers, r)   b (d_out,)

l is the layer, m says which of query, key, value and output the matrix is, and the brackets put the blocks of the n heads
side by side. The five factors are shared by the whole model and are all that trains: r (d + d_h + heads + 4 + layers)
numbers, a canonical decomposition of the tensor d × d_h × heads × 4 × layers. B starts at zero, so the model starts where
it was. The change of each matrix has rank at most r and merges.

Paper:     Hounie, Kanatsoulis, Tandon, Ribeiro 2024, arXiv:2410.04060
Official:  github.com/ihounie/lorta at fa13dcb, PEFT branch (licence not seen)
Differs:   where keys and values have fewer heads than queries (the paper has none such), each takes the row of c_H of the
           first query head that it serves. No preconditioning of the gradients, which a later branch offers
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import KEY, OUTPUT, QUERY, VALUE, instances
from reference_impls._surgery import add, freeze, refuse, replace, settle

MATRICES = (QUERY, KEY, VALUE, OUTPUT)  # m = 0 … 3


@dataclass(frozen=True)
class Config:
    """The official scripts' values."""

    rank: int = 4  # the runs on RoBERTa-base
    alpha: float = 16.0  # instruction tuning, rank_sweep.sh; scale = alpha / rank


class Factors(nn.Module):
    """The five factors."""

    def __init__(self, like: Tensor, rank: int, d: int, d_head: int, heads: int, layers: int) -> None:
        super().__init__()
        self.A, self.c_H, self.c_M, self.c_L = (
            nn.Parameter(like.new_empty(n, rank)) for n in (d, heads, len(MATRICES), layers)
        )
        self.B = nn.Parameter(like.new_zeros(rank, d_head))
        for factor in (self.A, self.c_H, self.c_M, self.c_L):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))  # of these shapes: uniform in ±1/√r


class LoRTALinear(Around):
    """A frozen linear layer with its slice of the tensor; m and l say which."""

    def __init__(self, base: nn.Linear, shared: list[Factors], scale: float, m: int, l: int) -> None:  # noqa: E741
        super().__init__(base)
        self.shared, self.scale, self.m, self.l = shared, scale, m, l  # the list's one entry is no child of this layer

    def up(self) -> Tensor:
        """(r, d_out): for each head its scaled B, side by side."""
        (f,) = self.shared
        heads = self.out_features // f.B.shape[1]
        c = f.c_H[:: len(f.c_H) // heads] * f.c_M[self.m] * f.c_L[self.l]  # (n, r)
        return (c.T[:, :, None] * f.B[:, None, :]).flatten(1)  # (r, n, d_h) -> (r, n d_h)

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the change's."""
        low = x @ self.shared[0].A  # (…, d) -> (…, r)
        return self.base(x) + self.scale * (low @ self.up())  # (…, r) -> (…, d_out)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight."""
        self.base.weight += self.scale * (self.shared[0].A @ self.up()).T
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and gives each matrix of its attention a slice of one tensor.

    Raises ``ValueError`` when matrices are missing or have not the shapes that one tensor wants, or there is no rank.
    """
    freeze(model)
    if config.rank < 1:
        refuse(model, f"rank {config.rank} must be at least 1")
    shared: list[Factors] = []
    for m, target in enumerate(MATRICES):
        numbers = count()
        replace(model, target, partial(_slice, shared, config.alpha / config.rank, m, numbers))
    slices = [layer for _, layer in instances(model, LoRTALinear)]
    heads = getattr(getattr(model, "config", None), "num_attention_heads", 0)
    query, layers = next(layer for layer in slices if layer.m == 0), len(slices) // len(MATRICES)
    d, d_head = query.in_features, query.out_features // max(1, heads)
    if not heads or len(slices) != layers * len(MATRICES):
        refuse(model, f"{len(slices)} matrices and {heads} heads do not make whole attention layers")
    for layer in slices:
        own, rest = divmod(layer.out_features, d_head)
        if layer.in_features != d or layer.l >= layers or rest or not own or heads % own:
            shape = f"{layer.out_features} x {layer.in_features}"
            refuse(model, f"a {shape} matrix has no place in a tensor of width {d} and {heads} heads of {d_head}")
    shared.append(Factors(query.weight, config.rank, d, d_head, heads, layers))
    add(model, "lorta", shared[0])
    return model


def _slice(shared: list[Factors], scale: float, m: int, numbers: Iterator[int], layer: nn.Linear) -> LoRTALinear:
    return LoRTALinear(layer, shared, scale, m, next(numbers))


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

"""rsLoRA: LoRA whose change is divided by the square root of the rank, so that high ranks learn as fast as low ones.

    y = x Wᵀ + b + (α / √r) (x Aᵀ) Bᵀ          x (…, d_in)   W (d_out, d_in)   A (r, d_in)   B (d_out, r)

Everything but the scale is LoRA's: A random, B zero, so that training starts at the base model, and B A merges away.
With LoRA's α / r, outputs and gradients of the change shrink as r grows, and a rank of hundreds learns no more than a
small one. With α / √r neither grows nor shrinks with r, in the limit of large r: then a higher rank can use its room.

Paper:     Kalajdzievski 2023, arXiv:2312.03732, section 3 (rank-stabilised adapters)
Official:  none published
Differs:   nothing known in the method. Rank and α are those of the author's article (huggingface.co/blog/
           damjan-k/rslora), which adapts query, key, output and two feed-forward matrices; targets here are LoRA's
"""

import math
from dataclasses import dataclass

from torch import nn

from reference_impls._site import QKV, QUERY, VALUE
from reference_impls._surgery import freeze, replace, settle
from reference_impls.lora import LoRALinear


@dataclass(frozen=True)
class Config:
    """A rank beyond LoRA's, since the point is that it pays."""

    rank: int = 256  # the author's article
    alpha: float = 16.0  # same place; scale = alpha / √rank = 1
    target: str = f"{QUERY}|{VALUE}|{QKV}"  # LoRA's


class RsLoRALinear(LoRALinear):
    """A frozen linear layer with a low-rank change of rank-independent size."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(base, rank, alpha)
        self.scale = alpha / math.sqrt(rank)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a low-rank change beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the rank exceeds a matrix.
    """
    freeze(model)
    replace(model, config.target, lambda layer: RsLoRALinear(layer, config.rank, config.alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

"""DyLoRA: trains one LoRA that works at every rank up to r, by cutting it to a random rank k at each step.

    y = x Wᵀ + b + (α / k) (x A[:k]ᵀ) B[:, :k]ᵀ,   k ~ U{1 … r}      x (…, d_in)   W (d_out, d_in)
                                                                     A (r, d_in)   B (d_out, r)

``loss`` draws one k for the whole model and step. Only the first k rows of A and columns of B take part, and in the
frozen variant only the k-th of them has a gradient: what lower ranks have learned stays. The first directions take part
most often and learn the most. In evaluation all r are used, or the first k after ``truncate``; any of these merges
away. A starts random and B at zero, so training starts at the base model.

Paper:     Valipour, Rezagholizadeh, Kobyzev, Ghodsi 2022, arXiv:2210.07558, section 4 and algorithm 1
Official:  github.com/huawei-noah/Efficient-NLP at bb44348, DyLoRA/loralib/DyLoRA.py and layers.py (Apache-2.0)
Differs:   the ranks are numbered from 1, there from 0. While it trains, all r directions are computed and those beyond
           k masked, so that no shape depends on the draw; the official code cuts the matrices. Adam moves directions
           without a gradient by their momentum, there too
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls import lora
from reference_impls._site import instances
from reference_impls._surgery import freeze, replace, settle
from reference_impls.lora import LoRALinear


@dataclass(frozen=True)
class Config(lora.Config):
    """The official RoBERTa script's values."""

    rank: int = 8  # r, roberta_base_mnli.sh; the range of ranks is 1 … r
    alpha: float = 16.0  # same place
    frozen: bool = True  # run_glue.py; off: all k directions of a step train


class DyLoRALinear(LoRALinear):
    """A frozen linear layer with a low-rank change that can be cut to any smaller rank."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, frozen: bool) -> None:
        super().__init__(base, rank, alpha)
        self.alpha, self.frozen = alpha, frozen
        self.drawn: Tensor | None = None  # k of a training step, (); all r before the first draw
        self.kept = rank  # k of evaluation

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus that of the change at the rank in use."""
        if self.training and self.drawn is not None:
            return self.base(x) + self.masked(x, self.drawn)
        A, B = self.A[: self.kept], self.B[:, : self.kept]
        return self.base(x) + self.alpha / self.kept * ((x @ A.T) @ B.T)  # (…, d_in) -> (…, k) -> (…, d_out)

    def masked(self, x: Tensor, k: Tensor) -> Tensor:
        """What the first k directions give, if need be with a gradient for the k-th alone."""
        A, B = self.A, self.B
        place = torch.arange(1, len(A) + 1, device=A.device)  # (r,)
        if self.frozen:
            A = torch.where((place == k)[:, None], A, A.detach())
            B = torch.where(place == k, B, B.detach())
        share = ((place <= k) * (self.alpha / k)).to(A.dtype)  # α / k or 0
        return ((x @ A.T) * share) @ B.T  # (…, d_in) -> (…, r) -> (…, d_out)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight, at the rank of evaluation."""
        self.base.weight += self.alpha / self.kept * (self.B[:, : self.kept] @ self.A[: self.kept])
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a low-rank change beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the rank exceeds a matrix.
    """
    freeze(model)
    replace(model, config.target, lambda layer: DyLoRALinear(layer, config.rank, config.alpha, config.frozen))
    return model


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The model's loss at a newly drawn rank, the same in every layer."""
    layers = [layer for _, layer in instances(model, DyLoRALinear)]
    k = torch.randint(1, len(layers[0].A) + 1, (), device=layers[0].A.device)
    for layer in layers:
        layer.drawn = k
    return model(**batch).loss


def truncate(model: nn.Module, rank: int) -> None:
    """From now on evaluation and ``merge`` use the first ``rank`` directions; ``ValueError`` if there are fewer."""
    for name, layer in instances(model, DyLoRALinear):
        if not 0 < rank <= len(layer.A):
            raise ValueError(f"{name} was trained for ranks 1 to {len(layer.A)}, not for {rank}")
        layer.kept = rank


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight, at the rank of evaluation, and restores plain linear layers."""
    return settle(model)

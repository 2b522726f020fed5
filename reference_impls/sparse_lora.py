"""Sparse LoRA: a LoRA of larger rank, of whose entries only the most salient are kept and trained (SNIP pruning).

    y = x Wᵀ + b + (α / r) x (M_A ⊙ A)ᵀ (M_B ⊙ B)ᵀ      x (…, d_in)   W (d_out, d_in)   A, M_A (r, d_in)   B, M_B (d_out, r)

    ``prepare`` keeps in each layer the ⌊(1 − s) r (d_in + d_out)⌋ entries θ of A and B with the largest |θ ∂L/∂θ|

The masks are found before training and stay. What is kept of A starts random, what is kept of B at zero, so the adapted
model equals the base model; the change can be added to W after training. Only the kept numbers exist between steps and
have optimizer states; the thin A and B are filled in for each pass.

SNIP's score is zero everywhere at LoRA's own start: there B = 0, hence ∂L/∂A = 0 as well. So the scores are taken at a
start with random B, as adapters have it, and B returns to zero afterwards.

Paper:     He et al. 2022, arXiv:2210.04284, section 2.2 (SparseAdapter, which prunes LoRA too); the name Sparse LoRA is
           that of figure 2 in Lialin et al. 2023, arXiv:2303.15647
Official:  github.com/Shwai-He/SparseAdapter at 01a75ef, src/transformers/pruning/pruners.py (no licence file)
Differs:   A and B of one layer compete with each other, not with other layers: each layer's share is then known before
           data are seen (the official code has a threshold over all layers, or one per tensor). Of its five scores only
           SNIP. The scale of the random B is that of the official adapters
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import QKV, QUERY, VALUE, instances
from reference_impls._surgery import freeze, refuse, replace, settle


@dataclass(frozen=True)
class Config:
    """LoRA's sizes, and the share of it that is removed."""

    rank: int = 16  # ours: twice LoRA's usual 8, since about half is removed
    alpha: float = 16.0  # scale = alpha / rank; ours, so that the scale is 1
    sparsity: float = 0.4  # s, share removed; abstract, "when a proper sparse ratio"
    target: str = f"{QUERY}|{VALUE}|{QKV}"  # as LoRA


class SparseLoRALinear(Around):
    """A frozen linear layer with a low-rank change most of whose entries may be missing."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, sparsity: float) -> None:
        super().__init__(base)
        d_in, d_out = base.in_features, base.out_features
        kept = math.floor((1 - sparsity) * rank * (d_in + d_out))
        if not 0 < rank <= min(d_in, d_out):
            raise ValueError(f"rank {rank} does not fit a {d_out} x {d_in} matrix")
        if kept < 1:
            raise ValueError(f"sparsity {sparsity} leaves nothing of rank {rank} on a {d_out} x {d_in} matrix")
        self.rank, self.scale = rank, alpha / rank
        total = rank * (d_in + d_out)
        positions = torch.arange(kept, device=base.weight.device) * total // kept  # spread out, until ``prepare``
        self.register_buffer("positions", positions)  # in A and B, one after the other
        self.v = nn.Parameter(self.start(0.0)[positions])
        self.dense: Tensor | None = None  # all entries, while their scores are taken

    def start(self, std: float) -> Tensor:
        """All entries of A and B (r (d_in + d_out),) as they start, B with this standard deviation."""
        A = nn.init.kaiming_uniform_(self.weight.new_empty(self.rank, self.in_features), a=math.sqrt(5))
        B = nn.init.normal_(self.weight.new_empty(self.out_features, self.rank), std=std)
        return torch.cat((A.flatten(), B.flatten()))

    def factors(self) -> tuple[Tensor, Tensor]:
        """M_A ⊙ A (r, d_in) and M_B ⊙ B (d_out, r)."""
        flat = self.dense
        if flat is None:
            empty = self.v.new_zeros(self.rank * (self.in_features + self.out_features))
            flat = empty.index_copy(0, self.positions, self.v)
        A, B = flat.split((self.rank * self.in_features, self.rank * self.out_features))
        return A.view(self.rank, -1), B.view(-1, self.rank)

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus the change's."""
        A, B = self.factors()
        return self.base(x) + self.scale * (x @ A.T @ B.T)  # (…, d_in) -> (…, r) -> (…, d_out)

    @torch.no_grad()
    def choose(self, score: Tensor) -> None:
        """Keeps the entries with the largest ``score`` (r (d_in + d_out),) and starts again."""
        self.positions.copy_(score.topk(len(self.v)).indices)
        self.v.copy_(self.start(0.0)[self.positions])

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change added to its weight."""
        A, B = self.factors()
        self.base.weight += self.scale * (B @ A)
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a pruned LoRA beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, the rank exceeds a matrix or the sparsity is not below one.
    """
    freeze(model)
    if not 0 <= config.sparsity < 1:
        refuse(model, f"a sparsity of {config.sparsity} is not between 0 and 1")
    replace(model, config.target, lambda at: SparseLoRALinear(at, config.rank, config.alpha, config.sparsity))
    return model


def prepare(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """Chooses the entries by SNIP's score on ``batches``: the gradients are summed up before their size counts."""
    layers = [layer for _, layer in instances(model, SparseLoRALinear)]
    starts = [layer.start(0.02).requires_grad_(True) for layer in layers]
    seen = False
    for layer, start in zip(layers, starts, strict=True):
        layer.dense = start
    for batch in batches:
        seen = True
        torch.autograd.backward(model(**batch).loss, inputs=starts)
    for layer, start in zip(layers, starts, strict=True):
        layer.dense = None
        if start.grad is not None:
            layer.choose((start * start.grad).abs())
    if not seen:
        raise ValueError("no batch to measure the scores on")


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

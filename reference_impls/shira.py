"""SHiRA: trains a few entries of each weight matrix, chosen before training; the change is sparse and of high rank.

    y = x (W + α S)ᵀ + b       S (d_out, d_in) is zero but for the k numbers v at fixed positions,  k = r (d_in + d_out)

As many numbers train as a LoRA of rank r has, but they are spread over the matrix. v starts at zero, so the model
starts where it was. Writing α v into W at its positions merges an adapter; a device changes adapters by overwriting one
or two entries in a hundred. α is 1 in training and may weaken or strengthen an adapter afterwards.

The positions are drawn at random, or are the largest weights, or the diagonal with some rows and columns; ``prepare``
chooses those with the largest gradients, or the largest products of weight and gradient (SNIP), on a few batches.
Optimizer states are as small as v. W + α S is formed again in the backward pass instead of kept, and the dense gradient
of one matrix exists only for as long as it takes to read it at the k positions.

Paper:     Bhardwaj et al. 2024, arXiv:2406.13175, sections 3.1 and 3.3, appendix E
Official:  github.com/Qualcomm-AI-research/SHiRA at 122bee9, which points to Hugging Face PEFT (licence not seen)
Differs:   the paper trains 1 to 2 % of the entries of each matrix; k is set as in PEFT. Rows and columns of the
           structured mask are r each, evenly spaced; if they and the diagonal make fewer than k entries, the first
           others fill up, if more, the last are left out. Gradients are summed over the batches before their size counts
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from reference_impls._layer import Around
from reference_impls._site import FFN_IN, FFN_OUT, KEY, QKV, QUERY, VALUE, instances
from reference_impls._surgery import freeze, refuse, replace, settle

_FROM_DATA = ("gradient", "snip")
_MASKS = ("random", "magnitude", "structured", *_FROM_DATA)


@dataclass(frozen=True)
class Config:
    """How many entries train, and which."""

    rank: int = 32  # r, PEFT's default; sets how many entries train, not the rank of the change
    mask_type: str = "random"  # PEFT's default; also magnitude, structured, gradient, snip
    scale: float = 1.0  # α, 1 in training
    target: str = f"{QUERY}|{KEY}|{VALUE}|{QKV}|{FFN_IN}|{FFN_OUT}"  # appendix H, table 9: q, k, v, up, down


class SHiRALinear(Around):
    """A linear layer of whose weight some entries are moved by trained numbers."""

    def __init__(self, base: nn.Linear, rank: int, mask_type: str, scale: float) -> None:
        super().__init__(base)
        weight = base.weight.detach()
        k = rank * sum(weight.shape)
        if not 0 < k <= weight.numel():
            raise ValueError(f"rank {rank} makes {k} trained entries of a {' x '.join(map(str, weight.shape))} matrix")
        self.scale = scale
        self.v = nn.Parameter(weight.new_zeros(k))
        whole = torch.int32 if weight.numel() < 2**31 else torch.int64
        if mask_type == "magnitude":
            positions = weight.abs().flatten().topk(k).indices
        elif mask_type == "structured":
            positions = _structure(weight, rank).flatten().argsort(descending=True, stable=True)[:k]
        else:  # until ``prepare`` has seen data, masks that need it are random too
            positions = torch.randperm(weight.numel(), device=weight.device)[:k].clone()
        self.register_buffer("positions", positions.to(whole))

    def changed(self) -> Tensor:
        """W + α S (d_out, d_in)."""
        return self.weight.flatten().index_add(0, self.positions, self.scale * self.v).view_as(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output with the changed weight."""

        def run(x: Tensor) -> Tensor:
            return linear(x, self.changed(), self.bias)

        return checkpoint(run, x, use_reentrant=False, preserve_rng_state=False)

    @torch.no_grad()
    def choose(self, score: Tensor) -> None:
        """Takes the k entries with the largest ``score`` (d_out, d_in) and starts again from zero."""
        self.positions.copy_(score.flatten().topk(len(self.v)).indices)
        self.v.zero_()

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the numbers written into its weight."""
        self.base.weight.copy_(self.changed())
        return self.base


def _structure(weight: Tensor, r: int) -> Tensor:
    """(d_out, d_in): 2 on the diagonal, 1 on r rows and r columns, 0 elsewhere."""
    score = torch.zeros_like(weight)
    for lines in (score, score.T):
        lines[torch.arange(r, device=weight.device) * len(lines) // r] = 1
    return score.fill_diagonal_(2)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and lets some entries train in every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, the mask is unknown or has more entries than a matrix.
    """
    freeze(model)
    if config.mask_type not in _MASKS:
        refuse(model, f"mask_type {config.mask_type!r} is none of {', '.join(_MASKS)}")
    replace(model, config.target, lambda layer: SHiRALinear(layer, config.rank, config.mask_type, config.scale))
    return model


def prepare(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """Chooses the entries by their gradients on ``batches``, if the mask is of that kind."""
    if config.mask_type not in _FROM_DATA:
        return
    layers = [layer for _, layer in instances(model, SHiRALinear)]
    weights = [layer.weight.requires_grad_(True) for layer in layers]
    seen = False
    for batch in batches:
        seen = True
        torch.autograd.backward(model(**batch).loss, inputs=weights)  # sums up in each weight's ``grad``
    for layer, weight in zip(layers, weights, strict=True):
        weight.requires_grad_(False)
        if seen:
            gradient, weight.grad = weight.grad, None
            layer.choose((gradient * weight if config.mask_type == "snip" else gradient).abs())
    if not seen:
        raise ValueError(f"no batch to measure the {config.mask_type} mask on")


def merge(model: nn.Module) -> nn.Module:
    """Writes every change into its weight and restores plain linear layers."""
    return settle(model)

"""SparseAdapter: an adapter whose least important weights are removed before training; the rest trains.

    y = h + ReLU(h (M_d ⊙ W_d)ᵀ + b_d) (M_u ⊙ W_u)ᵀ + b_u        M, W_d (m, d)   M, W_u (d, m)   b_d (m,)   b_u (d,)
    M is one at the (1 − s) largest scores over the W of all adapters, else zero; SNIP: score = |Σ ∂loss/∂W ⊙ W|

Everything stands where Houlsby's adapters do. ``prepare`` draws the dense weights from N(0, 0.02²), scores them on a
few batches and fixes the masks for good; the kept weights go on from where they were drawn. What trains is one vector
v of kept weights and the biases. The model so starts close to where it was, not there; nothing can be merged.

``large`` is the paper's Large-Sparse: the bottleneck is m / (1 − s) wide, so that as many weights are kept as a dense
adapter of size m has. On usual hardware masked weights are still multiplied: sparsity saves storage and optimizer
states, not computation.

Paper:     He et al. 2022, arXiv:2210.04284, section 2
Official:  github.com/Shwai-He/SparseAdapter at 01a75ef, src/transformers/pruning/pruners.py (no licence file)
Differs:   of the paper's scores GraSP and SynFlow are left out. Biases are kept, as in the official code, whose option
           "sparsity" is the kept share. One mask over all adapters at once, there optionally one per matrix. No layer
           norm inside the adapter. Before ``prepare`` the kept weights are evenly spread
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._site import FFN_OUT, instances
from reference_impls._surgery import add, freeze, refuse, replace
from reference_impls.fishmask import Mask
from reference_impls.houlsby_adapter import SELF_OUTPUT, AfterSublayer

PRUNERS = ("snip", "magnitude", "random")
_START = 0.02  # deviation of the weights at the start: the official option "bert"


@dataclass(frozen=True)
class Config:
    """How many weights go, and which."""

    bottleneck: int = 64  # m, official run_glue.sh
    sparsity: float = 0.4  # s, abstract: the share that is removed
    pruner: str = "snip"  # abstract; or "magnitude", "random"
    large: bool = False  # Large-Sparse: widen the bottleneck by what pruning takes away
    target: str = f"{SELF_OUTPUT}|{FFN_OUT}"  # as Houlsby's adapters


class SparseLinear(nn.Module):
    """A linear layer whose weight is zero but for its share of the kept weights."""

    def __init__(self, mask: Mask, index: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.mask, self.index, self.shape = (mask,), index, (d_out, d_in)  # in a tuple: the mask is not a child
        self.b = nn.Parameter(mask.v.new_zeros(d_out))
        self.dense: Tensor | None = None  # the weight before pruning, while ``prepare`` looks at it

    def weight(self) -> Tensor:
        """(d_out, d_in)."""
        if self.dense is not None:
            return self.dense
        (mask,), i = self.mask, self.index
        low, high = mask.bounds[i], mask.bounds[i + 1]
        empty = mask.v.new_zeros(self.shape[0] * self.shape[1])
        return empty.index_put((mask.positions[low:high] - mask.starts[i],), mask.v[low:high]).view(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        return nn.functional.linear(x, self.weight(), self.b)


class Adapter(nn.Module):
    """A bottleneck of two such layers; the skip connection is around it."""

    def __init__(self, mask: Mask, index: int, d: int, m: int) -> None:
        super().__init__()
        self.down, self.up = SparseLinear(mask, index, d, m), SparseLinear(mask, index + 1, m, d)

    def forward(self, h: Tensor) -> Tensor:
        """(…, d) -> (…, m) -> (…, d)."""
        return self.up(self.down(h).relu())


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a sparse adapter behind every layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, the score is not known, or nothing is left to train.
    """
    freeze(model)
    if config.pruner not in PRUNERS:
        refuse(model, f"no pruner {config.pruner!r}; there is {', '.join(PRUNERS)}")
    if not 0 <= config.sparsity < 1 or config.bottleneck < 1:
        refuse(model, f"sparsity {config.sparsity} of a bottleneck of {config.bottleneck} leaves nothing to train")
    m = round(config.bottleneck / (1 - config.sparsity)) if config.large else config.bottleneck
    layers: list[AfterSublayer] = []

    def stand(layer: nn.Linear) -> AfterSublayer:
        layers.append(AfterSublayer(layer, nn.Identity()))  # the adapter follows when the size of all is known
        return layers[-1]

    replace(model, config.target, stand)
    sizes = [layer.out_features * m for layer in layers for _ in ("down", "up")]
    mask = Mask(sizes, sum(sizes) - int(config.sparsity * sum(sizes)), like=layers[0].weight)
    nn.init.normal_(mask.v, std=_START)
    for number, layer in enumerate(layers):
        layer.adapter = Adapter(mask, 2 * number, layer.out_features, m)
    add(model, "sparse_adapter", mask)
    return model


def prepare(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """Draws the weights anew, keeps those with the largest scores, and fixes their places."""
    ((_, mask),) = instances(model, Mask)
    parts = sorted((part for _, part in instances(model, SparseLinear)), key=lambda part: part.index)
    weights = [torch.empty(part.shape, dtype=mask.v.dtype, device=mask.v.device) for part in parts]
    for part, weight in zip(parts, weights, strict=True):
        part.dense = nn.init.normal_(weight, std=_START).requires_grad_(True)
    if config.pruner == "snip":
        effects = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        for batch in batches:
            gradients = torch.autograd.grad(model(**batch).loss, weights)
            for effect, weight, gradient in zip(effects, weights, gradients, strict=True):
                effect += (gradient * weight).detach().float()
        scores = [effect.abs() for effect in effects]
    elif config.pruner == "magnitude":
        scores = [weight.detach().abs() for weight in weights]
    else:
        scores = [torch.rand_like(weight) for weight in weights]
    for part in parts:
        part.dense = None
    chosen = torch.cat([score.flatten() for score in scores]).topk(len(mask.v)).indices
    mask.choose(chosen)
    with torch.no_grad():
        mask.v.copy_(torch.cat([weight.flatten() for weight in weights])[mask.positions])

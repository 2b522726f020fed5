"""fLoRA: multiplies a weight matrix entry by entry by a low-rank one, so that each example may carry its own adapter.

    y_i = (1 / r) Σ_j ((x_i ⊙ a_ij) Wᵀ) ⊙ b_ij + b        which is x_i (W ⊙ B_i A_i / r)ᵀ + b

    x_i (…, d_in) example i of the batch   W (d_out, d_in)   A_i (r, d_in), rows a_ij   B_i (d_out, r), columns b_ij

Only A and B train: r (d_in + d_out) numbers per matrix. At rank one an adapter scales the inputs and the outputs of a
frozen layer. So a batch in which every row belongs to another task needs one common product with W and elementwise ones,
where LoRA needs two batched products per row; at rank r the common product is taken r times. ``mixed`` runs such a
batch. All factors start at one on average, so the model starts where it was, and W ⊙ B A / r can replace W: the change
has full rank, unlike LoRA's.

Paper:     Wen and Chaudhuri 2023, arXiv:2312.05677, equations 4 to 6 and section 3.2
Official:  none published
Differs:   of the four papers of this name, the one on batched adapters. It does not say how the factors start: ours are
           one, and for r > 1 the columns of B carry noise of mean zero, without which all r would stay alike. Of the
           reductions over the rank it names the mean as an example, and that is taken. The bias is not scaled
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from reference_impls._layer import Around
from reference_impls._site import KEY, QKV, QUERY, instances
from reference_impls._surgery import freeze, replace, settle

_NOISE = 0.1  # ours: deviation between the columns of B, which start as one


@dataclass(frozen=True)
class Config:
    """Rank, and which matrices are multiplied."""

    rank: int = 1  # section 4.2: one suffices on most languages
    target: str = f"{QUERY}|{KEY}|{QKV}"  # section 4.1, StarCoder; in Whisper every linear layer


class FLoRALinear(Around):
    """A frozen linear layer with trained scales before and behind it, r times."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__(base)
        if not 0 < rank <= min(base.in_features, base.out_features):
            raise ValueError(f"rank {rank} does not fit a {base.out_features} x {base.in_features} matrix")
        self.A = nn.Parameter(base.weight.new_ones(rank, base.in_features))
        noise = torch.randn_like(base.weight[:, :1].expand(-1, rank))
        self.B = nn.Parameter(1 + _NOISE * (noise - noise.mean(1, keepdim=True)))  # each row's mean is one
        self.rows: tuple[Tensor, Tensor] | None = None  # while ``mixed``: A (b, r, d_in) and B (b, d_out, r)

    def forward(self, x: Tensor) -> Tensor:
        """The mean over the rank of what the frozen layer makes of scaled inputs, scaled again."""
        A, B = (self.A[None], self.B[None]) if self.rows is None else self.rows
        between = (1,) * (x.dim() - 2)  # the positions of an example share its adapter
        y: Tensor | float = 0.0
        for j in range(A.shape[1]):
            a, b = (v.view(len(v), *between, -1) for v in (A[:, j], B[:, :, j]))  # (b or 1, …, d_in), (…, d_out)
            y = y + linear(x * a, self.weight) * b
        y = y / A.shape[1]
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with W ⊙ B A / r as its weight."""
        self.base.weight *= self.B @ self.A / len(self.A)
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts scales around every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the rank exceeds a matrix.
    """
    freeze(model)
    replace(model, config.target, lambda layer: FLoRALinear(layer, config.rank))
    return model


@contextmanager
def mixed(model: nn.Module, adapters: Sequence[Mapping[str, Tensor]], which: Sequence[int]) -> Iterator[nn.Module]:
    """Inside, row i of a batch runs with ``adapters[which[i]]``; each is what ``checkpoint.adapter_state`` gives.

    The adapters may train: gradients reach their tensors. Raises ``ValueError`` for an adapter that there is not, or one
    that lacks a tensor.
    """
    layers = list(instances(model, FLoRALinear))
    missing = sorted(
        {f"{name}.{leaf}" for name, _ in layers for leaf in "AB" for one in adapters if f"{name}.{leaf}" not in one}
    )
    if missing or not all(0 <= i < len(adapters) for i in which):
        raise ValueError(f"{len(adapters)} adapters, rows that ask for {list(which)}; tensors missing: {missing[:3]}")
    try:
        for name, layer in layers:
            A, B = (torch.stack([adapters[i][f"{name}.{leaf}"] for i in which]) for leaf in "AB")
            layer.rows = (A, B)
        yield model
    finally:
        for _, layer in layers:
            layer.rows = None


def merge(model: nn.Module) -> nn.Module:
    """Writes every product into its weight and restores plain linear layers."""
    return settle(model)

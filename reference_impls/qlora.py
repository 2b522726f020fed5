"""QLoRA: LoRA beside matrices that are stored in 4 bits and unpacked at each use.

    y = x dequant(c, Q)ᵀ + b + (α / r) (x Aᵀ) Bᵀ       x (…, d_in)   Q (d_out, d_in)   A (r, d_in)   B (d_out, r)

Q holds NF4 codes of the frozen weight, c a scale for every 64 of them, itself stored in 8 bits: 4.127 bits a number in
all. The matrix is unpacked for the forward pass, dropped, and unpacked again for the backward pass, which needs it to
reach the layers below; it is never changed. Only A and B train. B starts at zero, so the adapted model equals the
quantised one, which is not quite the model it was made from. The change merges into the unpacked matrix.

Paper:     Dettmers et al. 2023, arXiv:2305.14314, equations 5 and 6 and section 3
Official:  github.com/artidoro/qlora at 7f4e95a, qlora.py (MIT); the codec there is bitsandbytes'
Differs:   no paged optimizer (a property of the GPU's driver, not of the method) and no dropout on x (0.1 there). A and
           B keep the base's type. Embeddings, norms and the head stay as they are, as there. The unquantised matrices
           wait in the computer's memory for ``detach``
"""

from dataclasses import dataclass

import torch
from torch import nn

from reference_impls._journal import journal
from reference_impls._site import LINEAR, instances
from reference_impls._surgery import freeze, park, replace, settle
from reference_impls.lora import LoRALinear
from reference_impls.parts.nf4 import NF4Linear, quantise
from reference_impls.parts.packed import PackedLinear


@dataclass(frozen=True)
class Config:
    """The official script's values, scripts/finetune_guanaco_7b.sh."""

    rank: int = 64
    alpha: float = 16.0
    target: str = LINEAR  # section 4: all linear layers of the blocks are needed to match full fine-tuning
    block_size: int = 64  # section 3: numbers that share a scale


class QLoRALinear(LoRALinear):
    """A linear layer in 4 bits with a trainable low-rank change; its equation is ``LoRALinear``'s."""

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """A plain linear layer: the unpacked weight with the change added."""
        layer = nn.Linear(self.in_features, self.out_features, device="meta")
        layer.weight = nn.Parameter(self.weight + self.scale * (self.B @ self.A))
        layer.bias = self.bias
        return layer


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model``, packs every linear layer that ``config.target`` names and puts a low-rank change beside it.

    Layers that are packed already stay as they are. Raises ``ValueError`` when no layer matches, the rank exceeds a
    matrix, or a weight is already stored in another small type.
    """
    freeze(model)
    replace(model, config.target, lambda layer: QLoRALinear(pack(layer, config.block_size), config.rank, config.alpha))
    _, book = journal(model)
    for _, layer in instances(model, NF4Linear):
        book.own(layer)  # the base, in another form: it does not belong into the adapter's file
    return park(model)


def pack(layer: nn.Linear, block_size: int) -> NF4Linear:
    """The layer in 4 bits."""
    if isinstance(layer, NF4Linear):
        return layer
    check(layer, block_size)
    return NF4Linear(layer, quantise(layer.weight, block_size), block_size)


def check(layer: nn.Linear, block_size: int) -> None:
    """Raises ``ValueError`` when the layer's weight cannot be packed in blocks of this size."""
    known = isinstance(layer, PackedLinear)
    if known or not layer.weight.is_floating_point() or layer.weight.itemsize < 2:
        kind = "few bits" if known else layer.weight.dtype
        raise ValueError(f"a weight of {kind} cannot be packed again; give the model in 16 or 32 bits")
    if block_size < 2 or block_size % 2:
        raise ValueError(f"block_size {block_size} must be even: two codes share a byte")


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its unpacked matrix and restores plain linear layers."""
    return settle(model)

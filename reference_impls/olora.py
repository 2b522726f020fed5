"""OLoRA: LoRA that starts from a QR decomposition of the weight, so that B has orthonormal columns.

    W = Q R,   B₀ = Q[:, :r],   A₀ = R[:r]                        Q (d_out, q)   R (q, d_in),   q = min(d_in, d_out)
    y = x (W − s B₀ A₀)ᵀ + b + s (x Aᵀ) Bᵀ,   s = α / r           x (…, d_in)   A (r, d_in)   B (d_out, r)

A and B train from A₀ and B₀; what they contribute at the start is taken off the frozen weight, so the model starts
where it was. The orthonormal columns of B hand gradients of equal size to all r directions from the first step. The
decomposition does not sort: these are the first columns, not the strongest. The change, of rank 2 r, merges away.

Paper:     Büyükakyüz 2024, arXiv:2406.01775, section III and algorithm 1
Official:  github.com/huggingface/peft at v0.21.2, src/peft/tuners/lora/layer.py, olora_init (Apache-2.0), by the author
Differs:   as in PiSSA here, the weight is not overwritten: s B₀ A₀ is taken off in the forward pass, from a frozen copy
           of the starting pair. The same function and gradients; detaching restores the weight to the bit
"""

from dataclasses import dataclass

import torch
from torch import nn

from reference_impls._site import QKV, QUERY, VALUE
from reference_impls._surgery import freeze, replace, settle
from reference_impls.pissa import ShiftedLoRALinear


@dataclass(frozen=True)
class Config:
    """The larger of the paper's two ranks."""

    rank: int = 64  # the paper compares 32 and 64
    alpha: float = 16.0  # same place
    target: str = f"{QUERY}|{VALUE}|{QKV}"  # LoRA's


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and starts a low-rank pair from every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the rank exceeds a matrix.
    """

    def build(layer: nn.Linear) -> ShiftedLoRALinear:
        adapted = ShiftedLoRALinear(layer, config.rank, config.alpha)
        weight = layer.weight.detach()
        Q, R = torch.linalg.qr(weight.to(torch.promote_types(weight.dtype, torch.float32)))
        adapted.start(R[: config.rank], Q[:, : config.rank])
        return adapted

    freeze(model)
    replace(model, config.target, build)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

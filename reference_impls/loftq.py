"""LoftQ: chooses the 4-bit matrix and the start of LoRA together, so that their sum is close to the original weight.

    Q ← quant(W − B A),   B A ← SVD_r(W − Q)       T rounds, from B A = 0
    y = x Qᵀ + b + (x Aᵀ) Bᵀ                       x (…, d_in)   W, Q (d_out, d_in)   A (r, d_in)   B (d_out, r)

quant rounds to NF4, block by block; SVD_r is the best approximation of rank r. With the decomposition W − Q = U Σ Vᵀ,
A = √Σ_r V_rᵀ and B = U_r √Σ_r: each takes half of the singular values. In QLoRA the product starts at zero and the model
at the quantised one; here it starts at what rounding has lost. Then Q is frozen and training is QLoRA's. The product
stands for an error, so it is not scaled. The sum merges into a 16-bit matrix.

Paper:     Li et al. 2023, arXiv:2310.08659, equations 6 to 9 and algorithm 1
Official:  github.com/yxli2123/LoftQ at ae33fd4, utils.py, and Hugging Face PEFT, which it points to (MIT)
Differs:   NF4 only; the paper also rounds to 2 bits, to a mixture of 2 and 4, and to uniform levels. The scales stay in
           32 bits, as in the official code. The adapter's file holds Q too: rounds on another machine may differ in a
           last digit and so in a code
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._journal import journal
from reference_impls._site import LINEAR, instances
from reference_impls._surgery import freeze, park, refuse, replace, settle
from reference_impls.parts.nf4 import NF4Linear, Packed, dequantise, quantise
from reference_impls.qlora import QLoRALinear, check


@dataclass(frozen=True)
class Config:
    """The paper's values for Llama-2, and for the rounds those of its GLUE runs."""

    rank: int = 64  # table 7
    rounds: int = 5  # T, appendix D.2; one already removes most of the error
    target: str = LINEAR  # section 4: all matrices of the blocks
    block_size: int = 64  # numbers that share a scale, as in QLoRA


class LoftQLinear(QLoRALinear):
    """A linear layer in 4 bits with a change, not scaled, that starts as what rounding has lost."""

    def __init__(self, base: nn.Linear, config: Config) -> None:
        check(base, config.block_size)
        Q, A, B = rounds(base.weight, config)
        super().__init__(NF4Linear(base, Q, config.block_size), config.rank, alpha=config.rank)
        self.A, self.B = (nn.Parameter(factor.to(base.weight.dtype)) for factor in (A, B))


@torch.no_grad()
def rounds(weight: Tensor, config: Config) -> tuple[Packed, Tensor, Tensor]:
    """Alternates rounding and decomposing: Q, packed, A (r, d_in) and B (d_out, r) after the last round."""
    W = weight.float()
    A, B = W.new_zeros(config.rank, W.shape[1]), W.new_zeros(W.shape[0], config.rank)
    for _ in range(config.rounds):
        Q = quantise(W - B @ A, config.block_size, double=False)
        U, S, Vh = torch.linalg.svd(W - dequantise(Q, W.shape, W.dtype, config.block_size), full_matrices=False)
        half = S[: config.rank].sqrt()
        A, B = half[:, None] * Vh[: config.rank], U[:, : config.rank] * half
    return Q, A, B


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and splits every matrix that ``config.target`` names into 4 bits and a low-rank change.

    Raises ``ValueError`` when no layer matches, the rank exceeds a matrix, there is no round, or a weight is no longer
    in 16 or 32 bits.
    """
    freeze(model)
    if config.rounds < 1:
        refuse(model, f"{config.rounds} rounds give no quantised matrix; give at least 1")
    replace(model, config.target, lambda layer: LoftQLinear(layer, config))
    for _, layer in instances(model, NF4Linear):
        journal(model)[1].owned[layer] = {"bias"}  # the codes are this method's
    return park(model)


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its unpacked matrix and restores plain linear layers."""
    return settle(model)

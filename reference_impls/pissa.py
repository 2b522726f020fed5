"""PiSSA: LoRA that starts from the largest singular values of the weight, while the rest of the weight is frozen.

    W = U S Vᵀ,   B₀ = U_r (S_r / s)^½,   A₀ = (S_r / s)^½ V_rᵀ        U_r (d_out, r)   S_r (r, r)   V_r (d_in, r)
    y = x (W − s B₀ A₀)ᵀ + b + s (x Aᵀ) Bᵀ,   s = α / r                x (…, d_in)   A (r, d_in)   B (d_out, r)

A and B train from A₀ and B₀: the strongest directions of the weight move, with large gradients from the first step on.
The frozen remainder is W without its r leading singular values, so the model starts exactly where it was. The trained
pair minus the starting pair is a change of rank 2 r of the original weight, and merges into it.

Paper:     Meng, Wang, Zhang 2024, arXiv:2404.02948, equations 2 to 5 and table 1; appendix C for the rank-2r form
Official:  github.com/GraphPKU/PiSSA at 87f4db6, train.py (no licence file), on huggingface/peft, pissa_init
Differs:   the remainder is never stored. W stays as it is and s B₀ A₀ is taken off in the forward pass, from a frozen
           copy of the starting pair: the same function and gradients, r (d_in + d_out) more frozen numbers and as many
           multiplications per token. So detaching restores W to the bit, and the saved file (both pairs) fits the
           original model as the paper's conversion does. S is divided by s as in peft; the paper has s = 1
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._site import LINEAR
from reference_impls._surgery import freeze, replace, settle
from reference_impls.lora import LoRALinear


@dataclass(frozen=True)
class Config:
    """The official scripts' values for Llama-2-7B."""

    rank: int = 128  # scripts/metamath_llama2_7b/run_pissa.sh
    alpha: float = 128.0  # section 5: always the rank
    target: str = LINEAR  # same script: all seven matrices of a block
    iterations: int = 0  # of the randomised decomposition, as the paper's fast one (section 3); 0: the exact one


class ShiftedLoRALinear(LoRALinear):
    """A LoRA layer that starts from a pair of matrices instead of at zero, and takes the same pair off its weight."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(base, rank, alpha)
        self.A0 = nn.Parameter(torch.zeros_like(self.A), requires_grad=False)
        self.B0 = nn.Parameter(torch.zeros_like(self.B), requires_grad=False)

    @torch.no_grad()
    def start(self, A0: Tensor, B0: Tensor) -> None:
        """Starts again from ``A0`` (r, d_in) and ``B0`` (d_out, r): the layer's output is the frozen one's."""
        for parameter, value in ((self.A, A0), (self.A0, A0), (self.B, B0), (self.B0, B0)):
            parameter.copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        """The frozen layer's output plus what the pair has moved since its start."""
        moved = (x @ self.A.T) @ self.B.T - (x @ self.A0.T) @ self.B0.T  # (…, d_in) -> (…, r) -> (…, d_out)
        return self.base(x) + self.scale * moved

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the change, of rank 2 r, added to its weight."""
        self.base.weight += self.scale * (self.B @ self.A - self.B0 @ self.A0)
        return self.base


def leading(weight: Tensor, rank: int, iterations: int) -> tuple[Tensor, Tensor]:
    """The leading singular triplets of ``weight`` as S^½ Vᵀ (r, d_in) and U S^½ (d_out, r), in float32 or better."""
    weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if iterations:
        U, S, V = torch.svd_lowrank(weight, q=rank, niter=iterations)
        Vt = V.T
    else:
        U, S, Vt = torch.linalg.svd(weight, full_matrices=False)
    root = S[:rank].sqrt()
    return root[:, None] * Vt[:rank], U[:, :rank] * root


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and starts a low-rank pair from every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the rank exceeds a matrix.
    """

    def build(layer: nn.Linear) -> ShiftedLoRALinear:
        adapted = ShiftedLoRALinear(layer, config.rank, config.alpha)
        A0, B0 = leading(layer.weight, config.rank, config.iterations)
        adapted.start(A0 / adapted.scale**0.5, B0 / adapted.scale**0.5)
        return adapted

    freeze(model)
    replace(model, config.target, build)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

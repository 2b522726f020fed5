"""DoRA: splits a weight into magnitude and direction, trains the magnitudes and gives the direction a LoRA change.

    V = W + (α / r) B A        y = x W′ᵀ + b,   W′ = diag(m / ‖V‖) V        W (d_out, d_in)   A (r, d_in)   B (d_out, r)

‖V‖ and m are (d_out,): one norm and one trained magnitude for each output, that is each row of W as PyTorch stores it
(the paper writes the transpose and says column). m starts as the rows' norms of W and B as zero, so W′ = W at first.
The norm counts as a constant in the backward pass: gradients reach A and B through V alone, which saves memory and
costs no accuracy. The change has full rank although its direction moves by a product of rank r. It merges away.

Paper:     Liu et al. 2024, arXiv:2402.09353, equation 5; section 4.3 for the detached norm
Official:  github.com/NVlabs/DoRA at bd3ed6f, commonsense_reasoning/peft/src/peft/tuners/dora.py (NVIDIA licence)
Differs:   the norm is formed from the whole V, as in the official code: for a moment one temporary of W's size lives;
           no dropout on x
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from reference_impls._site import FFN_IN, FFN_OUT, KEY, QKV, QUERY, VALUE
from reference_impls._surgery import freeze, replace, settle
from reference_impls.lora import LoRALinear


@dataclass(frozen=True)
class Config:
    """The official scripts' values for Llama on commonsense reasoning."""

    rank: int = 32  # the README's example for every Llama; half of it does nearly as well there
    alpha: float = 64.0  # twice the rank, same place
    target: str = f"{QUERY}|{KEY}|{VALUE}|{QKV}|{FFN_IN}|{FFN_OUT}"  # llama2_7B_DoRA.sh: q, k, v, up, down


class DoRALinear(LoRALinear):
    """A frozen linear layer whose rows have trained lengths and whose direction has a low-rank change."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(base, rank, alpha)
        self.m = nn.Parameter(base.weight.detach().norm(dim=1))  # (d_out,)

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """‖V‖ (d_out,), without gradient."""
        return (self.weight + self.scale * (self.B @ self.A)).norm(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """The direction's output, each number scaled to its row's trained length."""
        low = x @ self.A.T  # (…, d_in) -> (…, r)
        y = linear(x, self.weight) + self.scale * (low @ self.B.T)  # x Vᵀ: (…, d_out)
        y = (self.m / self.row_norms()) * y
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with W′ as its weight."""
        ratio = self.m / self.row_norms()
        self.base.weight += self.scale * (self.B @ self.A)
        self.base.weight *= ratio[:, None]
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and decomposes every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the rank exceeds a matrix.
    """
    freeze(model)
    replace(model, config.target, lambda layer: DoRALinear(layer, config.rank, config.alpha))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Writes every W′ into its layer and restores plain linear layers."""
    return settle(model)

"""LoRA-FA: LoRA whose matrix A stays at its random start; only B trains, with a gradient corrected for that.

    y = x Wᵀ + b + s (x Aᵀ) Bᵀ,   s = α / r        x (…, d_in)   W (d_out, d_in)   A (r, d_in) frozen   B (d_out, r)
    step along   G_B (A Aᵀ)⁻¹ / s²                 G_B (d_out, r), the gradient of B

B starts at zero, so training starts at the base model. The gradient of B needs x Aᵀ alone: r numbers per token are kept
for the backward pass where LoRA keeps all d_in. A step Δ in B moves the weight by s Δ A, and of all Δ the corrected
gradient brings s Δ A closest, in least squares, to the gradient of the whole weight. The change merges away.

Paper:     Zhang, Zhang, Shi, Chu, Li 2023, arXiv:2308.03303; the correction is in its second version (2026)
Official:  github.com/huggingface/peft at v0.21.2, src/peft/optimizers/lorafa.py (Apache-2.0), named in that version
Differs:   A is drawn as in LoRA. The correction precedes AdamW as in the official code, which however rounds it to
           bfloat16 wherever the machine can, and adds 1e-8 to the diagonal of A Aᵀ; here it is formed in float32.
           ``correct=False`` is the first version's plain AdamW. A is saved with B, it could be drawn from a seed
"""

from dataclasses import dataclass

import torch
from torch import nn

from reference_impls import lora
from reference_impls._site import instances
from reference_impls._surgery import freeze, replace, settle


@dataclass(frozen=True)
class Config(lora.Config):
    """LoRA's values: rank and alpha 8 on query and value."""

    correct: bool = True  # the second version's gradient correction; Adam's own scaling takes most of it away


class LoRAFALinear(lora.LoRALinear):
    """A frozen linear layer whose change lives in the row space of a frozen random A."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__(base, rank, alpha)
        self.A.requires_grad_(False)

    @torch.no_grad()
    def correct(self) -> None:
        """Replaces B's gradient G by the X that solves X (s² A Aᵀ) = G."""
        if self.B.grad is not None:
            A, G = self.A.float(), self.B.grad.float()
            self.B.grad.copy_(torch.linalg.solve(self.scale**2 * (A @ A.T), G, left=False))  # (d_out, r)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a low-rank change beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the rank exceeds a matrix.
    """
    freeze(model)
    replace(model, config.target, lambda layer: LoRAFALinear(layer, config.rank, config.alpha))
    return model


def optimizer(model: nn.Module, lr: float, config: Config = Config()) -> torch.optim.Optimizer:
    """AdamW that corrects the gradient of every B before it takes a step."""
    layers = [layer for _, layer in instances(model, LoRAFALinear)]
    adamw = torch.optim.AdamW([layer.B for layer in layers], lr=lr, weight_decay=0.0)
    if config.correct:
        adamw.register_step_pre_hook(lambda *_: _correct(layers))
    return adamw


def _correct(layers: list[LoRAFALinear]) -> None:
    for layer in layers:
        layer.correct()


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

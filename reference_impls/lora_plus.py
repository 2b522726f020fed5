"""LoRA+: trains LoRA's matrix B with a larger learning rate than A; the layer itself is LoRA's.

    y = x Wᵀ + b + (α / r) (x Aᵀ) Bᵀ,   η_B = λ η_A        x (…, d_in)   W (d_out, d_in)   A (r, d_in)   B (d_out, r)

A starts random and B at zero, as in LoRA, and only the two train. In the limit of a wide model one common rate moves
either A or B too little for the features to change; with η_B much the larger, both contribute to each step. η_A is the
rate that the caller gives, η_B = λ η_A, and a schedule scales both alike. The change merges away as LoRA's does.

Paper:     Hayou, Ghosh, Yu 2024, arXiv:2402.12354, the rule that gives the method its name
Official:  github.com/nikhil-ghosh-berkeley/loraplus at a0c44bf, lora_plus.py (MIT)
Differs:   the official code gives adapted embeddings a rate of their own (1e-6) and puts trained vectors, such as
           biases, with B; here linear layers alone are adapted and nothing else trains. No weight decay, as in its
           example. The ratio of 16 is the paper's rule of thumb; the official scripts use 10 (GPT-2) and 80 (RoBERTa)
"""

from dataclasses import dataclass

import torch
from torch import nn

from reference_impls import lora
from reference_impls._site import instances
from reference_impls._surgery import settle


@dataclass(frozen=True)
class Config(lora.Config):
    """LoRA's values, which are also those of the official RoBERTa script (rank 8, alpha 8), and the ratio."""

    lr_ratio: float = 16.0  # λ = 2⁴: the rule of thumb; the harder the task, the larger


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts a low-rank change beside every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, the rank exceeds a matrix or the ratio is not positive.
    """
    if not config.lr_ratio > 0:
        raise ValueError(f"lr_ratio {config.lr_ratio} would not train B; give a positive number, 1 is plain LoRA")
    return lora.attach(model, config)


def optimizer(model: nn.Module, lr: float, config: Config = Config()) -> torch.optim.Optimizer:
    """AdamW with ``lr`` for every A and ``config.lr_ratio`` times as much for every B."""
    layers = [layer for _, layer in instances(model, lora.LoRALinear)]
    groups = [
        {"params": [layer.A for layer in layers], "lr": lr},
        {"params": [layer.B for layer in layers], "lr": config.lr_ratio * lr},
    ]
    return torch.optim.AdamW(groups, weight_decay=0.0)


def merge(model: nn.Module) -> nn.Module:
    """Adds every change to its weight and restores plain linear layers."""
    return settle(model)

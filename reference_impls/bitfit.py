"""BitFit: trains the bias vectors of a model and nothing else.

    y = x Wᵀ + b + Δb          W (d_out, d_in) frozen      Δb (d_out,), likewise for LayerNorm's bias

The model's own biases train in place, those of its normalisation layers included: about 0.1 % of BERT. No parameter is
added and nothing is left to merge. It needs biases: T5 has none and Llama usually none, and then it cannot be used.

Paper:     Ben Zaken et al. 2022, arXiv:2106.10199, section 3
Official:  github.com/benzakenelad/BitFit at ca29e2a, glue_evaluator.py (MIT)
Differs:   the task head stays frozen here, the paper trains it with the biases. ``target`` chooses among the biases:
           the paper's smaller variant, queries and the first feed-forward layer, is ``f"{QUERY}|{FFN_IN}"``
"""

import re
from dataclasses import dataclass

from torch import nn

from reference_impls._site import backbone
from reference_impls._surgery import freeze, refuse, settle, train_in_place


@dataclass(frozen=True)
class Config:
    """Which biases train."""

    target: str = ".*"  # all of them (section 3); a regular expression for the end of the layer's name


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` except its biases; ``ValueError`` when ``config.target`` names no layer that has one."""
    pattern = re.compile(rf"(?:.*\.)?(?:{config.target})\.bias")
    names = [name for name, _ in backbone(freeze(model)) if pattern.fullmatch(name)]
    if not names:
        refuse(model, f"{type(model).__name__} has no bias in a layer that matches {config.target!r}; BitFit needs one")
    train_in_place(model, names)
    return model


def merge(model: nn.Module) -> nn.Module:
    """The trained model is already a plain one: gives its parameters their old ``requires_grad`` and returns it."""
    return settle(model)

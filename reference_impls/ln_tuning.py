"""LN tuning: trains the gains and biases of the normalisation layers and nothing else.

    y = g ⊙ (x − mean(x)) / std(x) + c        LayerNorm: g, c (d,)
    y = g ⊙ x / rms(x)                        RMSNorm:   g (d,) only

The layers are the model's own, trained in place: no parameter is added, nothing is left to merge, and the model starts
where it was. About 0.03 % of BERT; in RMSNorm models (Llama, T5) half as much, since these have no c.

Paper:     Qi et al. 2022, arXiv:2211.08682, section 3
Official:  none published
Differs:   the paper studies LayerNorm; RMSNorm's gain is the same parameter. Every norm of the model trains, the one at
           the embeddings and the final one included (as in the survey's runs); task heads stay frozen here
"""

from dataclasses import dataclass

from torch import nn

from reference_impls._site import norms
from reference_impls._surgery import freeze, refuse, settle, train_in_place


@dataclass(frozen=True)
class Config:
    """The method has nothing to choose."""


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` except its normalisation layers; ``ValueError`` when it has none."""
    found = list(norms(freeze(model)))
    names = [f"{path}.{name}" for path, norm in found for name, _ in norm.named_parameters(recurse=False)]
    if not names:
        refuse(model, f"{type(model).__name__} has no normalisation layer with a gain to train")
    train_in_place(model, names)
    return model


def merge(model: nn.Module) -> nn.Module:
    """The trained model is already a plain one: gives its parameters their old ``requires_grad`` and returns it."""
    return settle(model)

"""SSL: rescales the inputs of a linear layer by one learned vector, that is the columns of its weight.

    y = x (W diag(s))ᵀ + b = (s ⊙ x) Wᵀ + b          x (…, d_in)   W (d_out, d_in)   s (d_in,)   b (d_out,)

Only s trains: d_in numbers per matrix. It starts at one, which changes nothing, and folds into the weight exactly. With
the singular value decomposition W = U Σ Vᵀ the change reads W diag(s) = U Σ (diag(s) V)ᵀ: one of the two sets of singular
vectors is rescaled row by row, the other one and the singular values stay. The paper writes the transpose of W, where
these are the left vectors: hence the name, Scaling the Subspace of the Left singular vectors.

Paper:     Si, Yang, Shen 2024, arXiv:2407.05417, section on reconstruction, "subspace scaling"
Official:  github.com/Chongjie-Si/Subspace-Tuning at 2c63d06, loralib/loralib/layers_SSL.py (Apache-2.0)
Differs:   nothing known in the layer, which is that of (IA)³'s scaled input (its parameter is called l). Which matrices
           have it is inferred: keys, values and the first feed-forward matrix reproduce the paper's parameter shares
"""

from dataclasses import dataclass

from torch import nn

from reference_impls._site import FFN_IN, KEY, QKV, VALUE
from reference_impls._surgery import freeze, replace, settle
from reference_impls.ia3 import ScaledInput


@dataclass(frozen=True)
class Config:
    """Where the vectors stand. The method has no other choice to make."""

    target: str = f"{KEY}|{VALUE}|{QKV}|{FFN_IN}"  # the layers of the paper's (IA)³ baseline


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and scales the input of every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches.
    """
    freeze(model)
    replace(model, config.target, ScaledInput)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Folds every vector into its weight and restores plain linear layers."""
    return settle(model)

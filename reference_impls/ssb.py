"""SSB: rescales inputs and outputs of a linear layer by two learned vectors, that is columns and rows of its weight.

    y = x (diag(t) W diag(s))ᵀ + b = t ⊙ ((s ⊙ x) Wᵀ) + b       x (…, d_in)   W (d_out, d_in)   s (d_in,)   t, b (d_out,)

Only s and t train: d_in + d_out numbers per matrix. Both start at one, which changes nothing, and fold into the weight
exactly; the bias stays as it is. With the singular value decomposition W = U Σ Vᵀ the change reads
(diag(t) U) Σ (diag(s) V)ᵀ: both sets of singular vectors are rescaled row by row, the singular values stay. Hence the
name, Scaling the Subspace of Both. With t = 1 it is SSL, with s = 1 and no bias (IA)³ on keys and values.

Paper:     Si, Yang, Shen 2024, arXiv:2407.05417, section on reconstruction, "subspace scaling"
Official:  github.com/Chongjie-Si/Subspace-Tuning at 2c63d06, loralib/loralib/layers_SSB.py (Apache-2.0)
Differs:   nothing known in the layer. Which matrices have it is inferred, as in SSL
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls import ssl
from reference_impls._surgery import freeze, replace, settle
from reference_impls.ia3 import ScaledInput


@dataclass(frozen=True)
class Config(ssl.Config):
    """Where the vectors stand: SSL's layers."""


class SSBLinear(ScaledInput):
    """A frozen linear layer between two learned scales; that of its input, s, is called l as in (IA)³."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base)
        self.t = nn.Parameter(base.weight.new_ones(base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        y = self.t * super().forward(x)
        return y if self.bias is None else y + (1 - self.t) * self.bias  # the bias is not scaled

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the columns and the rows of its weight scaled."""
        layer = super().merged()
        layer.weight *= self.t[:, None]
        return layer


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and scales input and output of every linear layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches.
    """
    freeze(model)
    replace(model, config.target, SSBLinear)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Folds both vectors of every layer into its weight and restores plain linear layers."""
    return settle(model)

"""(IA)³: rescales keys, values and the inner activation of the feed-forward network by three learned vectors per block.

    K = l_k ⊙ (x W_kᵀ + b_k)     V = l_v ⊙ (x W_vᵀ + b_v)     FFN(x) = (l_ff ⊙ h) W_2ᵀ + b_2,   h = γ(x W_1ᵀ + b_1)

l_k (d_k,) and l_v (d_v,) for each attention module, cross-attention included, l_ff (d_ff,) for each feed-forward
network; with a gated one, h is the whole product. Nothing else trains. All vectors start at one, which changes nothing.

All three fold into the weights exactly: l_k and l_v scale the rows of their matrix and its bias, l_ff the columns of
W_2, whose bias stays. The last holds because h is read by W_2 alone, as in every family here. (The survey says that
two of the three fold; it keeps l_ff as a multiplication at inference.)

Paper:     Liu et al. 2022, arXiv:2205.05638, section 3.3 and equation in figure 1
Official:  github.com/r-three/t-few at 5edc84b, src/models/lora.py and configs/ia3.json (MIT)
Differs:   the official code scales the output of T5's wi_1, the linear half of the gated product, which is the same
           number; we scale the input of the last layer, which is the paper's equation for ungated networks too. A
           matrix that gives queries, keys and values in one is scaled as a whole
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import FFN_OUT, KEY, QKV, VALUE
from reference_impls._surgery import freeze, replace, settle


@dataclass(frozen=True)
class Config:
    """Where the vectors stand. The method has no other choice to make."""

    scaled_outputs: str = f"{KEY}|{VALUE}|{QKV}"  # section 3.3
    scaled_inputs: str = FFN_OUT  # section 3.3: the inner activation is what this layer reads


class ScaledOutput(Around):
    """A frozen linear layer whose output is multiplied by a learned vector."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.out_features))  # the paper's letter

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, scaled."""
        return self.l * self.base(x)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the rows of its weight, and its bias, scaled."""
        self.base.weight *= self.l[:, None]
        if self.base.bias is not None:
            self.base.bias *= self.l
        return self.base


class ScaledInput(Around):
    """A frozen linear layer whose input is multiplied by a learned vector."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base)
        self.l = nn.Parameter(base.weight.new_ones(base.in_features))  # the paper's letter

    def forward(self, h: Tensor) -> Tensor:
        """The layer's output for the scaled input."""
        return self.base(self.l * h)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The base layer with the columns of its weight scaled."""
        self.base.weight *= self.l
        return self.base


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts the three vectors into every block; ``ValueError`` when a pattern matches nothing."""
    freeze(model)
    replace(model, config.scaled_outputs, ScaledOutput)
    replace(model, config.scaled_inputs, ScaledInput)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Folds every vector into the weights and restores plain linear layers."""
    return settle(model)

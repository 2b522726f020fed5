"""Parallel adapter: a trained bottleneck network beside the feed-forward network, fed with the same input.

    y = FFN(x) + s (ReLU(x W_dᵀ + b_d) W_uᵀ + b_u)     x (…, d)   W_d (m, d)   b_d (m,)   W_u (d, m)   b_u (d,)

Seen as changes of a hidden state, a serial adapter reads what its sub-layer gave, a parallel one what it was given. The
paper finds the parallel form better, and the feed-forward network the better place for it. Only the bottlenecks train:
2 d m + m + d numbers per block. W_u and the biases start at zero, so the model starts where it was. s is 1 here; the
scaled parallel adapter is the same with another s. ReLU stands between the matrices: nothing can be merged.

Paper:     He et al. 2021, arXiv:2110.04366, section 3.3, table 1 ("parallel adapter") and section 4.5
Official:  github.com/jxhe/unify-parameter-efficient-tuning, petl/petl_factory.py (Apache-2.0)
Differs:   no dropout inside the bottleneck (the official code offers it)
"""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from reference_impls._branch import beside
from reference_impls._site import FFN_IN, FFN_OUT
from reference_impls._surgery import freeze
from reference_impls.houlsby_adapter import Bottleneck


@dataclass(frozen=True)
class Config:
    """The size and weight of the branch, and between which layers it runs."""

    bottleneck: int = 512  # table 5, m in the equation; 1024 in the largest comparison
    scale: float = 1.0  # s; section 4.5 takes 4 for the scaled variant
    first: str = FFN_IN  # reads this layer's input
    last: str = FFN_OUT  # adds to this layer's output


class Branch(Bottleneck):
    """A bottleneck that starts at zero and is multiplied by a fixed number."""

    def __init__(self, like: Tensor, d: int, m: int, scale: float) -> None:
        super().__init__(like, d, m, nn.functional.relu)
        self.scale = scale
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))  # the official option "lora"
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d) -> (…, d)."""
        return self.scale * super().forward(x)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and runs a bottleneck beside every feed-forward network.

    Raises ``ValueError`` when the model has none under these names or the bottleneck is empty.
    """
    return insert(freeze(model), config)


def insert(model: nn.Module, config: Config = Config()) -> nn.Module:
    """The second half of ``attach``: for methods that combine it with others on a frozen model."""

    def build(first: nn.Linear, last: nn.Linear) -> Branch:
        if first.in_features != last.out_features:
            raise ValueError(f"a branch from width {first.in_features} to {last.out_features} cannot be added")
        return Branch(last.weight, last.out_features, config.bottleneck, config.scale)

    beside(model, config.first, config.last, build)
    return model

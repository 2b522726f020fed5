"""Scaled parallel adapter: a parallel adapter whose output is multiplied by a number before it is added.

    y = FFN(x) + s (ReLU(x W_dᵀ + b_d) W_uᵀ + b_u)     x (…, d)   W_d (m, d)   b_d (m,)   W_u (d, m)   b_u (d,)

The branch is the parallel adapter's: 2 d m + m + d numbers per block train. s is one fixed number for all branches, 4 in
the paper, which acts as a learning rate of the change: LoRA's α / r, taken over to a bottleneck with a non-linearity.
W_u and the biases start at zero, so the model starts where it was. ReLU stands between the matrices: nothing can be
merged.

Paper:     He et al. 2021, arXiv:2110.04366, section 4.5, table 5 and appendix A.3
Official:  github.com/jxhe/unify-parameter-efficient-tuning at 3222ce2, petl/petl_factory.py (Apache-2.0)
Differs:   s is fixed, as in the paper, which finds a learned s no better; the survey's run learns it, one number more
           per block. No dropout inside the bottleneck (the official code offers it)
"""

from dataclasses import dataclass

from torch import nn

from reference_impls import parallel_adapter


@dataclass(frozen=True)
class Config:
    """The size and weight of the branch."""

    bottleneck: int = 512  # m, table 5; 1024 in the largest comparison
    scale: float = 4.0  # s, section 4.5


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and runs a bottleneck, times s, beside every feed-forward network.

    Raises ``ValueError`` when the model has none under the usual names or the bottleneck is empty.
    """
    return parallel_adapter.attach(model, parallel_adapter.Config(config.bottleneck, config.scale))

"""Compacter++: Compacter with one adapter per block, behind the feed-forward network only.

    y = h + up(GELU(down(h)))       down(h) = h W + b,   W = Σᵢ Aᵢ ⊗ (sᵢ tᵢ),   i = 1 … n

    Aᵢ (n, n) shared by every matrix of the model   sᵢ (d_in / n, r)   tᵢ (r, d_out / n)   W (d_in, d_out)   b (d_out,)

h (…, d) is the output of a feed-forward network before the residual. Equation, start and what trains are Compacter's,
the adapter behind attention is left out: half the numbers and half the extra layers, with r = 1 those of one adapter
are 2 (d + m) + m + d, and n³ for all together. The Aᵢ start small, so the model starts close to where it was, not there.

Paper:     Karimi Mahabadi et al. 2021, arXiv:2106.04647, section 4 and table 1
Official:  github.com/rabeehk/compacter at 3a2deb7, seq2seq/configs/compacter++.json (no licence file)
Differs:   as Compacter: ``train_norms`` is off by default, and the bottleneck is rounded down to a multiple of n
"""

from dataclasses import dataclass

from torch import nn

from reference_impls import compacter
from reference_impls._site import FFN_OUT


@dataclass(frozen=True)
class Config:
    """Sizes of the Kronecker factors and of the bottleneck."""

    reduction: int = 32  # section 5.1: bottleneck m = d / 32, 24 in T5-base
    factors: int = 4  # n, section 5.1
    rank: int = 1  # r, section 4
    train_norms: bool = False  # section 5.1 trains them


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts an adapter behind every feed-forward network.

    Raises ``ValueError`` when the model has none under the usual names, or n does not divide its width.
    """
    return compacter.attach(
        model, compacter.Config(config.reduction, config.factors, config.rank, FFN_OUT, config.train_norms)
    )

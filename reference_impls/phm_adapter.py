"""PHM adapter: adapters whose matrices are sums of Kronecker products, each matrix with factors of its own.

    y = h + up(GELU(down(h)))       down(h) = h W + b,   W = Σᵢ Aᵢ ⊗ Bᵢ,   i = 1 … n

    Aᵢ (n, n)   Bᵢ (d_in / n, d_out / n)   W (d_in, d_out)   b (d_out,)

As in Houlsby's adapters, h (…, d) is the output of an attention or feed-forward sub-layer before the residual, and the
bottleneck has m numbers. Aᵢ, Bᵢ and b train: a matrix costs n³ + d_in d_out / n numbers, about an n-th of a plain one,
and can have full rank all the same. The Aᵢ start small, so each adapter starts close to the identity, not at it. W is
never formed: h is folded to n × d_in / n and meets Aᵢ and Bᵢ in turn, first the one that leaves fewer numbers.

Paper:     Karimi Mahabadi et al. 2021, arXiv:2106.04647, equations 1 to 3 (the layer: Zhang et al. 2021,
           arXiv:2102.08597) and section 5.1 ("PHM-Adapter")
Official:  github.com/rabeehk/compacter at 3a2deb7, seq2seq/hypercomplex/layers.py (no licence file)
Differs:   as Compacter: the official runs also train the layer norms (``train_norms``, off by default), and the
           bottleneck d / 32 is rounded down to a multiple of n, at least n. n = 12 needs a width that it divides
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls import compacter
from reference_impls._site import FFN_OUT
from reference_impls._surgery import freeze, refuse, replace
from reference_impls.houlsby_adapter import SELF_OUTPUT, AfterSublayer, train_norms


@dataclass(frozen=True)
class Config:
    """Sizes of the Kronecker factors and of the bottleneck."""

    reduction: int = 32  # section 5.1: bottleneck m = d / 32, 24 in T5-base
    factors: int = 12  # n, official phm_adapters.json
    target: str = f"{SELF_OUTPUT}|{FFN_OUT}"  # section 4: after both sub-layers
    train_norms: bool = False  # section 5.1 trains them


class PHMLinear(nn.Module):
    """A linear map whose matrix is a sum of n Kronecker products."""

    def __init__(self, like: Tensor, d_in: int, d_out: int, n: int) -> None:
        super().__init__()
        if d_in % n or d_out % n:
            raise ValueError(f"{n} Kronecker factors do not make a {d_in} x {d_out} matrix")
        self.rule = compacter.Rule(like, n)
        self.B = nn.Parameter(like.new_empty(n, d_in // n, d_out // n))
        self.b = nn.Parameter(like.new_zeros(d_out))
        for part in self.B:
            nn.init.xavier_uniform_(part, gain=2**0.5)

    def forward(self, h: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        n, k, length = self.B.shape
        folded = h.unflatten(-1, (n, k))  # (…, d_in) -> (…, n, d_in / n)
        if k < length:
            mixed = torch.einsum("...pk,ipq->...iqk", folded, self.rule.A)  # -> (…, i, n, d_in / n)
            return torch.einsum("...iqk,ikl->...ql", mixed, self.B).flatten(-2) + self.b  # -> (…, d_out)
        low = torch.einsum("...pk,ikl->...ipl", folded, self.B)  # -> (…, i, n, d_out / n)
        return torch.einsum("...ipl,ipq->...ql", low, self.rule.A).flatten(-2) + self.b  # -> (…, d_out)


class Adapter(compacter.Adapter):
    """Compacter's bottleneck, of two such maps."""

    def __init__(self, like: Tensor, d: int, m: int, n: int) -> None:
        nn.Module.__init__(self)
        self.down, self.up = PHMLinear(like, d, m, n), PHMLinear(like, m, d, n)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts an adapter behind every layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, or n does not divide the model's width.
    """
    freeze(model)
    if config.factors < 1 or config.reduction < 1:
        refuse(model, f"{config.factors} factors and a reduction of {config.reduction} must both be at least 1")

    def build(layer: nn.Linear) -> AfterSublayer:
        d = layer.out_features
        m = compacter.bottleneck(d, compacter.Config(config.reduction, config.factors))
        return AfterSublayer(layer, Adapter(layer.weight, d, m, config.factors))

    replace(model, config.target, build)
    if config.train_norms:
        train_norms(model)
    return model

"""Compacter: adapters of Kronecker products, of which one factor is shared by all adapters and the other has rank one.

    y = h + up(GELU(down(h)))       down(h) = h W + b,   W = Σᵢ Aᵢ ⊗ (sᵢ tᵢ),   i = 1 … n

    Aᵢ (n, n) shared by every matrix of the model   sᵢ (d_in / n, r)   tᵢ (r, d_out / n)   W (d_in, d_out)   b (d_out,)

As in Houlsby's adapters, h (…, d) is the output of an attention or feed-forward sub-layer before the residual, and the
bottleneck has m numbers. A matrix costs r (d_in + d_out) numbers and its bias instead of d_in d_out, the n³ numbers of
the Aᵢ come once: with rank r = 1, a whole adapter costs 2 (d + m) + m + d. The Aᵢ start small, so each adapter starts
close to the identity, not at it. W is never formed: h is folded to n × d_in / n and meets tᵢ, sᵢ and Aᵢ in turn.

Paper:     Karimi Mahabadi et al. 2021, arXiv:2106.04647, equations 4 to 7 and section 4
Official:  github.com/rabeehk/compacter, seq2seq/hypercomplex/layers.py and adapters/ (no licence file)
Differs:   the official runs also train the layer norms: ``train_norms``, off by default as in Houlsby's adapters here.
           The bottleneck d / 32 is rounded down to a multiple of n, and is at least n; the official code stops instead.
           An encoder-decoder's cross-attention gets no adapter, as there
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._site import FFN_OUT
from reference_impls._surgery import freeze, refuse, replace
from reference_impls.houlsby_adapter import SELF_OUTPUT, AfterSublayer, train_norms


@dataclass(frozen=True)
class Config:
    """Sizes of the Kronecker factors and of the bottleneck."""

    reduction: int = 32  # section 5.1: bottleneck m = d / 32, 24 in T5-base
    factors: int = 4  # n, section 5.1
    rank: int = 1  # r, section 4
    target: str = f"{SELF_OUTPUT}|{FFN_OUT}"  # section 4: after both sub-layers; Compacter++ after the second only
    train_norms: bool = False  # section 5.1 trains them


class Rule(nn.Module):
    """The factors Aᵢ that every matrix shares: what the adapters of all layers have in common."""

    def __init__(self, like: Tensor, n: int) -> None:
        super().__init__()
        self.A = nn.Parameter(like.new_empty(n, n, n))
        nn.init.normal_(self.A, std=0.01)  # the official code's c_init = normal


class PHMLinear(nn.Module):
    """A linear map whose matrix is a sum of n Kronecker products."""

    def __init__(self, rule: Rule, d_in: int, d_out: int, rank: int) -> None:
        super().__init__()
        n = rule.A.shape[0]
        if d_in % n or d_out % n or rank < 1:
            raise ValueError(f"{n} Kronecker factors of rank {rank} do not make a {d_in} x {d_out} matrix")
        self.rule = rule
        self.s = nn.Parameter(rule.A.new_empty(n, d_in // n, rank))
        self.t = nn.Parameter(rule.A.new_empty(n, rank, d_out // n))
        self.b = nn.Parameter(rule.A.new_zeros(d_out))
        for part in (*self.s, *self.t):
            nn.init.xavier_uniform_(part, gain=2**0.5)

    def forward(self, h: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        n = self.s.shape[0]
        folded = h.unflatten(-1, (n, -1))  # (…, d_in) -> (…, n, d_in / n)
        low = torch.einsum("...pk,ikr->...ipr", folded, self.s)  # -> (…, i, n, r)
        mixed = torch.einsum("...ipr,ipq->...iqr", low, self.rule.A)  # -> (…, i, n, r)
        return torch.einsum("...iqr,irl->...ql", mixed, self.t).flatten(-2) + self.b  # -> (…, d_out)


class Adapter(nn.Module):
    """A bottleneck of two such maps; the skip connection is around it."""

    def __init__(self, rule: Rule, d: int, m: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = PHMLinear(rule, d, m, rank), PHMLinear(rule, m, d, rank)

    def forward(self, h: Tensor) -> Tensor:
        """(…, d) -> (…, m) -> (…, d)."""
        return self.up(nn.functional.gelu(self.down(h), approximate="tanh"))


def bottleneck(d: int, config: Config) -> int:
    """Width d / reduction, as the multiple of n below it, and at least n."""
    return config.factors * max(1, d // (config.reduction * config.factors))


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts an adapter behind every layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, or n does not divide the model's width.
    """
    freeze(model)
    if config.factors < 1 or config.reduction < 1:
        refuse(model, f"{config.factors} factors and a reduction of {config.reduction} must both be at least 1")
    rules: list[Rule] = []

    def build(layer: nn.Linear) -> AfterSublayer:
        if not rules:
            rules.append(Rule(layer.weight, config.factors))
        d = layer.out_features
        return AfterSublayer(layer, Adapter(rules[0], d, bottleneck(d, config), config.rank))

    replace(model, config.target, build)
    if config.train_norms:
        train_norms(model)
    return model

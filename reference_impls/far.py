"""FAR: the rows of the feed-forward matrices that move most in a short trial learn on, split off from the frozen rest.

    y = [x W_tᵀ + b_t ; x W_fᵀ + b_f]_π        x (…, d_in)   W_t (k, d_in)   W_f (d_out − k, d_in)   π a permutation
    S_j = ‖w_j − w_j⁰‖₁                        the rows in W_t are those k with the largest S after priming

A row is what one node computes. ``prepare`` primes: it trains every row of the feed-forward layers for some steps, scores
each by how far it moved, and puts all of them back. Then each layer is rebuilt as two, one that learns and one that is
frozen, whose outputs are put in the order of before: plain matrix products, for which no gradient of a frozen row is ever
formed, unlike a mask over gradients. The model starts where it was; sorting the rows back into one matrix merges.

Paper:     Vucetic et al. 2022, arXiv:2205.01541, as the survey arXiv:2303.15647 tells it in section 9.3 of version 1
Official:  none published
Differs:   the paper was not read beyond its abstract: whether attention learns during priming, how long it lasts, and
           whether the rows go back to their pre-trained values afterwards are choices made here
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._journal import journal
from reference_impls._layer import Around
from reference_impls._site import FFN, instances
from reference_impls._surgery import freeze, park, replace, settle


@dataclass(frozen=True)
class Config:
    """Ours, but for the range of the retention: accounts of the paper name 10 % and 40 %."""

    retention: float = 0.1  # share of a layer's rows that learn
    passes: int = 1  # of priming over the batches that ``prepare`` is given
    priming_lr: float = 5e-5  # constant, with AdamW
    target: str = FFN


class FARLinear(Around):
    """A linear layer as two: k rows that learn, and ``base``, the frozen rest."""

    def __init__(self, layer: nn.Linear, k: int) -> None:
        d_in, d_out = layer.in_features, layer.out_features
        rest = nn.Linear(d_in, d_out - k, device="meta")
        rest.weight = nn.Parameter(layer.weight.new_empty(d_out - k, d_in), requires_grad=False)
        rest.bias = None if layer.bias is None else nn.Parameter(layer.bias.new_empty(d_out - k), requires_grad=False)
        super().__init__(rest)
        self.whole = (layer,)  # the pre-trained rows, in a tuple: they are not this module's child
        self.W = nn.Parameter(layer.weight.new_empty(k, d_in))
        self.b = None if layer.bias is None else nn.Parameter(layer.bias.new_empty(k))
        self.register_buffer("rows", torch.empty(k, dtype=torch.long, device=layer.weight.device))
        self.register_buffer("order", self.rows.new_empty(d_out), persistent=False)  # π
        self.register_load_state_dict_post_hook(lambda layer, _: layer.freeze_rest())
        self.choose(torch.arange(k, device=self.rows.device) * d_out // k)  # until ``prepare`` chooses

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return len(self.order)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        y = torch.cat((nn.functional.linear(x, self.W, self.b), self.base(x)), dim=-1)  # (…, k + (d_out − k))
        return y.index_select(-1, self.order)

    @torch.no_grad()
    def choose(self, rows: Tensor) -> None:
        """Lets the ``rows`` (k,) learn, from their pre-trained values, and freezes the others."""
        self.rows.copy_(rows.sort().values)
        for mine, whole in ((self.W, self.whole[0].weight), (self.b, self.whole[0].bias)):
            if mine is not None:
                mine.copy_(whole[self.rows.to(whole.device)])
        self.freeze_rest()

    @torch.no_grad()
    def freeze_rest(self) -> None:
        """Gives the frozen rows their pre-trained values, and finds the order that ``rows`` asks for."""
        rest = torch.ones_like(self.order, dtype=torch.bool).index_fill(0, self.rows, False).sort(stable=True)
        rest = rest.indices[len(self.rows) :]  # the positions that are still True, in order
        self.order.copy_(torch.cat((self.rows, rest)).argsort())
        for mine, whole in ((self.base.weight, self.whole[0].weight), (self.base.bias, self.whole[0].bias)):
            if mine is not None:
                mine.copy_(whole[rest.to(whole.device)])

    @torch.no_grad()
    def moved(self) -> Tensor:
        """S (d_out,): how far each row stands from its pre-trained values."""
        weight = torch.cat((self.W, self.base.weight))[self.order]
        return (weight - self.whole[0].weight.to(weight)).abs().sum(1)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """One plain linear layer, its rows in order again."""
        layer = nn.Linear(self.in_features, self.out_features, self.b is not None, device="meta")
        layer.weight = nn.Parameter(torch.cat((self.W, self.base.weight))[self.order])
        layer.bias = None if self.b is None else nn.Parameter(torch.cat((self.b, self.base.bias))[self.order])
        return layer


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and splits every feed-forward layer; evenly spread rows learn until ``prepare`` chooses them.

    Raises ``ValueError`` when the model has no such layer or the retention leaves a layer without either kind of row.
    """
    freeze(model)

    def split(layer: nn.Linear) -> FARLinear:
        k = round(config.retention * layer.out_features)
        if not 0 < k < layer.out_features:
            raise ValueError(
                f"retention {config.retention} lets {k} of {layer.out_features} rows learn; both kinds are needed"
            )
        return FARLinear(layer, k)

    replace(model, config.target, split)
    for _, layer in instances(model, FARLinear):
        journal(model)[1].own(layer.base)  # the base, in another form: it does not belong into the adapter's file
    return park(model)


def prepare(model: nn.Module, batches: Sequence[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """Primes: trains every row of the feed-forward layers, lets those that moved farthest learn, and puts all back."""
    if config.passes * len(batches) < 1:
        raise ValueError(f"{config.passes} passes over {len(batches)} batches train nothing to choose from")
    layers = [layer for _, layer in instances(model, FARLinear)]
    for layer in layers:
        layer.base.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], config.priming_lr, weight_decay=0.0
    )
    for _ in range(config.passes):
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    for layer in layers:
        layer.base.requires_grad_(False)
        layer.choose(layer.moved().topk(len(layer.rows)).indices)


def merge(model: nn.Module) -> nn.Module:
    """Sorts the rows of every layer back into one matrix and restores the plain model."""
    return settle(model)

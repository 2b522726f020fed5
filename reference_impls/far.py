"""FAR: finds the rows of the feed-forward layers that move most, and rebuilds each layer as one that learns and one that rests.

    y = P [W_t x + b_t ; W_f x + b_f]        S_j = ‖w_j − w_j⁰‖₁      the k = f d_out rows with the largest S_j learn

x (…, d_in)   W_t (k, d_in)   b_t (k,)   W_f (d_out − k, d_in)   b_f (d_out − k,)   P a permutation of the d_out outputs

``prepare`` is the priming: it trains the feed-forward layers for one step on each batch that it is given, scores every
row w_j by the size of its change, splits each layer by its own scores and returns all rows to their pre-trained values.
From then on only W_t has gradients and optimizer states. Both parts are plain layers, so no mask and no sparse
kernel is needed: the gradient of W_f is never formed. Sorting the rows back gives the layer that was.

Paper:     Vucetic et al. 2022, arXiv:2205.01541, sections III-A and III-B
Official:  none published
Differs:   the paper's text was not at hand: the share f and the length of priming are ours, all rows return to where they
           were (so only W_t need be stored), and priming trains the feed-forward matrices only, whose rows it compares.
           Biases rest unless ``train_biases``. The layers as they were wait in the computer's memory for ``detach``
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from reference_impls._surgery import FFN, freeze, instances, journal, replace, settle
from reference_impls.qlora import park


@dataclass(frozen=True)
class Config:
    """How many rows learn, and how they are found; accounts of the paper name shares of 10 to 40 %."""

    retention: float = 0.1  # f
    priming_lr: float = 1e-4
    train_biases: bool = False  # the paper's learning rows have theirs: k numbers more for each matrix with a bias
    target: str = FFN


class FARLinear(nn.Module):
    """A linear layer in two parts: rows that learn and rows that rest."""

    def __init__(self, original: nn.Linear, config: Config) -> None:
        super().__init__()
        self.base_ = (original,)  # in a tuple: no child of this module; it waits for ``detach``
        self.in_features, self.out_features = original.in_features, original.out_features
        d_out = self.out_features
        k = round(config.retention * d_out)
        if not 0 < k <= d_out:
            raise ValueError(f"a retention of {config.retention} lets {k} of {d_out} rows learn")
        like = original.weight.detach()
        self.W_t = nn.Parameter(like.new_empty(k, self.in_features))
        self.W_f = nn.Parameter(like.new_empty(d_out - k, self.in_features), requires_grad=False)
        biased = original.bias is not None
        self.b_t = nn.Parameter(like.new_empty(k), requires_grad=config.train_biases) if biased else None
        self.b_f = nn.Parameter(like.new_empty(d_out - k), requires_grad=False) if biased else None
        # before ``prepare``: every (d_out / k)-th row, so that shapes and costs are already those of the real split
        self.register_buffer("learning", torch.arange(k, device=like.device) * d_out // k)
        self.register_buffer("back", self.order().argsort(), persistent=False)  # P
        self.fill(self.W_t, self.W_f, self.b_t, self.b_f)
        self.register_load_state_dict_post_hook(lambda layer, _: layer.fill(layer.W_f, layer.b_f))

    @property
    def base(self) -> nn.Linear:
        """The layer that was."""
        return self.base_[0]

    def order(self) -> Tensor:
        """The numbers of all rows (d_out,): those that learn, then those that rest, both ascending."""
        resting = torch.ones(self.out_features, dtype=torch.bool, device=self.learning.device)
        return resting.index_fill(0, self.learning, False).argsort(stable=True)

    @torch.no_grad()
    def fill(self, *parts: nn.Parameter | None) -> None:
        """Gives ``parts`` the pre-trained values of their rows, and P the present order."""
        order = self.order()
        self.back = order.argsort()
        k = len(self.learning)
        for part in parts:
            if part is not None:
                rows = order[:k] if part is self.W_t or part is self.b_t else order[k:]
                whole = self.base.weight if part.dim() == 2 else self.base.bias
                part.copy_(whole[rows.to(whole.device)])

    @property
    def weight(self) -> Tensor:
        """The whole matrix (d_out, d_in), put together at each reading."""
        return torch.cat((self.W_t, self.W_f))[self.back]

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        y = torch.cat((linear(x, self.W_t, self.b_t), linear(x, self.W_f, self.b_f)), dim=-1)
        return y.index_select(-1, self.back)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """One plain layer with the rows in their order."""
        layer = nn.Linear(self.in_features, self.out_features, bias=self.b_t is not None, device="meta")
        layer.weight = nn.Parameter(self.weight)
        if self.b_t is not None:
            layer.bias = nn.Parameter(torch.cat((self.b_t, self.b_f))[self.back])
        return layer


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and splits every layer that ``config.target`` names, evenly until ``prepare`` scores its rows.

    Raises ``ValueError`` when no layer matches or no row is left to learn.
    """
    freeze(model)
    replace(model, config.target, lambda layer: FARLinear(layer, config))
    for _, layer in instances(model, FARLinear):
        journal(model)[1].owned[layer] = {"W_f", "b_f"} | (set() if config.train_biases else {"b_t"})
    return park(model)


def prepare(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """Priming: a step of all rows on each batch, then the choice of those that moved most, and the way back."""
    layers = [layer for _, layer in instances(model, FARLinear)]
    for layer in layers:
        layer.W_f.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        [p for layer in layers for p in (layer.W_t, layer.W_f)], config.priming_lr, weight_decay=0
    )
    steps = 0
    for batch in batches:
        model(**batch).loss.backward()
        optimizer.step()
        model.zero_grad()
        steps += 1
    for layer in layers:
        layer.W_f.requires_grad_(False)
        learnt = layer.weight.detach()
        scores = (learnt - layer.base.weight.to(learnt)).abs().sum(1)  # S (d_out,)
        layer.learning.copy_(scores.topk(len(layer.learning)).indices.sort().values)
        layer.fill(layer.W_t, layer.W_f, layer.b_t, layer.b_f)
    if not steps:
        raise ValueError("no batch to prime the rows with")


def merge(model: nn.Module) -> nn.Module:
    """Sorts the rows of every layer back and restores plain linear layers."""
    return settle(model)

"""LeTS (learn to share): every block gets a branch that reads the frozen model's activations; sharing is searched for.

    c_l = p_l B_l(h_{l-1}; W + M ⊙ δ) + (1 − p_l) h_l         h_l = B_l(h_{l-1}; W), frozen     p_l = sigmoid(α_l)
    v = mean_l(BiLSTM(c_1 … c_L)) U + u                       loss = task + λ/L Σ_l p_l

    h_l, c_l, v (…, d)   W, δ each linear layer's (d_out, d_in)   M its mask   BiLSTM (…, L, d) -> (…, L, 2 w)
    U (2 w, d)   u (d,)   α_l one number   w = d / 8

B_l is block l of the model. A branch depends on no other branch, so the frozen run serves every task, and no gradient
passes from block to block. v takes the place of the last block's output. δ, the LSTM, U, u and α train. δ starts at zero
and is sparse: ``prepare`` scores every weight by |∂ task / ∂ δ| and keeps the k = density · (all) largest for good.
During the first part of training p is relaxed and its price λ pushes blocks to share; then ``step`` decides: where
p_l > ½ the branch stays, elsewhere the task takes h_l and its branch is never run again. What the head reads is new, so
the model does not start where it was, and there is nothing to merge.

Paper:     Fu et al. 2021, ICML, proceedings.mlr.press/v139/fu21a.html, abstract
Official:  none published
Differs:   the paper's text was not to be had. Its abstract names additive parts on frozen activations, a weight difference
           with a mask made at the beginning, and a differentiable search for what to share. Our choices: the unit of
           sharing is a block; a softmax over two choices is the search; the mask is global, by gradients at δ = 0; the
           gathering module is a bidirectional LSTM over the layers of each token; λ, w and the density; the head is
           frozen. W + M ⊙ δ is formed for the run: sparse kernels, which save the computation, are left out
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import LINEAR, instances, stacks
from reference_impls._surgery import add, freeze, refuse, replace
from reference_impls.fishmask import Entries, Mask


@dataclass(frozen=True)
class Config:
    """All of it our choice."""

    density: float = 0.01  # kept share of δ; the abstract's 1.4 % per task hold the gathering module besides
    width: int = 8  # the LSTM has d / width numbers in each direction
    price: float = 0.01  # λ, for recomputing every block
    search: float = 0.5  # part of the steps after which the search decides


class Task:
    """Which weights the layers use just now: the task's while a branch runs."""

    running = False


class DeltaLinear(Around):
    """A linear layer that has a sparse difference while a branch runs."""

    def __init__(self, base: nn.Linear, task: Task, mask: Mask, index: int) -> None:
        super().__init__(base)
        self.task, self.difference = task, Entries(mask, index)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        if not self.task.running:
            return self.base(x)
        return nn.functional.linear(x, self.difference(self.base.weight), self.base.bias)


class Gathering(nn.Module):
    """What a task has beside its branches: δ, and the map from all layers' results to one state."""

    def __init__(self, mask: Mask, d: int, w: int, config: Config) -> None:
        super().__init__()
        self.mask, self.price, self.search = mask, config.price, config.search
        like = {"device": mask.v.device, "dtype": mask.v.dtype}
        self.lstm = nn.LSTM(d, w, batch_first=True, bidirectional=True, **like)
        self.U = nn.Linear(2 * w, d, **like)
        self.results: list[Tensor] = []  # L times (…, d)

    def forward(self) -> Tensor:
        """L times (…, d) -> (…, d)."""
        results, self.results = torch.stack(self.results, dim=-2), []  # (…, L, d)
        read, _ = self.lstm(results.flatten(0, -3))  # (tokens, L, 2 w)
        return self.U(read.mean(dim=1)).view_as(results[..., 0, :])


class Branch(Around):
    """A frozen block and the task's branch beside it, which runs the same block with the task's weights."""

    def __init__(self, base: nn.Module, task: Task, gathering: Gathering, at: int, last: bool) -> None:
        super().__init__(base)
        self.task, self.gathering, self.at, self.last = task, (gathering,), at, last
        self.alpha = nn.Parameter(gathering.mask.v.new_zeros(()))
        self.register_buffer("decision", torch.full_like(self.alpha.detach(), -1.0))  # 1 own, 0 shared, -1 searching
        self.own: bool | None = None
        self.register_load_state_dict_post_hook(lambda branch, _: branch.settle())

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """h_l for the next block; v behind the last."""
        with torch.no_grad():
            output = self.base(*args, **inputs)
        h, *further = output if isinstance(output, tuple) else (output,)
        (gathering,) = self.gathering
        result = h if self.own is False else self.mixed(h, *args, **inputs)
        gathering.results = [result] if self.at == 0 else [*gathering.results, result]
        given = gathering() if self.last else h
        return (given, *further) if isinstance(output, tuple) else given

    def mixed(self, h: Tensor, *args: Any, **inputs: Any) -> Tensor:
        """c_l; gradient checkpointing, where it is on, takes the branch in place of the frozen block."""
        if getattr(self.base, "gradient_checkpointing", False) and self.training:
            mine = self.base._gradient_checkpointing_func(partial(self.branch, **inputs), *args)
        else:
            mine = self.branch(*args, **inputs)
        return mine if self.own else h + self.alpha.sigmoid() * (mine - h)

    def branch(self, *args: Any, **inputs: Any) -> Tensor:
        """The block with the task's weights."""
        self.task.running = True
        try:
            output = inspect.unwrap(type(self.base).forward)(self.base, *args, **inputs)  # without its own checkpoint
            return output[0] if isinstance(output, tuple) else output
        finally:
            self.task.running = False

    def decide(self) -> None:
        """Ends the search."""
        self.decision.fill_(float(self.alpha > 0))
        self.settle()

    def settle(self) -> None:
        """Takes up the decision that is written down."""
        self.own = None if self.decision < 0 else bool(self.decision > 0)
        self.alpha.requires_grad_(self.own is None)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and gives each of its blocks a branch.

    Raises ``ValueError`` when the model is no encoder with one stack of blocks, or a size leaves nothing to train.
    """
    freeze(model)
    found = list(stacks(model))
    if len(found) != 1 or any(getattr(module, "is_causal", False) for module in model.modules()):
        refuse(model, f"{type(model).__name__} is no encoder with one stack of transformer blocks")
    blocks, d = found[0].blocks, found[0].width
    pattern = re.compile(rf"(?:.*\.)?(?:{LINEAR})")
    sizes = [p.weight.numel() for name, p in instances(model, nn.Linear) if pattern.fullmatch(name)]
    k, w = round(config.density * sum(sizes)), d // max(1, config.width)
    if not 0 < k <= sum(sizes) or w < 1:
        refuse(model, f"density {config.density} and width {config.width} leave {k} entries and an LSTM of {w}")
    mask, task = Mask(sizes, k, like=next(blocks[0][1].parameters())), Task()
    gathering = Gathering(mask, d, w, config)
    layers, branches = iter(range(len(sizes))), iter(range(len(blocks)))

    def branch(block: nn.Module) -> Branch:
        at = next(branches)
        return Branch(block, task, gathering, at, last=at + 1 == len(blocks))

    replace(model, LINEAR, lambda layer: DeltaLinear(layer, task, mask, next(layers)))
    replace(model, "|".join(re.escape(name) for name, _ in blocks), branch, kind=nn.Module)
    add(model, "lets", gathering)
    return model


def prepare(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """Early pruning: keeps the entries of δ at which the task's loss is steepest over ``batches``."""
    weights = [layer.base.weight.requires_grad_(True) for _, layer in instances(model, DeltaLinear)]
    slopes = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    for batch in batches:
        for slope, gradient in zip(slopes, torch.autograd.grad(model(**batch).loss, weights), strict=True):
            slope += gradient.float()
    for weight in weights:
        weight.requires_grad_(False)
    mask = model.lets.mask
    mask.choose(torch.cat([slope.abs().flatten() for slope in slopes]).topk(len(mask.v)).indices)


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The task's loss and, during the search, the price of the blocks that are computed anew."""
    branches = [branch for _, branch in instances(model, Branch)]
    share = sum(branch.alpha.sigmoid() for branch in branches if branch.own is None) / len(branches)
    return model(**batch).loss + model.lets.price * share


def step(model: nn.Module, t: int, total: int) -> None:
    """Ends the search after its part of the ``total`` steps."""
    for _, branch in instances(model, Branch):
        if t >= model.lets.search * total and branch.own is None:
            branch.decide()

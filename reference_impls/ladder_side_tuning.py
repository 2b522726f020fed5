"""Ladder side-tuning: a narrow network beside the frozen model reads its hidden states; no gradient enters the model.

    s₀ = D₀ h₀                                             h_i (…, d) behind block i, h₀ the embedded input
    s_i = B_i(g_i s_{i-1} + (1 − g_i) D_i h_i)             s_i (…, d / k)   D_i (d / k, d) with bias
    z = U norm(s_L)                                        U (d, d / k) with bias; z goes into the frozen head
    g_i = sigmoid(α_i / T)                                 α_i one number

B_i is the model's own block with all widths divided by k. It starts from the model's weights without the rows and
columns that weigh least; α_i starts at zero, so that both inputs count alike; D and U start random, so the model does
not start where it was. D, U, B, α and the side's norms train. The model's blocks keep nothing for a backward pass; the
narrow forward pass stays at inference. An encoder-decoder has one ladder per stack; side decoder attends to encoder.

Paper:     Sung et al. 2022, arXiv:2206.06522, section 3
Official:  github.com/ylsung/Ladder-Side-Tuning, seq2seq/third_party/models/t5/modeling_side_t5.py (MIT)
Differs:   ``attach`` weighs rows and columns by their squared weights; the paper's Fisher information needs data:
           ``prepare``. A side block stands beside every block; the paper drops three of twelve in T5-base. T5's
           relative position biases are the backbone's, frozen. BERT has no final norm and gets one in front of U. The
           side network has no cache: generate with ``use_cache=False``, in an encoder-decoder without beams
"""

import copy
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import Stack, instances, stacks
from reference_impls._surgery import detach, freeze, refuse, replace
from reference_impls.fishmask import fisher
from reference_impls.parts.narrow import Importance, Narrow, narrow, narrow_norm
from reference_impls.parts.packed import PackedLinear


@dataclass(frozen=True)
class Config:
    """How narrow the side network is, and how its gates move."""

    reduction: int = 8  # k, the official scripts' task_reduction_factor
    temperature: float = 0.1  # T, the official gate_T
    samples: int = 1024  # examples that ``prepare`` takes at most, as the official code


class Side:
    """What the rungs of one stack hand to one another."""

    def __init__(self, encoder: "Side | None" = None) -> None:
        self.encoder = encoder
        self.state: Tensor | None = None  # s_i
        self.memory: Tensor | None = None  # what a side encoder gave, for the side decoder to attend to

    def __deepcopy__(self, memo: dict[int, Any]) -> "Side":
        return Side(copy.deepcopy(self.encoder, memo))  # tensors under way belong to the original's graph


class Finish(nn.Module):
    """The end of a ladder: the side's norm and, unless a side decoder reads it, the map back to width d."""

    def __init__(self, norm: nn.Module, w: int, d: int | None) -> None:
        super().__init__()
        self.norm = norm
        self.U = None if d is None else nn.Linear(w, d, device=norm.weight.device, dtype=norm.weight.dtype)

    def forward(self, s: Tensor) -> Tensor:
        """(…, w) -> (…, d), or (…, w) at the end of a side encoder."""
        return self.norm(s) if self.U is None else self.U(self.norm(s))


class Rung(Around):
    """A block of the model, and the narrow block beside it."""

    def __init__(self, base: nn.Module, block: nn.Module, at: int, side: Side, temperature: float) -> None:
        super().__init__(base)
        self.block, self.at, self.side, self.temperature = block, at, side, temperature
        self.alpha = nn.Parameter(next(block.parameters()).new_zeros(()))
        self.start: nn.Linear | None = None  # D_0, on the first rung
        self.finish: Finish | None = None  # on the last rung, where the model has no norm behind its blocks
        self.register_buffer("rotary", None)

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """What the block gives; the state of the side network goes on to the next rung."""
        given = inspect.signature(self.base.forward).bind(*args, **inputs)
        known = given.arguments
        cache = known.get("past_key_values")
        if cache is not None and cache.get_seq_length(self.at) > 0:
            raise ValueError("the side network keeps no cache; generate with use_cache=False")
        with torch.no_grad():
            output = self.base(*args, **inputs)
        several = isinstance(output, tuple)
        h = output[0] if several else output
        s = self.side.state if self.start is None else self.start(known["hidden_states"])
        g = torch.sigmoid(self.alpha / self.temperature)
        known["hidden_states"] = g * s + (1 - g) * self.down(h)  # (…, w)
        changes = {"past_key_values": None, "use_cache": False}
        if self.rotary is not None:
            changes["position_embeddings"] = tuple(x[..., self.rotary] for x in known["position_embeddings"])
        if known.get("encoder_hidden_states") is not None:
            changes["encoder_hidden_states"] = self.memory(known["encoder_hidden_states"])
        if "position_bias" in known:  # T5's blocks pass their relative positions on
            changes["position_bias"] = output[1].detach()
            changes["encoder_decoder_position_bias"] = None if output[2] is None else output[2].detach()
        known.update((name, value) for name, value in changes.items() if name in known)
        result = self.block(*given.args, **given.kwargs)
        self.side.state = result[0] if isinstance(result, tuple) else result
        if self.finish is None:
            return output
        z = self.finish(self.side.state)
        return (z, *output[1:]) if several else z

    def memory(self, states: Tensor) -> Tensor:
        """What the side encoder made of the input whose encoding is ``states``."""
        kept = self.side.encoder.memory if self.side.encoder is not None else None
        if kept is None or kept.shape[:2] != states.shape[:2]:
            raise ValueError("the side decoder needs the side encoder's run on the same input; search without beams")
        return kept


class Exit(Around):
    """The norm behind a stack's blocks: the place where the side network hands over."""

    def __init__(self, base: nn.Module, finish: Finish, side: Side) -> None:
        super().__init__(base)
        self.finish, self.side = finish, side

    def forward(self, h: Tensor) -> Tensor:
        """What the head reads, z; in an encoder what the frozen decoder reads, while the side decoder has its own."""
        s, self.side.state = self.side.state, None
        if self.finish.U is not None:
            return self.finish(s)
        self.side.memory = self.finish(s)
        return self.base(h)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and builds a ladder beside each of its stacks.

    Raises ``ValueError`` when the model has no transformer blocks, or a width that cannot be divided.
    """
    return build(model, config, lambda weight: weight.square())


def prepare(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], config: Config) -> None:
    """Builds the ladder anew, its blocks pruned by Fisher information: the squared gradients of single examples."""
    if any(True for _ in instances(model, PackedLinear)):
        return  # codes in 4 or 8 bits have no gradients: the ladder stays as ``attach`` has built it
    base = detach(model)
    weights = [p for stack in stacks(base) for _, block in stack.blocks for p in block.parameters() if p.dim() == 2]
    information = fisher(base, weights, batches, config.samples)
    build(base, config, dict(zip(weights, information, strict=True)).__getitem__)


def build(model: nn.Module, config: Config, importance: Importance) -> nn.Module:
    """``attach`` with a choice of what makes a row or column important."""
    freeze(model)
    if config.reduction < 1 or config.temperature <= 0:
        refuse(model, f"a reduction of {config.reduction} at temperature {config.temperature}: at least 1, above 0")
    found = list(stacks(model))
    if not found:
        refuse(model, f"{type(model).__name__} has no stack of transformer blocks to stand beside")
    rotary = any("rotary" in name for name, _ in model.named_modules())
    side, narrowed = None, None
    for number, stack in enumerate(found):
        try:
            narrowed = narrow(stack, config.reduction, importance, rotary, None if narrowed is None else narrowed.kept)
        except ValueError as error:
            refuse(model, str(error))
        if stack.norm is None and number + 1 < len(found):
            refuse(
                model, f"the encoder of {type(model).__name__} has no norm behind its blocks, where the side hands over"
            )
        side = Side(side)
        erect(model, stack, narrowed, side, config, encodes=number + 1 < len(found))
    return model


def erect(model: nn.Module, stack: Stack, narrowed: Narrow, side: Side, config: Config, encodes: bool) -> None:
    """Puts the rungs of one ladder into the model, and its end behind them."""
    w, d, up = len(narrowed.kept), stack.width, None if encodes else stack.width
    rungs: list[Rung] = []

    def rung(base: nn.Module) -> Rung:
        at, like = len(rungs), next(base.parameters())
        made = Rung(base, narrowed.blocks[at], at, side, config.temperature)
        made.down = nn.Linear(d, w, device=like.device, dtype=like.dtype)  # D_i
        if at == 0:
            made.start = nn.Linear(d, w, device=like.device, dtype=like.dtype)
        made.rotary = narrowed.rotary[at]
        rungs.append(made)
        return made

    replace(model, "|".join(re.escape(name) for name, _ in stack.blocks), rung, kind=nn.Module)
    if stack.norm is None:
        rungs[-1].finish = Finish(nn.LayerNorm(w, device=narrowed.kept.device, dtype=rungs[0].alpha.dtype), w, up)
    else:
        norm = narrow_norm(stack.norm[1], narrowed.kept)
        replace(model, re.escape(stack.norm[0]), lambda base: Exit(base, Finish(norm, w, up), side), kind=nn.Module)

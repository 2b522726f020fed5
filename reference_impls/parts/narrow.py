"""Structural pruning: a copy of a stack of transformer blocks at a fraction of every width.

A stack keeps one set of model dimensions, each attention module one set of dimensions within a head for queries and
keys and one for values, each feed-forward network one set of inner dimensions: those whose rows and columns weigh most.
Heads stay as many as they are. Rotary dimensions are kept in their pairs.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from reference_impls._site import FFN_GATE, FFN_IN, FFN_OUT, KEY, OUTPUT, QUERY, VALUE, Stack, norms

Importance = Callable[[nn.Parameter], Tensor]  # a non-negative number for each entry of a weight

_HEAD = ("head_dim", "attention_head_size", "key_value_proj_dim")  # what an attention module calls its head's width
_ACROSS = ("EncDecAttention", "encoder_attn", "crossattention")  # what cross-attention modules are called


@dataclass
class Narrow:
    """The narrow copy of a stack."""

    blocks: list[nn.Module]
    kept: Tensor  # model dimensions, (w,)
    rotary: list[Tensor | None]  # for each block, the dimensions of a head that rotary positions keep, (d_head / k,)


def narrow(stack: Stack, k: int, importance: Importance, rotary: bool, encoder: Tensor | None = None) -> Narrow:
    """A copy of ``stack`` with every width divided by ``k``, rounded down.

    ``encoder`` are the dimensions that the encoder's copy kept: what cross-attention reads. Raises ``ValueError`` when
    a width is smaller than ``k``, or a block is built in an unknown way.
    """
    parts = {name: _parts(name, block, encoder is not None) for name, block in stack.blocks}
    scores: dict[str, Tensor | float] = defaultdict(float)
    for several in parts.values():
        for part in several:
            worth = part.matrix(importance(part.layer.weight).detach().float())  # (d_out, d_in)
            for axis, along in ((part.out, worth.sum(1)), (part.into, worth.sum(0))):
                scores[axis] = scores[axis] + along.unflatten(0, (part.heads(axis), -1)).sum(0)
    kept = {axis: _largest(axis, score, k, rotary) for axis, score in scores.items() if axis != "encoder"}
    if encoder is not None:
        kept["encoder"] = encoder
    blocks = [_narrowed(name, block, parts[name], kept, stack.width) for name, block in stack.blocks]
    turned = [kept[next(p.out for p in parts[name] if p.out.startswith("head q"))] for name, _ in stack.blocks]
    return Narrow(blocks, kept["model"], turned if rotary else [None] * len(turned))


@dataclass
class _Part:
    """A matrix of a block (or a third of GPT-2's fused one), and what its rows and columns belong to."""

    path: str  # inside the block
    layer: nn.Module
    role: str  # q, k, v, o, up, down
    out: str  # the axis of the rows
    into: str  # the axis of the columns
    head: int  # width of a head
    third: int | None = None

    def matrix(self, weight: Tensor) -> Tensor:
        """(d_out, d_in), whatever way the layer stores it."""
        weight = weight.T if isinstance(self.layer, Conv1D) else weight
        return weight if self.third is None else weight.chunk(3)[self.third]

    def heads(self, axis: str) -> int:
        """How often the dimensions of ``axis`` repeat along this matrix: once for each head, if they are a head's."""
        side = 0 if axis == self.out else 1
        return self.matrix(self.layer.weight).shape[side] // self.head if axis.startswith("head ") else 1

    def rows(self, axis: str, kept: dict[str, Tensor]) -> Tensor:
        """The positions along this matrix that ``axis`` keeps."""
        starts = torch.arange(self.heads(axis), device=self.layer.weight.device) * self.head
        return (starts[:, None] + kept[axis]).flatten() if axis.startswith("head ") else kept[axis]


def _parts(name: str, block: nn.Module, decoder: bool) -> list[_Part]:
    roles = {"q": QUERY, "k": KEY, "v": VALUE, "o": OUTPUT, "up": f"{FFN_GATE}|{FFN_IN}", "down": FFN_OUT}
    parts = []
    for path, layer in block.named_modules():
        if not isinstance(layer, nn.Linear | Conv1D):
            continue
        fused = isinstance(layer, Conv1D) and layer.nf == 3 * layer.nx
        full = f"{name}.{path}"
        role = next((role for role, ends in roles.items() if re.fullmatch(rf"(?:.*\.)?(?:{ends})", full)), "")
        if not role and not fused:
            raise ValueError(f"{full} has no known place in a block, so it cannot be narrowed")
        if role in ("up", "down"):
            inner = f"inner {name}"
            parts.append(_Part(path, layer, role, *((inner, "model") if role == "up" else ("model", inner)), head=1))
            continue
        site, attention = _attention(block, path)
        head = next(getattr(attention, word) for word in _HEAD if hasattr(attention, word))
        turned, carried = f"head q {name}.{site}", f"head v {name}.{site}"
        source = "encoder" if decoder and any(word in path for word in _ACROSS) else "model"
        axes = {"q": (turned, "model"), "k": (turned, source), "v": (carried, source), "o": ("model", carried)}
        if fused:
            parts += [_Part(path, layer, r, *axes[r], head, third) for third, r in enumerate("qkv")]
        else:
            parts.append(_Part(path, layer, role, *axes[role], head))
    return parts


def _attention(block: nn.Module, path: str) -> tuple[str, nn.Module]:
    """The attention module that a projection belongs to (BERT keeps the output projection beside it)."""
    site = path
    while site:
        site = site.rpartition(".")[0]
        for name, module in block.get_submodule(site).named_modules():
            if any(hasattr(module, word) for word in _HEAD):
                return f"{site}.{name}".strip("."), module
    raise ValueError(f"{path} belongs to no attention module that says how wide its heads are")


def _largest(axis: str, score: Tensor | float, k: int, rotary: bool) -> Tensor:
    """The dimensions of ``axis`` with the largest score, a k-th of them, in order."""
    assert isinstance(score, Tensor)  # noqa: S101 - every axis has been met
    size = len(score) // k
    pairs = rotary and axis.startswith("head q")
    if size < 1 or (pairs and size % 2):
        raise ValueError(f"a width of {len(score)} cannot be divided by {k}{' into pairs' if pairs else ''}")
    if not pairs:
        return score.topk(size).indices.sort().values
    half = len(score) // 2
    first = (score[:half] + score[half:]).topk(size // 2).indices.sort().values
    return torch.cat((first, first + half))


@torch.no_grad()
def _narrowed(name: str, block: nn.Module, parts: list[_Part], kept: dict[str, Tensor], width: int) -> nn.Module:
    """A copy of ``block`` with the kept rows and columns; weights that are not kept are never copied."""
    twin = _twin(block)
    for site, attention in list(twin.named_modules()):
        if hasattr(attention, "relative_attention_bias"):
            del attention.relative_attention_bias  # the backbone hands its own over
        word = next((word for word in _HEAD if hasattr(attention, word)), None)
        if word is not None:
            _resize(attention, word, len(kept[f"head q {name}.{site}"]))
    for path in dict.fromkeys(part.path for part in parts):
        layer = twin.get_submodule(path)
        if not isinstance(layer.weight, nn.Parameter):  # packed: the copy is an ordinary layer
            layer = nn.Linear(1, 1, layer.bias is not None, device="meta")
            twin.set_submodule(path, layer)
        group = [part for part in parts if part.path == path]
        rows = [part.matrix(part.layer.weight)[part.rows(part.out, kept)] for part in group]
        weight = torch.cat(rows)[:, group[0].rows(group[0].into, kept)]  # (d_out / k, d_in / k)
        if layer.bias is not None:
            bias = group[0].layer.bias
            biases = bias.chunk(3) if len(group) == 3 else (bias,)
            kept_bias = [bias[part.rows(part.out, kept)] for part, bias in zip(group, biases, strict=True)]
            layer.bias = nn.Parameter(torch.cat(kept_bias))
        if isinstance(layer, Conv1D):
            layer.weight, (layer.nf, layer.nx) = nn.Parameter(weight.T.contiguous()), weight.shape
        else:
            layer.weight, (layer.out_features, layer.in_features) = nn.Parameter(weight.contiguous()), weight.shape
    for path, norm in norms(twin):
        if len(norm.weight) != width:
            raise ValueError(f"{name}.{path} normalises {len(norm.weight)} numbers instead of {width}: unknown block")
        _resize_norm(norm, kept["model"])
    return twin


def _resize(attention: nn.Module, word: str, head: int) -> None:
    """Tells an attention module how wide its heads are now, wherever it has written that down."""
    before = getattr(attention, word)
    for name in (word, "all_head_size", "inner_dim", "embed_dim", "split_size"):
        if hasattr(attention, name):
            setattr(attention, name, getattr(attention, name) // before * head)
    if attention.scaling != 1.0:  # T5 does not scale
        attention.scaling *= (before / head) ** 0.5


def _twin(module: nn.Module) -> nn.Module:
    """A copy with the same parameters, not copies of them: they are replaced one by one."""
    shared: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    shared |= {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    return copy.deepcopy(module, shared)


@torch.no_grad()
def narrow_norm(norm: nn.Module, kept: Tensor) -> nn.Module:
    """A copy of a normalisation layer with only some of its dimensions."""
    return _resize_norm(_twin(norm), kept)


def _resize_norm(norm: nn.Module, kept: Tensor) -> nn.Module:
    """Keeps only some dimensions of a normalisation layer, in place."""
    for name, parameter in list(norm.named_parameters(recurse=False)):
        setattr(norm, name, nn.Parameter(parameter[kept]))
    if hasattr(norm, "normalized_shape"):
        norm.normalized_shape = (len(kept),)
    return norm

"""Structural pruning: a copy of a stack of transformer blocks at a fraction of every width.

A stack keeps one set of model dimensions, each attention module one set of dimensions within a head for queries and
keys and one for values, each feed-forward network one set of inner dimensions: those whose rows and columns weigh most.
Heads stay as many as they are. Rotary dimensions are kept in their pairs.
"""

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from reference_impls._site import Stack, norms
from reference_impls.parts import axes
from reference_impls.parts.axes import HEAD, Part
from reference_impls.parts.packed import PackedLinear

Importance = Callable[[nn.Parameter], Tensor]  # a non-negative number for each entry of a weight


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
    parts = {name: axes.parts(name, block, encoder is not None) for name, block in stack.blocks}
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
def _narrowed(name: str, block: nn.Module, parts: list[Part], kept: dict[str, Tensor], width: int) -> nn.Module:
    """A copy of ``block`` with the kept rows and columns; weights that are not kept are never copied."""
    twin = _twin(block)
    for site, attention in list(twin.named_modules()):
        if hasattr(attention, "relative_attention_bias"):
            del attention.relative_attention_bias  # the backbone hands its own over
        word = next((word for word in HEAD if hasattr(attention, word)), None)
        if word is not None:
            _resize(attention, word, len(kept[f"head q {name}.{site}"]))
    for path in dict.fromkeys(part.path for part in parts):
        layer = twin.get_submodule(path)
        if isinstance(layer, PackedLinear):  # the copy is an ordinary layer
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
    heads = {part.out: part.head for part in parts}
    for path, norm in norms(twin):
        turned = f"head q {name}.{path.rpartition('.')[0]}"  # queries or keys that are normalised head by head
        if len(norm.weight) not in (width, heads.get(turned)):
            raise ValueError(f"{name}.{path} normalises {len(norm.weight)} numbers instead of {width}: unknown block")
        _resize_norm(norm, kept["model" if len(norm.weight) == width else turned])
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

"""What the matrices of a transformer block map from and to: axes that several of them share.

All matrices of a stack share the model's dimensions. Queries and keys of an attention module share the dimensions within a
head, values and the output projection do, and so do the matrices of a feed-forward network its inner dimensions.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from reference_impls._site import FFN_GATE, FFN_IN, FFN_OUT, KEY, OUTPUT, QUERY, VALUE

HEAD = ("head_dim", "attention_head_size", "key_value_proj_dim")  # what an attention module calls its head's width
_ACROSS = ("EncDecAttention", "encoder_attn", "crossattention")  # what cross-attention modules are called


@dataclass
class Part:
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


def parts(name: str, block: nn.Module, decoder: bool) -> list[Part]:
    """The matrices of a block, which is called ``name``; ``decoder`` says whether it may attend to an encoder.

    Raises ``ValueError`` when the block is built in an unknown way.
    """
    roles = {"q": QUERY, "k": KEY, "v": VALUE, "o": OUTPUT, "up": f"{FFN_GATE}|{FFN_IN}", "down": FFN_OUT}
    found = []
    layers = [
        (path, layer) for path, layer in block.named_modules() if isinstance(layer, nn.Linear | Conv1D | nn.Embedding)
    ]
    inside = {id(parameter) for _, layer in layers for parameter in layer.parameters()}
    other = next((n for n, p in block.named_parameters() if p.dim() > 1 and id(p) not in inside), None)
    if other is not None:  # experts that are one tensor
        raise ValueError(f"{name}.{other} is no linear layer, so it cannot be narrowed")
    for path, layer in layers:
        if isinstance(layer, nn.Embedding):  # T5's relative positions
            continue
        fused = isinstance(layer, Conv1D) and layer.nf == 3 * layer.nx
        full = f"{name}.{path}"
        role = next((role for role, ends in roles.items() if re.fullmatch(rf"(?:.*\.)?(?:{ends})", full)), "")
        if not role and not fused:
            raise ValueError(f"{full} has no known place in a block, so it cannot be narrowed")
        if role in ("up", "down"):
            inner = f"inner {name}"
            found.append(Part(path, layer, role, *((inner, "model") if role == "up" else ("model", inner)), head=1))
            continue
        site, attention = _attention(block, path)
        if not hasattr(attention, "scaling") or _turned_in_part(attention):
            raise ValueError(
                f"{type(attention).__name__} scales or turns its queries in a way that is not provided for"
            )
        head = next(getattr(attention, word) for word in HEAD if hasattr(attention, word))
        turned, carried = f"head q {name}.{site}", f"head v {name}.{site}"
        source = "encoder" if decoder and any(word in path for word in _ACROSS) else "model"
        axes = {"q": (turned, "model"), "k": (turned, source), "v": (carried, source), "o": ("model", carried)}
        if fused:
            found += [Part(path, layer, r, *axes[r], head, third) for third, r in enumerate("qkv")]
        else:
            found.append(Part(path, layer, role, *axes[role], head))
    return found


def _turned_in_part(attention: nn.Module) -> bool:
    """Whether rotary positions turn some dimensions of each head only."""
    rotary = getattr(getattr(attention, "config", None), "rope_parameters", None) or {}
    return bool(rotary.get("partial_rotary_factor", 1) != 1)


def _attention(block: nn.Module, path: str) -> tuple[str, nn.Module]:
    """The attention module that a projection belongs to (BERT keeps the output projection beside it)."""
    site = path
    while site:
        site = site.rpartition(".")[0]
        for name, module in block.get_submodule(site).named_modules():
            if any(hasattr(module, word) for word in HEAD):
                return f"{site}.{name}".strip("."), module
    raise ValueError(f"{path} belongs to no attention module that says how wide its heads are")

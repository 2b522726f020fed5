"""S4: the mixture of adapters, prefixes, biases and LoRA that a search over design spaces found; four groups of blocks.

    blocks 1 … L:   G₁ = {A, L}   G₂ = {A, P}   G₃ = {A, P, B}   G₄ = {P, B, L}        sizes about 1 : 2 : 2 : 1
    A   y = h + ReLU(z W_dᵀ + b_d) W_uᵀ + b_u           W_d (m, d)   W_u (d, m)      2 d m + m + d numbers
    P   y = Attn(x W_q, [P_k ; x W_k], [P_v ; x W_v])   P_k, P_v (p, d_kv)           2 p d_kv
    B   every bias of the block                                                      as many as there are
    L   y = x Wᵀ + (x Aᵀ) Bᵀ, for W_q and W_v           A (r, d)   B (d_out, r)      r (2 d + d_q + d_kv)

h is what the feed-forward network gives, x the input of attention, z as in Pfeiffer's adapter. The search's answers:
few blocks at both ends and many in the middle (a spindle), the same number of trained parameters in every block, all
groups train, and these four sets of methods. The budget is β = 0.5 % of the model. Equations and starts are those of
Pfeiffer's adapter, prefix tuning, BitFit and LoRA. Prefixes move the model from its start; adapters and prefixes cannot
be merged.

Paper:     Chen et al. 2023, arXiv:2301.01821, section 4 (the S4-model)
Official:  github.com/amazon-science/peft-design-spaces at e3e8cee, README.md alone was to be had (Apache-2.0)
Differs:   how many blocks a group has and how a block divides its share could not be read. Our choices: (L + 2) // 6
           blocks in the outer groups, the rest halved, an encoder-decoder's blocks taken as one sequence; biases are
           paid first, the other two parts get half of the rest each, m, p and r rounded down. Prefixes and LoRA are in
           self-attention, prefixes train directly and have no relative position, LoRA has no scale. A model without
           biases lacks B
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from reference_impls import lora, pfeiffer_adapter, prefix_tuning
from reference_impls._journal import journal
from reference_impls._site import QKV, QUERY, VALUE, backbone, instances, stacks
from reference_impls._surgery import freeze, refuse, train_in_place
from reference_impls.parts.packed import PackedLinear

GROUPS = ("AL", "AP", "APB", "PBL")
_ATTENTION = r"self_attn|attn|attention\.self|SelfAttention"
_SELF = rf"(?<!EncDecAttention\.)(?<!encoder_attn\.)(?<!crossattention\.self\.)(?:{QUERY}|{VALUE}|{QKV})"


@dataclass(frozen=True)
class Config:
    """How much trains in all, or how large a part is wherever it stands."""

    budget: float = 0.005  # β, section 4: half a per cent
    bottleneck: int | None = None  # m, p and r instead of what the budget leaves
    prefix_length: int | None = None
    rank: int | None = None


class OwnPrefix(prefix_tuning.PrefixAttention):
    """An attention module with a prefix that the blocks before and behind it lack.

    T5's first block computes the bias of relative positions for all: here it is that of the tokens alone, and a prefix
    has none of its own, except in that first block.
    """

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """What the attention module gives."""
        if "position_bias" not in inputs:
            return super().forward(*args, **inputs)
        p, bias = len(self.prefix.P_k), inputs["position_bias"]  # bias (1, heads, n, n)
        if bias is not None:
            inputs["position_bias"] = torch.cat((bias.new_zeros(*bias.shape[:-1], p), bias), dim=-1)  # (…, n, p + n)
        output, bias, *rest = super().forward(*args, **inputs)
        return output, bias[..., p:], *rest


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and gives every block the parts of its group, all blocks as many numbers.

    Raises ``ValueError`` when the model has no transformer blocks, or the budget is too small for a part.
    """
    freeze(model)
    blocks = [name for stack in stacks(model) for name, _ in stack.blocks]
    if not blocks:
        refuse(model, f"{type(model).__name__} has no transformer blocks to group")
    size = sum(p.numel() for _, p in backbone(model)) + sum(
        one.in_features * one.out_features for _, one in instances(model, PackedLinear)
    )
    share = config.budget * size / len(blocks)
    for name, parts in zip(blocks, grouped(len(blocks)), strict=True):
        fill(model, name, parts, share, config)
    return model


def grouped(blocks: int) -> list[str]:
    """The parts of each of ``blocks`` blocks, in order."""
    ends = (blocks + 2) // 6
    sizes = (ends, blocks // 2 - ends, blocks - blocks // 2 - ends, ends)
    return [parts for parts, size in zip(GROUPS, sizes, strict=True) for _ in range(size)]


def fill(model: nn.Module, name: str, parts: str, share: float, config: Config) -> None:
    """Puts ``parts`` into the block ``name``, for at most ``share`` numbers where ``config`` gives no sizes."""
    block = model.get_submodule(name)
    biases = sum(p.numel() for path, p in block.named_parameters() if path.endswith("bias")) if "B" in parts else 0
    each = int((share - biases) // 2)  # numbers for each of the other two parts
    d, d_q, d_kv = widths(model, block)
    sizes = {"A": (each - d) // (2 * d + 1), "P": each // (2 * d_kv), "L": each // (2 * d + d_q + d_kv)}  # m, p, r
    given = {"A": config.bottleneck, "P": config.prefix_length, "L": config.rank}
    sizes |= {part: size for part, size in given.items() if size is not None}
    short = [part for part in parts if part in sizes and sizes[part] < 1]
    if short:
        refuse(model, f"a budget of {share:.0f} numbers for {name} leaves nothing for {' and '.join(short)}")
    within = rf"{re.escape(name)}\."
    inside = rf"(?={within})(?:.*\.)?"
    if "A" in parts:
        pfeiffer_adapter.behind_ffn(model, lambda like: pfeiffer_adapter.bottleneck(like, sizes["A"]), within)
    if "L" in parts:
        r = sizes["L"]
        lora.insert(model, lora.Config(rank=r, alpha=r, target=inside + _SELF))
    if "P" in parts:
        prefix = prefix_tuning.Config(sizes["P"], hidden=None, target=rf"{inside}(?:{_ATTENTION})")
        prefix_tuning.insert(model, prefix, OwnPrefix)
    if "B" in parts:
        _, book = journal(model)
        places = (
            (path, module) for path, module in instances(block, nn.Module) if "bias" in book.owned.get(module, ())
        )
        train_in_place(model, [f"{name}.{path}.bias" for path, _ in places])


def widths(model: nn.Module, block: nn.Module) -> tuple[int, int, int]:
    """Of a block: the model's width d, and the widths d_q of all queries and d_kv of all keys together."""
    named = instances(block, nn.Module)
    attention = next((module for path, module in named if re.fullmatch(rf"(?:.*\.)?(?:{_ATTENTION})", path)), None)
    if attention is None:
        refuse(model, f"{type(block).__name__} has no self-attention under the usual names")
    try:
        _, d, d_kv = prefix_tuning.sizes(attention)
    except ValueError as error:
        refuse(model, str(error))
    queries = (layer.out_features for path, layer in instances(attention, nn.Linear) if re.fullmatch(QUERY, path))
    return d, next(queries, d), d_kv  # GPT-2, which holds query, key and value in one matrix, has d of each

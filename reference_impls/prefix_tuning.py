"""Prefix tuning: every attention module also attends to p trained keys and values in front of those of the sequence.

    y = Attn(x W_q, [P_k ; c W_k], [P_v ; c W_v])            x (n, d)   c = x, or the encoder's output (n', d)
    [P_k, P_v] = tanh(E W_1ᵀ + b_1) W_2ᵀ + b_2              P_k, P_v (p, d_kv)   E (p, d)   W_1 (h, d)   W_2 (2 d_kv, h)

Trained directly the prefixes are unstable, so during training they come out of a small network: E and W_1 once for each
kind of attention (encoder, decoder, cross-attention), W_2 and b_2 for each attention module. After training ``flatten``
computes them once and drops the network: 2 p d_kv numbers per module remain. The model does not start where it was,
because the prefix takes a share of the attention, and there is nothing to merge.

A prefix enters where an attention module looks for its cache: after the rotation of the keys, visible to every query.
Tokens keep their positions. Relative positions see the prefix as p preceding tokens.

Paper:     Li and Liang 2021, arXiv:2101.00190, equations 3 and 4, sections 4.2 and 4.3
Official:  github.com/XiangLi1999/PrefixTuning, gpt2/train_control.py and seq2seq/prefixTuning.py (no licence given)
Differs:   no dropout on the prefix. The official GPT-2 code, and peft, hand the prefix over as a cache and so shift the
           positions of the tokens by p, which rotary and relative positions do not notice (rotating P_k makes up for
           it) and learned absolute positions do: there, pass ``position_ids``. In an encoder-decoder peft 0.21 gives a
           prefix to the decoder's self-attention alone, and to layer i that of layer 2 i. Trained directly, prefixes
           start from N(0, 0.02²), our choice. During generation cross-attention is computed anew at each step
"""

import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from reference_impls._layer import Around
from reference_impls._site import instances
from reference_impls._surgery import freeze, refuse, replace


@dataclass(frozen=True)
class Config:
    """Length of the prefix, and the network behind it."""

    prefix_length: int = 10  # section 7.2: best for table-to-text; 200 for summarisation
    hidden: int | None = 512  # h, official code (800 for summarisation); None trains the prefixes directly
    target: str = r"self_attn|encoder_attn|attn|attention\.self|SelfAttention|EncDecAttention"  # every attention module


class Network(nn.Module):
    """The half of the network that all layers of one kind share."""

    def __init__(self, like: Tensor, p: int, d: int, h: int) -> None:
        super().__init__()
        self.E = nn.Parameter(like.new_empty(p, d))
        self.inner = nn.Linear(d, h, device=like.device, dtype=like.dtype)
        nn.init.normal_(self.E)  # an embedding table in the official code

    def forward(self) -> Tensor:
        """(p, d) -> (p, h)."""
        return torch.tanh(self.inner(self.E))


class Generated(nn.Module):
    """Keys and values of one attention module, as the network gives them."""

    def __init__(self, network: Network, d_kv: int) -> None:
        super().__init__()
        like = network.E
        self.network = network
        self.outer = nn.Linear(network.inner.out_features, 2 * d_kv, device=like.device, dtype=like.dtype)

    def forward(self) -> tuple[Tensor, Tensor]:
        """P_k and P_v, each (p, d_kv)."""
        keys, values = self.outer(self.network()).chunk(2, dim=-1)  # (p, 2 d_kv) -> 2 × (p, d_kv)
        return keys, values


class Stored(nn.Module):
    """Keys and values of one attention module themselves."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.P_k, self.P_v = nn.Parameter(keys), nn.Parameter(values)

    def forward(self) -> tuple[Tensor, Tensor]:
        """P_k and P_v, each (p, d_kv)."""
        return self.P_k, self.P_v


class Front:
    """Stands where an attention module looks for its cache, and puts the prefix in front of all keys and values."""

    def __init__(self, keys: Tensor, values: Tensor, cache: Cache | None) -> None:
        self.keys, self.values, self.cache = keys, values, cache

    def get_seq_length(self, layer: int = 0) -> int:
        """How many positions lie before the present ones: T5 reads its relative positions off this."""
        return self.keys.shape[-2] + (self.cache.get_seq_length(layer) if self.cache is not None else 0)

    def update(self, keys: Tensor, values: Tensor, layer: int, *rest: Any) -> tuple[Tensor, Tensor]:
        """(b, heads, n, d_head) -> (b, heads, p + n, d_head), twice."""
        if self.cache is not None:
            keys, values = self.cache.update(keys, values, layer, *rest)
        return _put_before(keys, self.keys), _put_before(values, self.values)


def _put_before(states: Tensor, prefix: Tensor) -> Tensor:
    heads = prefix.unflatten(-1, (states.shape[1], -1)).transpose(-3, -2)  # (… p, d_kv) -> (… heads, p, d_head)
    return torch.cat((heads.to(states.dtype).expand(states.shape[0], -1, -1, -1), states), dim=2)


class PrefixAttention(Around):
    """An attention module that attends to a prefix as well."""

    def __init__(self, base: nn.Module, prefix: nn.Module) -> None:
        super().__init__(base)
        self.prefix = prefix

    def prefixes(self, hidden: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """Keys and values (p, d_kv); variants in which they depend on ``hidden`` (b, n, d) put the batch in front."""
        return self.prefix()

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """What the attention module gives, with a prefix where it looks for its cache."""
        name = "mask" if "mask" in inputs else "attention_mask"  # T5's word, everybody else's word
        hidden: Tensor = args[0] if args else inputs["hidden_states"]
        cache = inputs.get("past_key_values")
        if isinstance(cache, EncoderDecoderCache):
            cache = cache.self_attention_cache
        if inputs.get("key_value_states") is not None or inputs.get("encoder_hidden_states") is not None:
            cache = None  # cross-attention
        past = 0 if cache is None else cache.get_seq_length(self.base.layer_idx)
        front = Front(*self.prefixes(hidden, past), cache)
        inputs[name] = self.widened(inputs.get(name), hidden, front, past)
        inputs["past_key_values"] = front
        return self.base(*args, **inputs)

    def widened(self, mask: Tensor | None, hidden: Tensor, front: Front, past: int) -> Tensor | None:
        """The mask with p visible columns in front; a causal one is written out where the kernel would have made it."""
        p, n = front.keys.shape[-2], hidden.shape[1]
        if mask is None:
            kernel = self.base.config._attn_implementation or "eager"
            if n == 1 or not getattr(self.base, "is_causal", False) or "flash" in kernel:
                return None  # flash attention aligns causality with the last key, as it should be
            mask = torch.ones(1, 1, n, past + n, dtype=torch.bool, device=hidden.device).tril(past)
        if not isinstance(mask, Tensor):
            kind = type(mask).__name__
            raise ValueError(f"a mask of type {kind} cannot be widened; use eager, sdpa or flash attention")
        seen = mask.new_zeros if mask.is_floating_point() and mask.dim() == 4 else mask.new_ones
        return torch.cat((seen(*mask.shape[:-1], p), mask), dim=-1)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and gives every attention module a prefix.

    Raises ``ValueError`` when the model has no attention module that reads a cache, or a size is not positive.
    """
    return insert(freeze(model), config)


def insert(model: nn.Module, config: Config = Config(), around: type[PrefixAttention] = PrefixAttention) -> nn.Module:
    """The second half of ``attach``: for methods that combine prefixes with others on a frozen model."""
    p, h = config.prefix_length, config.hidden
    if p < 1 or (h is not None and h < 1):
        refuse(model, f"a prefix of length {p} through {h} hidden numbers: both must be at least 1")
    kinds = {module: re.sub(r"\d+", "*", name) for name, module in model.named_modules()}  # blocks of one stack agree
    if not any(re.fullmatch(rf"(?:.*\.)?(?:{config.target})", name) for name, _ in model.named_modules()):
        name = type(model).__name__
        refuse(model, f"{name} has no attention module named {config.target!r}, so a prefix has no way in")
    networks: dict[str, Network] = {}

    def build(attention: nn.Module) -> PrefixAttention:
        like, d, d_kv = sizes(attention)
        if h is None:
            return around(attention, Stored(*(like.new_empty(p, d_kv).normal_(std=0.02) for _ in range(2))))
        kind = kinds[attention]
        if kind not in networks:
            networks[kind] = Network(like, p, d, h)
        return around(attention, Generated(networks[kind], d_kv))

    replace(model, config.target, build, kind=nn.Module)
    return model


def sizes(attention: nn.Module) -> tuple[Tensor, int, int]:
    """A tensor to make others like it, the width d, and the width d_kv of all its key heads together."""
    if "past_key_values" not in inspect.signature(attention.forward).parameters:
        raise ValueError(f"{type(attention).__name__} reads no cache, so a prefix has no way in")
    for name in ("k_proj", "key", "k"):
        layer = getattr(attention, name, None)
        if layer is not None:
            return layer.weight, layer.in_features, layer.out_features
    if hasattr(attention, "c_attn"):  # GPT-2 holds query, key and value in one matrix
        return next(attention.parameters()), attention.embed_dim, attention.embed_dim
    raise ValueError(f"{type(attention).__name__} has no key projection, so it cannot take a prefix")


@torch.no_grad()
def flatten(model: nn.Module) -> nn.Module:
    """After training: replaces the network by the prefixes that it gives, as ``Config(hidden=None)`` holds them."""
    for _, attention in instances(model, PrefixAttention):
        attention.prefix = Stored(*(part.clone(memory_format=torch.contiguous_format) for part in attention.prefix()))
    return model

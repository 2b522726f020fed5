"""The model families that closed forms are read from, with labelled widths.

Each shape is a family's configuration at a given depth. Its widths contain primes of their own (``profiler.labels``) and are
otherwise multiples of powers of two, because kernels pad heads to 32 and rows to 128, and methods divide widths by block
sizes and reduction factors. ``sample`` draws widths that real models have: closed forms keep the moments that can be the
peak for those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from profiler.labels import Width

_BATCH, _TOKENS, _PROMPT = Width(11, 11), Width(128 * 59, 59), Width(128 * 68, 17)
_JOINED = Width(128 * 127, 127)  # tokens and prompt together
_BESIDE_MASK = Width(9 * 967, 967)  # a prompt that is as long together with the tokens and one mask
VOCABULARY = Width(256 * 37, 37)
_KNOBS = {"m": Width(8 * 41, 41), "r": Width(8 * 43, 43), "h": Width(16 * 47, 47), "p": _PROMPT}
HEAD = Width(32 * 7, 7)
_TEXT = {"b": _BATCH, "s": _TOKENS, "t": _JOINED, "V": VOCABULARY, **_KNOBS}
KV, GROUP = Width(13, 13), Width(19, 19)
TWIN, FUSED = Width(71, 71), Width(73, 73)  # in the place of GROUP, and two more: heads of queries, keys and values
OWN = Width(128 * 29 * 13 * 19, 29)  # a hidden size that is a multiple of the number of heads
MANY = Width(16 * 13, 13)  # heads, where heads times head size are the hidden size
INNER = Width(512 * 31, 31)
POSITIONS = Width(512 * 53, 53)  # rows of the table of learned positions
_PATCHES, _PATCHED = Width(36 * 36 + 1, 1297), Width(36 * 36 + 1 + 8 * 17, 1433)


@dataclass(frozen=True)
class Shape:
    """A family with labelled widths."""

    name: str
    kind: str  # as ``kb.architecture`` says
    config: Callable[[int], dict[str, Any]]  # of a depth
    widths: Mapping[str, Width]
    heads: str = "d_q"  # what heads times head size are called
    free: bool = True  # whether the hidden size is independent of the heads


def _sizes(depth: int, group: Width = GROUP) -> dict[str, int]:
    """Of a family whose heads together are as wide as its hidden states, in the usual names."""
    heads = MANY.value * group.value
    return {
        "hidden_size": heads * HEAD.value,
        "intermediate_size": INNER.value,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
    }


def _llama(depth: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": OWN.value,
        "intermediate_size": INNER.value,
        "num_hidden_layers": depth,
        "num_attention_heads": KV.value * GROUP.value,
        "num_key_value_heads": KV.value,
        "head_dim": HEAD.value,
        "vocab_size": VOCABULARY.value,
        "tie_word_embeddings": True,
    }


def _llama_square(depth: int) -> dict[str, Any]:
    return {**_llama(depth), "hidden_size": KV.value * GROUP.value * HEAD.value}


def _opt(depth: int) -> dict[str, Any]:
    width = MANY.value * GROUP.value * HEAD.value
    return {
        "model_type": "opt",
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": INNER.value,
        "num_hidden_layers": depth,
        "num_attention_heads": MANY.value * GROUP.value,
        "vocab_size": VOCABULARY.value,
        "max_position_embeddings": POSITIONS.value - 2,  # OPT counts from two
        "dropout": 0.0,
    }


def _opt_gelu(depth: int) -> dict[str, Any]:
    return {**_opt(depth), "activation_function": "gelu"}


def _phi3(depth: int) -> dict[str, Any]:
    return {
        "model_type": "phi3",
        **_sizes(depth, TWIN),
        "num_key_value_heads": MANY.value,
        "vocab_size": VOCABULARY.value,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    }


def _neox(depth: int) -> dict[str, Any]:
    return {
        "model_type": "gpt_neox",
        **_sizes(depth, TWIN),
        "vocab_size": VOCABULARY.value,
        "max_position_embeddings": POSITIONS.value,
        "tie_word_embeddings": True,
    }


def _bert(depth: int) -> dict[str, Any]:
    return {
        "model_type": "bert",
        **_sizes(depth),
        "vocab_size": VOCABULARY.value,
        "max_position_embeddings": POSITIONS.value,
    }


def _t5(depth: int) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "d_model": OWN.value,
        "d_ff": INNER.value,
        "num_layers": depth,
        "num_decoder_layers": depth,
        "num_heads": KV.value * GROUP.value,
        "d_kv": HEAD.value,
        "vocab_size": VOCABULARY.value,
    }


def _t5_gated(depth: int) -> dict[str, Any]:
    return {**_t5(depth), "feed_forward_proj": "gated-gelu"}


def _vit(depth: int) -> dict[str, Any]:
    return {
        "model_type": "vit",
        **_sizes(depth),
        "image_size": 36 * 16,
        "patch_size": 16,
        "num_channels": 3,
    }


_GQA = {"d": OWN, "d_ff": INNER, **_TEXT, "kv": KV, "g": GROUP, "dh": HEAD}
_SAME = {"d_ff": INNER, **_TEXT, "kv": MANY, "g": GROUP, "dh": HEAD}
_IN_ONE = {**_SAME, "g": TWIN, "g2": FUSED}
GATED_DECODERS = ("decoder", "decoder_joined")
"""What is fine-tuned today, on a base of few bits and on chosen layers, too; several queries share a key there."""
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("decoder", "decoder", _llama, _GQA),
        Shape("decoder_joined", "decoder", _phi3, _IN_ONE, heads="d", free=False),
        Shape("decoder_plain", "decoder", _opt_gelu, {**_SAME, "n_pos": POSITIONS}, heads="d", free=False),
        Shape("decoder_plain_joined", "decoder", _neox, _IN_ONE, heads="d", free=False),
        Shape("decoder_rectified", "decoder", _opt, {**_SAME, "n_pos": POSITIONS}, heads="d", free=False),
        Shape("encoder", "encoder", _bert, {**_SAME, "n_pos": POSITIONS}, heads="d", free=False),
        Shape("encoder_decoder", "encoder_decoder", _t5, _GQA),
        Shape("encoder_decoder_gated", "encoder_decoder", _t5_gated, _GQA),
        Shape(
            "vision",
            "vision",
            _vit,
            {**_SAME, "s": _PATCHES, "t": _PATCHED, "p": Width(8 * 17, 17)},
            heads="d",
            free=False,
        ),
    )
}


def square(shape: Shape) -> Shape:
    """``shape``, a decoder, for methods that want all queries together as wide as the hidden states."""
    widths = {name: width for name, width in shape.widths.items() if name != "d"}
    return replace(shape, config=_llama_square, widths=widths, heads="d", free=False)


def masked(shape: Shape) -> Shape:
    """``shape`` for methods that put a mask into the input, beside their prompt."""
    return replace(shape, widths={**shape.widths, "p": _BESIDE_MASK})


def sample(shape: Shape, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """``count`` draws of widths, depths, batches and lengths as real models and runs of this family have them."""
    draw = np.random.default_rng(seed)

    def pick(*values: float) -> np.ndarray:
        return draw.choice(np.array(values, dtype=float), size=count)

    head = pick(64, 64, 96, 128, 128)
    heads = pick(8, 12, 16, 24, 32, 40, 64)
    d_q = head * heads
    d = d_q * (pick(0.75, 1, 1, 1, 1.5) if shape.free else 1.0)
    group = pick(1, 1, 2, 4, 8) if shape.name in GATED_DECODERS else np.ones(count)
    seq = pick(197, 257, 577) if shape.kind == "vision" else pick(64, 128, 256, 512, 1024, 2048, 4096, 8192)
    prompt = pick(10, 20, 50, 100)
    found = {
        "L": pick(6, 12, 16, 24, 32, 48, 80),
        "d": d,
        "d_q": d_q,
        "n_heads": heads,
        "d_head": head,
        "n_group": group,
        "n_kv": heads / group,
        "d_kv": d_q / group,
        "d_qkv": d_q * (1 + 2 / group),
        "n_joined": group + 2,
        "d_ff": d * pick(2.66, 3.5, 4),
        "V": pick(30522, 32000, 50272, 128256, 151936, 256000) if shape.kind != "vision" else np.full(count, 1000.0),
        "b": pick(1, 1, 2, 4, 8, 16, 32),
        "s": seq,
        "p": prompt,
        "t": seq + prompt,
        "r": pick(1, 4, 8, 16, 32, 64, 256),
        "m": pick(8, 16, 64, 256),
        "h": pick(256, 512, 800),
        "n_pos": pick(512, 1024, 2048),
    }
    found["N"] = found["L"] * (2 * d * d_q + 2 * d * found["d_kv"] + 3 * d * found["d_ff"]) + found["V"] * d
    return found

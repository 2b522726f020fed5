"""Decoders that read images, too: the text decoder's parts, and a vision tower that enters the totals only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from kb._config import Inventory, Reader
from kb._decoders import DECODERS
from kb._encoders import patches_of, tower_of
from kb._shape import Architecture


def _gemma3(config: Reader) -> Architecture:
    text = DECODERS["gemma3_text"](config.part("text_config"))
    vision = config.part("vision_config")
    parts, d, *_ = tower_of(vision)
    patches, numbers = patches_of(vision)
    parts.extra("patch", numbers * d)
    parts.extra("patch.bias", d, bias=True)
    parts.extra("embedding.position", patches * d)
    parts.normalise(d, 1)
    parts.normalise(d, 1, bias=False)
    parts.extra("projection", d * text.d)
    return _with_eyes(text, config, parts)


def _with_eyes(text: Architecture, config: Reader, parts: Inventory) -> Architecture:
    note = (
        "sizes are those of the text decoder, and so is what training on texts takes; the vision tower enters the totals "
        "only, and images, which it turns into tokens, take more"
    )
    return replace(text, model_type=config.model_type, notes=(*text.notes, note), tower=parts.as_tower())


def _llama4_text(config: Reader) -> Architecture:
    """Llama 4: each mixture layer has a shared expert, and some layers are dense with a width of their own."""
    d, layers, vocab = config.size("hidden_size"), config.size("num_hidden_layers"), config.size("vocab_size")
    heads, inner = (
        config.heads("num_attention_heads", width=d, size=128, grouped=True),
        config.size("intermediate_size"),
    )
    dense_width, experts = config.size("intermediate_size_mlp"), config.size("num_local_experts")
    every = config.size("interleave_moe_layer_step", default=1)
    sparse = len(config.items("moe_layers")) or layers // every
    tied, bias = config.flag("tie_word_embeddings"), config.flag("attention_bias")
    parts = Inventory("rms")
    parts.extra("embedding.token", vocab * d)
    parts.attention(d, heads, layers, bias)
    parts.experts(d, inner, experts, sparse)
    parts.mlp(d, inner, sparse, gated=True)
    parts.mlp(d, dense_width, layers - sparse, gated=True)
    parts.normalise(d, 2 * layers + 1)
    parts.head(d, vocab, tied)
    return parts.build(
        heads,
        kind="decoder",
        model_type=config.model_type,
        d=d,
        encoder_layers=0,
        decoder_layers=layers,
        d_ff=inner,
        vocab=vocab,
        gated=True,
        tied=tied,
        experts=experts,
        experts_per_token=config.size("num_experts_per_tok", default=1),
        moe_d_ff=inner,
        context=config.optional("max_position_embeddings"),
    )


def _llama4(config: Reader) -> Architecture:
    text, vision = _llama4_text(config.part("text_config")), config.part("vision_config")
    parts, d, *_ = tower_of(vision)
    patches, numbers = patches_of(vision)
    middle, wide = vision.size("projector_input_dim"), vision.size("projector_output_dim")
    parts.extra("patch", numbers * d)
    parts.extra("class_token", d)
    parts.extra("embedding.position", (patches + 1) * d)
    parts.normalise(d, 2)
    parts.linear("projection", vision.size("intermediate_size"), middle, 1)
    parts.linear("projection", wide, wide, 1)
    parts.linear("projection", vision.size("vision_output_dim"), text.d, 1)
    return _with_eyes(text, config, parts)


def _qwen(config: Reader, text: str, eyes: Callable[[Reader], Inventory]) -> Architecture:
    """Qwen's models of text and images; published configurations of the second generation state the decoder's sizes beside its name."""
    inner = config.part("text_config") if "text_config" in config.config else config
    return _with_eyes(DECODERS[text](inner), config, eyes(config.part("vision_config")))


def _seen(vision: Reader, parts: Inventory, bias: bool) -> tuple[int, int, int]:
    """Add patches of two frames; give the tower's width, its blocks and the width of the patches that are merged into one."""
    d, patch = vision.size("hidden_size"), vision.size("patch_size")
    frames, channels = vision.size("temporal_patch_size", default=2), vision.size("in_channels", "in_chans", default=3)
    parts.extra("patch", channels * frames * patch**2 * d)
    parts.extra("patch.bias", bias * d, bias=True)
    return d, vision.size("depth"), d * vision.size("spatial_merge_size", default=2) ** 2


def _merger(parts: Inventory, vision: Reader, merged: int, count: int = 1) -> None:
    """Add what joins neighbouring patches; its layers are packed with those of the blocks, so they are named like these."""
    parts.linear("mlp.up", merged, merged, count, bias=True)
    parts.linear("mlp.down", merged, vision.size("out_hidden_size"), count, bias=True)


def _qwen2_5_eyes(vision: Reader) -> Inventory:
    parts = Inventory("rms")
    d, layers, merged = _seen(vision, parts, bias=False)
    parts.attention(d, vision.heads("num_heads", width=d), layers, bias=True, fused="qkv")
    parts.mlp(d, vision.size("intermediate_size"), layers, gated=True, bias=True)
    parts.normalise(d, 2 * layers + 1)
    _merger(parts, vision, merged)
    return parts


def _qwen3_eyes(vision: Reader) -> Inventory:
    parts = Inventory("layer")
    d, layers, merged = _seen(vision, parts, bias=True)
    parts.extra("embedding.position", vision.size("num_position_embeddings") * d)
    parts.attention(d, vision.heads("num_heads", width=d), layers, bias=True, fused="qkv")
    parts.mlp(d, vision.size("intermediate_size"), layers, gated=False, bias=True)
    parts.normalise(d, 2 * layers + 1)
    deeper = len(vision.items("deepstack_visual_indexes"))
    parts.normalise(merged, deeper)
    _merger(parts, vision, merged, 1 + deeper)
    return parts


SIGHTED: dict[str, Callable[[Reader], Architecture]] = {
    "gemma3": _gemma3,
    "llama4": _llama4,
    "llama4_text": _llama4_text,
    "qwen2_5_vl": partial(_qwen, text="qwen2_5_vl_text", eyes=_qwen2_5_eyes),
    "qwen3_vl": partial(_qwen, text="qwen3_vl_text", eyes=_qwen3_eyes),
}
"""How to read decoders of text and images."""

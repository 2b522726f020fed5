"""Encoders, encoder-decoders, vision models and CLIP's two towers: from configuration keys to parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from kb._config import Heads, Inventory, Reader
from kb._shape import Architecture

_HEADS = "num_attention_heads"


_FROM_BEHIND_PADDING = frozenset({"roberta", "xlm-roberta", "camembert"})


def _encoder(
    config: Reader, parts: Inventory, d: int, layers: int, heads: Heads, d_ff: int, rows: int, gated: bool = False
) -> Architecture:
    parts.notes.append("the bare encoder: a task head is extra")
    return parts.build(
        heads,
        kind="encoder",
        model_type=config.model_type,
        d=d,
        encoder_layers=layers,
        decoder_layers=0,
        d_ff=d_ff,
        vocab=config.size("vocab_size"),
        gated=gated,
        tied=False,
        context=_context(config),
        sliding_window=config.optional("local_attention"),
        positions=rows,
    )


def _context(config: Reader) -> int | None:
    """The longest input in tokens: RoBERTa and its kin count positions from behind the padding token's, 1."""
    rows = config.optional("max_position_embeddings")
    return rows - 2 if rows is not None and config.model_type in _FROM_BEHIND_PADDING else rows


def _bert(config: Reader, pooler: bool = True, types: int = 2) -> Architecture:
    """BERT, RoBERTa and ELECTRA: learned positions, types, norms after each module, perhaps a pooler."""
    d, layers = config.size("hidden_size"), config.size("num_hidden_layers")
    heads, d_ff = config.heads(_HEADS, width=d), config.size("intermediate_size")
    rows, width = config.size("max_position_embeddings"), config.size("embedding_size", default=d)
    parts = Inventory("layer")
    parts.extra("embedding.token", config.size("vocab_size") * width)
    parts.extra("embedding.position", rows * width)
    parts.extra("embedding.type", config.size("type_vocab_size", default=types, least=0) * width)
    parts.normalise(width, 1)
    if width != d:
        parts.linear("embedding.projection", width, d, 1, bias=True)
    parts.attention(d, heads, layers, bias=True)
    parts.mlp(d, d_ff, layers, gated=False, bias=True)
    parts.normalise(d, 2 * layers)
    parts.linear("pooler", d, d, int(pooler), bias=True)
    return _encoder(config, parts, d, layers, heads, d_ff, rows)


def _distilbert(config: Reader) -> Architecture:
    d, layers = config.size("dim", "hidden_size"), config.size("n_layers", "num_hidden_layers")
    heads, d_ff = config.heads("n_heads", _HEADS, width=d), config.size("hidden_dim")
    rows = config.size("max_position_embeddings")
    parts = Inventory("layer")
    parts.extra("embedding.token", config.size("vocab_size") * d)
    parts.extra("embedding.position", rows * d)
    parts.attention(d, heads, layers, bias=True)
    parts.mlp(d, d_ff, layers, gated=False, bias=True)
    parts.normalise(d, 2 * layers + 1)
    return _encoder(config, parts, d, layers, heads, d_ff, rows)


def _deberta_v2(config: Reader) -> Architecture:
    d, layers = config.size("hidden_size"), config.size("num_hidden_layers")
    heads, d_ff = config.heads(_HEADS, width=d), config.size("intermediate_size")
    if config.optional("conv_kernel_size") or config.size("embedding_size", default=d) != d:
        raise ValueError("conv_kernel_size and embedding_size of model_type 'deberta-v2' are not described here")
    rows = config.size("max_position_embeddings") if config.flag("position_biased_input", default=True) else 0
    parts = Inventory("layer")
    parts.extra("embedding.token", config.size("vocab_size") * d)
    parts.extra("embedding.position", rows * d)
    parts.extra("embedding.type", config.size("type_vocab_size", default=0, least=0) * d)
    parts.attention(d, heads, layers, bias=True)
    parts.mlp(d, d_ff, layers, gated=False, bias=True)
    parts.normalise(d, 2 * layers + 1 + ("layer_norm" in config.text("norm_rel_ebd")))
    if config.flag("relative_attention"):
        reach = config.size("position_buckets", default=-1, least=-1)
        if reach <= 0:
            known = config.size("max_relative_positions", default=-1, least=-1)
            reach = known if known > 0 else config.size("max_position_embeddings")
        parts.extra("embedding.relative", 2 * reach * d)
        if not config.flag("share_att_key"):
            kinds = config.config.get("pos_att_type") or ()
            names = kinds.split("|") if isinstance(kinds, str) else config.items("pos_att_type")
            parts.linear("attention.position", d, heads.d_q, layers * len({"c2p", "p2c"} & set(names)), bias=True)
    return _encoder(config, parts, d, layers, heads, d_ff, rows)


def _modernbert(config: Reader) -> Architecture:
    d, layers = config.size("hidden_size"), config.size("num_hidden_layers")
    heads, d_ff = config.heads(_HEADS, width=d), config.size("intermediate_size")
    parts = Inventory("layer")
    parts.extra("embedding.token", config.size("vocab_size") * d)
    parts.attention(d, heads, layers, config.flag("attention_bias"), fused="Wqkv")
    parts.mlp(d, d_ff, layers, True, config.flag("mlp_bias"), fused="Wi")
    parts.normalise(d, 2 * layers + 1, config.flag("norm_bias"))  # the first block has no norm before attention
    return _encoder(config, parts, d, layers, heads, d_ff, 0, gated=True)


def _seq2seq(
    config: Reader, parts: Inventory, layers: tuple[int, int], heads: Heads, d_ff: int, tied: bool, **more: int | None
) -> Architecture:
    return parts.build(
        heads,
        kind="encoder_decoder",
        model_type=config.model_type,
        d=config.size("d_model"),
        encoder_layers=layers[0],
        decoder_layers=layers[1],
        d_ff=d_ff,
        vocab=config.size("vocab_size"),
        tied=tied,
        **more,
    )


def _t5(config: Reader, gated: bool = False, tied: bool = True) -> Architecture:
    d, vocab, d_ff = config.size("d_model"), config.size("vocab_size"), config.size("d_ff")
    encoder = config.size("num_layers")
    decoder = config.size("num_decoder_layers", default=encoder)
    queries = config.size("num_heads")
    heads = Heads(queries, queries, config.size("d_kv"))
    gated = config.text("feed_forward_proj", default="gated" if gated else "relu").startswith("gated")
    tied = config.flag("tie_word_embeddings", default=tied)
    parts = Inventory("rms")
    parts.extra("embedding.token", vocab * d)
    parts.extra("relative_attention", 2 * config.size("relative_attention_num_buckets", default=32) * queries)
    parts.attention(d, heads, encoder + decoder)
    parts.attention(d, heads, decoder, cross=True)
    parts.mlp(d, d_ff, encoder + decoder, gated)
    parts.normalise(d, 2 * encoder + 3 * decoder + 2)
    parts.head(d, vocab, tied)
    return _seq2seq(config, parts, (encoder, decoder), heads, d_ff, tied, gated=gated)


def _bart(config: Reader, final_norms: int = 0) -> Architecture:
    d, vocab, rows = config.size("d_model"), config.size("vocab_size"), config.size("max_position_embeddings")
    encoder, decoder = config.size("encoder_layers"), config.size("decoder_layers")
    queries, d_ff = config.size("encoder_attention_heads"), config.size("encoder_ffn_dim")
    same = (config.size("decoder_attention_heads"), config.size("decoder_ffn_dim"))
    if same != (queries, d_ff) or d % queries:
        raise ValueError("encoder and decoder of different heads or feed-forward widths are not described here")
    heads = Heads(queries, queries, d // queries)
    parts = Inventory("layer")
    parts.extra("embedding.token", vocab * d)
    parts.extra("embedding.position", 2 * (rows + 2) * d)
    parts.attention(d, heads, encoder + decoder, bias=True)
    parts.attention(d, heads, decoder, bias=True, cross=True)
    parts.mlp(d, d_ff, encoder + decoder, gated=False, bias=True)
    parts.normalise(d, 2 * encoder + 3 * decoder + 2 + final_norms)
    parts.head(d, vocab, tied=True)
    parts.notes.append("with the tied token head, which the bare class leaves out")
    return _seq2seq(
        config, parts, (encoder, decoder), heads, d_ff, True, gated=False, context=rows, positions=2 * (rows + 2)
    )


def _whisper(config: Reader) -> Architecture:
    d, vocab, mels = config.size("d_model"), config.size("vocab_size"), config.size("num_mel_bins")
    encoder, decoder = config.size("encoder_layers"), config.size("decoder_layers")
    queries, d_ff = config.size("encoder_attention_heads"), config.size("encoder_ffn_dim")
    source, target = config.size("max_source_positions"), config.size("max_target_positions")
    heads = Heads(queries, queries, d // queries)
    parts = Inventory("layer")
    parts.extra("embedding.token", vocab * d)
    parts.extra("embedding.position", (source + target) * d)
    parts.extra("convolution", 3 * d * (mels + d))
    parts.extra("convolution.bias", 2 * d, bias=True)
    parts.attention(d, heads, encoder + decoder, bias=True, key_bias=False)
    parts.attention(d, heads, decoder, bias=True, key_bias=False, cross=True)
    parts.mlp(d, d_ff, encoder + decoder, gated=False, bias=True)
    parts.normalise(d, 2 * encoder + 3 * decoder + 2)
    parts.head(d, vocab, tied=True)
    return _seq2seq(
        config, parts, (encoder, decoder), heads, d_ff, True, gated=False, context=target, positions=source + target
    )


def patches_of(config: Reader) -> tuple[int, int]:
    """Patches of an image, and numbers in one patch."""
    side, patch = config.size("image_size"), config.size("patch_size")
    return (side // patch) ** 2, config.size("num_channels", default=3) * patch**2


def tower_of(config: Reader) -> tuple[Inventory, int, int, Heads, int]:
    """The blocks that CLIP, SigLIP, ViT and Llama-4's eyes share."""
    d, layers = config.size("hidden_size"), config.size("num_hidden_layers")
    heads, d_ff = config.heads(_HEADS, width=d), config.size("intermediate_size")
    parts = Inventory("layer")
    parts.attention(d, heads, layers, bias=True)
    parts.mlp(d, d_ff, layers, gated=False, bias=True)
    parts.normalise(d, 2 * layers)
    return parts, d, layers, heads, d_ff


def _vision(config: Reader, whole: Reader, parts: Inventory, heads: Heads, rows: int) -> Architecture:
    return parts.build(
        heads,
        kind="vision",
        model_type=whole.model_type,
        d=config.size("hidden_size"),
        encoder_layers=config.size("num_hidden_layers"),
        decoder_layers=0,
        d_ff=config.size("intermediate_size"),
        vocab=0,
        gated=False,
        tied=False,
        positions=rows,
        context=rows,
    )


def _vit(config: Reader) -> Architecture:
    parts, d, _, heads, _ = tower_of(config)
    patches, numbers = patches_of(config)
    labels = config.config.get("id2label")
    classes = config.size("num_labels", default=len(labels) if isinstance(labels, dict) else 2)
    parts.extra("patch", numbers * d)
    parts.extra("patch.bias", d, bias=True)
    parts.extra("class_token", d)
    parts.extra("embedding.position", (patches + 1) * d)
    parts.normalise(d, 1)
    parts.linear("classifier", d, classes, 1, bias=True)
    parts.notes.append(f"with a classifier of {classes} classes")
    return _vision(config, config, parts, heads, patches + 1)


def _clip(config: Reader) -> Architecture:
    text, vision, width = config.part("text_config"), config.part("vision_config"), config.size("projection_dim")
    other, text_d, *_ = tower_of(text)
    other.extra("embedding.token", text.size("vocab_size") * text_d)
    other.extra("embedding.position", text.size("max_position_embeddings") * text_d)
    other.normalise(text_d, 1)
    other.linear("projection", text_d, width, 1)
    other.extra("logit_scale", 1)
    parts, d, _, heads, _ = tower_of(vision)
    patches, numbers = patches_of(vision)
    parts.extra("patch", numbers * d)
    parts.extra("class_token", d)
    parts.extra("embedding.position", (patches + 1) * d)
    parts.normalise(d, 2)
    parts.linear("projection", d, width, 1)
    parts.notes.append("sizes are those of the vision tower; the text tower enters the totals only")
    return replace(_vision(vision, config, parts, heads, patches + 1), tower=other.as_tower())


ENCODERS: dict[str, Callable[[Reader], Architecture]] = {
    "bert": _bert,
    "roberta": _bert,
    "xlm-roberta": _bert,
    "camembert": _bert,
    "electra": partial(_bert, pooler=False),
    "distilbert": _distilbert,
    "deberta-v2": _deberta_v2,
    "modernbert": _modernbert,
    "t5": _t5,
    "mt5": partial(_t5, gated=True),
    "bart": _bart,
    "mbart": partial(_bart, final_norms=2),
    "whisper": _whisper,
    "vit": _vit,
    "clip": _clip,
}
"""How to read every family that is no plain text decoder."""

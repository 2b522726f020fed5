"""Decoder families: from the keys of a configuration to the parts of the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kb._config import Heads, Inventory, Reader
from kb._shape import Architecture

_OTHER_MECHANISMS = {
    "kv_lora_rank": "multi-head latent attention",
    "mamba_d_state": "state-space layers",
    "ssm_cfg": "state-space layers",
    "state_size": "state-space layers",
    "linear_num_value_heads": "linear attention",
    "attn_layer_period": "a mixture of attention and state-space layers",
    "hybrid_override_pattern": "a mixture of attention and state-space layers",
    "lru_width": "recurrent layers",
    "num_hidden_groups": "layers that share their weights",
    "altup_num_inputs": "several streams of hidden states",
    "global_head_dim": "blocks with heads of two sizes",
    "num_global_key_value_heads": "blocks with different numbers of key heads",
}


def _rms_family(
    config: Reader,
    *,
    tied: bool = False,
    qkv_bias: bool | None = None,
    out_bias: bool | None = None,
    norms: int = 2,
    qk_norm: str = "",
    head_size: int | None = None,
    fused: bool = False,
    sinks: bool = False,
    note: str = "",
) -> Architecture:
    """Llama and its kin: RMS norms, rotary positions, a gated feed-forward or a mixture of gated experts."""
    d, layers = config.size("hidden_size"), config.size("num_hidden_layers")
    heads = config.heads("num_attention_heads", width=d, size=head_size, grouped=True)
    vocab, d_ff = config.size("vocab_size"), config.size("intermediate_size")
    tied = config.flag("tie_word_embeddings", default=tied)
    bias = config.flag("attention_bias", default=sinks) if qkv_bias is None else qkv_bias
    parts = Inventory("rms")
    parts.extra("embedding.token", vocab * d)
    parts.attention(d, heads, layers, bias, bias if out_bias is None else out_bias, "qkv_proj" if fused else None)
    mixture = _mixture(config, parts, d, d_ff, layers)
    dense = layers - (mixture.layers if mixture else 0)
    parts.mlp(d, d_ff, dense, True, config.flag("mlp_bias"), "gate_up_proj" if fused else None)
    parts.normalise(d, norms * layers + 1)
    parts.extra("attention.sinks", layers * heads.query * sinks)
    parts.notes.extend([note] * bool(note))
    if qk_norm == "head":
        parts.normalise(heads.size, 2 * layers)
    elif qk_norm == "all":
        parts.normalise(heads.d_q, layers)
        parts.normalise(heads.d_kv, layers)
    parts.head(d, vocab, tied)
    return parts.build(
        heads,
        kind="decoder",
        model_type=config.model_type,
        d=d,
        encoder_layers=0,
        decoder_layers=layers,
        d_ff=d_ff if dense or not mixture else mixture.d_ff,
        vocab=vocab,
        gated=True,
        tied=tied,
        experts=mixture.experts if mixture else 0,
        experts_per_token=mixture.chosen if mixture else 0,
        moe_d_ff=mixture.d_ff if mixture else 0,
        context=config.optional("max_position_embeddings"),
        sliding_window=_window(config),
        qk_norm=bool(qk_norm),
    )


def _window(config: Reader) -> int | None:
    used = config.flag("use_sliding_window", default="qwen" not in config.model_type)
    return config.optional("sliding_window") if used else None


class _Mixture:
    def __init__(self, experts: int, chosen: int, d_ff: int, layers: int) -> None:
        self.experts, self.chosen, self.d_ff, self.layers = experts, chosen, d_ff, layers


def _mixture(config: Reader, parts: Inventory, d: int, d_ff: int, layers: int) -> _Mixture | None:
    """Add the experts of a mixture model; null for a dense one."""
    experts = config.optional("num_local_experts", "num_experts", "n_routed_experts") or 0
    if not experts:
        return None
    chosen = config.size("num_experts_per_tok", "num_experts_per_token")
    if chosen > experts:
        raise ValueError(f"num_experts_per_tok {chosen} exceeds the {experts} experts of the configuration")
    inner = config.size("moe_intermediate_size", default=d_ff)
    skipped = {layer for layer in config.items("mlp_only_layers") if isinstance(layer, int)}
    skipped |= set(range(config.size("first_k_dense_replace", default=0, least=0)))
    every = config.size("decoder_sparse_step", default=1)
    sparse = sum(layer not in skipped and (layer + 1) % every == 0 for layer in range(layers))
    biased = config.model_type == "gpt_oss"
    parts.experts(d, inner, experts, sparse, biased, biased)
    shared = config.optional("shared_expert_intermediate_size")
    if shared:
        parts.mlp(d, shared, sparse, True)
        parts.extra("shared_expert_gate", sparse * d)
    if config.optional("n_shared_experts"):
        parts.mlp(d, inner * config.size("n_shared_experts"), sparse, True)
    return _Mixture(experts, chosen, inner, sparse)


def _layer_family(
    config: Reader,
    *,
    names: tuple[str, ...] = ("hidden_size", "num_hidden_layers", "num_attention_heads"),
    d_ff: int | None = None,
    heads: Heads | None = None,
    tied: bool,
    bias: bool = True,
    mlp_bias: bool | None = None,
    out_bias: bool | None = None,
    head_bias: bool = False,
    norms: int = 2,
    extra_norms: int = 1,
    gated: bool = False,
    grouped: bool = False,
    fused: str | None = None,
    positions: int = 0,
    context: int | None = None,
    token_width: int | None = None,
    qk_norm: int = 0,
    rectified: bool = False,
) -> Architecture:
    """GPT-2 and its kin: layer norms with biases, mostly an ungated feed-forward."""
    d, layers = config.size(names[0], "hidden_size"), config.size(names[1], "num_hidden_layers")
    heads = heads or config.heads(names[2], "num_attention_heads", width=d, grouped=grouped)
    d_ff = d_ff or config.size("intermediate_size")
    vocab = config.size("vocab_size")
    tied = config.flag("tie_word_embeddings", default=tied)
    width = token_width or d
    parts = Inventory("layer")
    parts.extra("embedding.token", vocab * width)
    parts.extra("embedding.position", positions * d)
    if width != d:
        parts.linear("embedding.projection", width, d, 1)
        parts.linear("embedding.projection", d, width, 1)
    parts.attention(d, heads, layers, bias, out_bias, fused)
    parts.mlp(d, d_ff, layers, gated, bias if mlp_bias is None else mlp_bias)
    parts.normalise(d, norms * layers + extra_norms)
    if qk_norm:
        parts.normalise(heads.size, qk_norm * layers)
    parts.head(width, vocab, tied, head_bias)
    return parts.build(
        heads,
        kind="decoder",
        model_type=config.model_type,
        d=d,
        encoder_layers=0,
        decoder_layers=layers,
        d_ff=d_ff,
        vocab=vocab,
        gated=gated,
        tied=tied,
        context=context or config.optional("max_position_embeddings"),
        sliding_window=config.optional("sliding_window"),
        positions=positions,
        qk_norm=bool(qk_norm),
        rectified=rectified,
    )


def _gpt2(config: Reader) -> Architecture:
    d, rows = config.size("n_embd", "hidden_size"), config.size("n_positions", "n_ctx", "max_position_embeddings")
    inner = config.size("n_inner", default=4 * d)
    names = ("n_embd", "n_layer", "n_head")
    return _layer_family(config, names=names, d_ff=inner, tied=True, fused="c_attn", positions=rows, context=rows)


def _gptj(config: Reader) -> Architecture:
    d = config.size("n_embd", "hidden_size")
    return _layer_family(
        config,
        names=("n_embd", "n_layer", "n_head"),
        d_ff=config.size("n_inner", default=4 * d),
        tied=False,
        bias=False,
        mlp_bias=True,
        head_bias=True,
        norms=1,
        context=config.optional("n_positions"),
    )


def _opt(config: Reader) -> Architecture:
    context = config.size("max_position_embeddings")
    before = config.flag("do_layer_norm_before", default=True)
    return _layer_family(
        config,
        d_ff=config.size("ffn_dim"),
        tied=True,
        bias=config.flag("enable_bias", default=True),
        extra_norms=int(before and not config.flag("_remove_final_layer_norm")),
        positions=context + 2,
        context=context,
        token_width=config.size("word_embed_proj_dim", default=config.size("hidden_size")),
        rectified=config.text("activation_function", default="relu") == "relu",
    )


def _bloom(config: Reader) -> Architecture:
    d = config.size("n_embed", "hidden_size", "n_embd")
    return _layer_family(
        config, names=("n_embed", "n_layer", "n_head"), d_ff=4 * d, tied=True, fused="query_key_value", extra_norms=2
    )


def _falcon(config: Reader) -> Architecture:
    d, queries = config.size("hidden_size"), config.size("num_attention_heads", "n_head")
    new = config.flag("new_decoder_architecture")
    one = config.flag("multi_query", default=True)
    kv = config.size("num_kv_heads", default=queries) if new else 1 if one else queries
    parallel = config.flag("parallel_attn", default=True)
    two = config.size("num_ln_in_parallel_attn", default=2 if new else 1) == 2 if new or parallel else True
    return _layer_family(
        config,
        names=("hidden_size", "num_hidden_layers", "num_attention_heads"),
        d_ff=config.size("ffn_hidden_size", default=4 * d),
        heads=Heads(queries, kv, d // queries),
        tied=True,
        bias=config.flag("bias"),
        norms=2 if two else 1,
        fused="query_key_value",
        context=config.optional("max_position_embeddings") or 2048,
    )


def _gpt_neox(config: Reader) -> Architecture:
    bias = config.flag("attention_bias", default=True)
    return _layer_family(config, tied=False, bias=bias, mlp_bias=True, fused="query_key_value")


def _phi(config: Reader) -> Architecture:
    qk_norm = 2 * config.flag("qk_layernorm")
    return _layer_family(config, tied=False, head_bias=True, norms=1, qk_norm=qk_norm, grouped=True)


def _stablelm(config: Reader) -> Architecture:
    if config.flag("qk_layernorm"):
        raise ValueError("qk_layernorm of model_type 'stablelm' is not described here: expected false")
    return _layer_family(
        config,
        tied=False,
        bias=config.flag("use_qkv_bias"),
        out_bias=False,
        mlp_bias=False,
        norms=1 if config.flag("use_parallel_residual") else 2,
        gated=True,
        grouped=True,
    )


def _starcoder2(config: Reader) -> Architecture:
    return _layer_family(config, tied=True, bias=config.flag("use_bias", default=True), grouped=True)


def _generic(config: Reader) -> Architecture:
    """Read an unknown family whose keys are those of Llama."""
    for key, mechanism in _OTHER_MECHANISMS.items():
        if config.config.get(key) is not None:
            raise ValueError(
                f"model_type {config.model_type!r} uses {mechanism} ({key}), which is not described here: "
                "expected a model of softmax attention and feed-forward blocks. A size alone is answered for a dense "
                "decoder as large"
            )
    name = repr(config.model_type) if config.model_type else "not given"
    note = f"model_type {name}: no family known here; read like Llama, so biases and further norms may be missed"
    return _rms_family(config, note=note)


DECODERS: dict[str, Callable[[Reader], Architecture]] = {
    "llama": _rms_family,
    "mistral": partial(_rms_family, qkv_bias=False),
    "mixtral": partial(_rms_family, qkv_bias=False),
    "ministral": partial(_rms_family, qkv_bias=False),
    "qwen2": partial(_rms_family, qkv_bias=True, out_bias=False),
    "qwen2_moe": partial(_rms_family, qkv_bias=True, out_bias=False),
    "qwen3": partial(_rms_family, qk_norm="head", head_size=128),
    "qwen3_moe": partial(_rms_family, qk_norm="head"),
    "qwen2_5_vl_text": partial(_rms_family, qkv_bias=True, out_bias=False),
    "qwen3_vl_text": partial(_rms_family, qk_norm="head", head_size=128),
    "gemma": partial(_rms_family, tied=True, head_size=256),
    "gemma2": partial(_rms_family, tied=True, head_size=256, norms=4),
    "gemma3_text": partial(_rms_family, tied=True, head_size=256, norms=4, qk_norm="head"),
    "phi3": partial(_rms_family, qkv_bias=False, fused=True),
    "smollm3": partial(_rms_family, tied=True),
    "granite": _rms_family,
    "olmo2": partial(_rms_family, qk_norm="all"),
    "olmo3": partial(_rms_family, qk_norm="all"),
    "olmoe": partial(_rms_family, qk_norm="all"),
    "gpt_oss": partial(_rms_family, head_size=64, sinks=True),
    "gpt2": _gpt2,
    "gptj": _gptj,
    "opt": _opt,
    "bloom": _bloom,
    "falcon": _falcon,
    "gpt_neox": _gpt_neox,
    "phi": _phi,
    "stablelm": _stablelm,
    "starcoder2": _starcoder2,
    "": _generic,
}
"""How to read each decoder family; the entry `""` reads an unknown one."""

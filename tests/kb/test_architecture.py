"""The uniform description: what it counts, what it refuses, and that it is exact for every family it names."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb.architecture import FAMILIES, NOMINAL, VARIABLES, Architecture, from_config, representative
from kb.catalogue import load_model, load_models

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
}
LLAMA = {"model_type": "llama", **TINY}


def test_llama_counts_what_one_counts_by_hand() -> None:
    shape = from_config(LLAMA)
    block = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 48 + 2 * 32
    assert shape.parameters == 2 * 97 * 32 + 3 * block + 32
    sizes = {one.site: (one.d_in, one.d_out, one.count) for one in shape.linears()}
    assert sizes == {
        "attention.query": (32, 32, 3),
        "attention.key": (32, 16, 3),
        "attention.value": (32, 16, 3),
        "attention.output": (32, 32, 3),
        "mlp.gate": (32, 48, 3),
        "mlp.up": (32, 48, 3),
        "mlp.down": (48, 32, 3),
        "lm_head": (32, 97, 1),
    }


def test_tied_head_is_listed_but_counted_once() -> None:
    tied, untied = (from_config({**LLAMA, "tie_word_embeddings": flag}) for flag in (True, False))
    assert untied.parameters - tied.parameters == 97 * 32
    assert [one.shared for one in tied.linears() if one.site == "lm_head"] == [True]


def test_fused_matrices_are_split_by_site_and_joined_as_modules() -> None:
    shape = from_config(
        {"model_type": "gpt2", "vocab_size": 97, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
    )
    assert {one.site for one in shape.linears() if one.fused} == {
        f"attention.{part}" for part in ("query", "key", "value")
    }
    assert [(one.d_in, one.d_out) for one in shape.modules() if one.fused == "c_attn"] == [(32, 96)]
    assert sum(one.weights for one in shape.modules()) == sum(one.weights for one in shape.linears())


def test_joined_matrices_are_reached_as_a_whole_but_those_of_gpt2() -> None:
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    phi = from_config({"model_type": "phi3", "intermediate_size": 48, "num_key_value_heads": 2, **sizes})
    gpt2 = from_config(
        {"model_type": "gpt2", "vocab_size": 97, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
    )

    def shapes(model: Architecture, *sites: str) -> list[tuple[int, int, int]]:
        return [(one.d_in, one.d_out, one.count) for one in model.reached(sites)]

    assert phi.joins
    assert shapes(phi, "attention.query", "attention.value") == [(32, 64, 2)]
    assert shapes(phi, "mlp.gate") == [(32, 96, 2)]
    assert sorted(shapes(phi, "all_linear")) == [(32, 32, 2), (32, 64, 2), (32, 96, 2), (48, 32, 2)]
    assert not gpt2.joins
    assert shapes(gpt2, "attention.query", "attention.value") == [(32, 32, 2)] * 2


def test_cross_attention_counts_as_attention_module() -> None:
    known = load_model("t5-base").architecture.variables()
    assert (known["L"], known["n_cross"], known["n_attn"], known["n_ffn"]) == (24, 12, 36, 24)


def test_mixture_separates_experts_from_linear_modules() -> None:
    shape = load_model("mixtral-8x7b").architecture
    known = shape.variables()
    assert known["N_experts"] == 32 * 8 * 3 * 4096 * 14336
    assert known["N_linear"] == 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    assert shape.parameters - shape.parameters_active == known["N_experts"] * 6 // 8
    assert not any(one.module for one in shape.linears() if "experts" in one.site)


def test_variables_are_those_that_are_documented() -> None:
    for record in load_models().values():
        assert record.architecture.variables().keys() == VARIABLES.keys(), record.id


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"]
)
def test_missing_key_is_named_with_what_was_expected(key: str) -> None:
    config = {name: value for name, value in LLAMA.items() if name != key}
    with pytest.raises(ValueError, match=rf"lacks {key}: expected a whole number"):
        from_config(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "32"}, "hidden_size is '32': expected a whole number"),
        ({"hidden_size": True}, "hidden_size is True: expected a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0: expected a whole number from 1"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000: expected"),
        ({"hidden_size": 30}, "hidden size 30 is no multiple of num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes': expected true or false"),
        ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, "multi-head latent attention"),
        ({"model_type": "albert", "num_hidden_groups": 1}, "share their weights"),
        ({"model_type": "gemma3"}, "lacks text_config: expected an object"),
        ({"num_local_experts": 2, "num_experts_per_tok": 3}, "exceeds the 2 experts"),
    ],
)
def test_bad_configuration_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_config({**LLAMA, **change})


def test_empty_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks hidden_size"):
        from_config({})


def test_unknown_family_is_read_like_llama_and_says_so() -> None:
    shape = from_config({**LLAMA, "model_type": "novel"})
    assert shape.parameters == from_config(LLAMA).parameters
    assert any("'novel'" in note and "read like Llama" in note for note in shape.notes)


def test_unknown_vision_language_model_is_read_by_its_text_part() -> None:
    shape = from_config({"model_type": "novel_vl", "text_config": TINY})
    assert shape.parameters == from_config(LLAMA).parameters


@settings(max_examples=60, deadline=None)
@given(st.floats(min_value=5.01, max_value=12.99).map(lambda power: int(10**power)))
def test_representative_decoder_has_the_wanted_size(params: int) -> None:
    if params in NOMINAL:
        return
    shape = representative(params)
    assert abs(shape.parameters - params) <= params / 100
    assert shape.heads * shape.head_dim == shape.d
    assert 2 < shape.d_ff / shape.d < 4
    assert "made up" in shape.notes[-1]


@pytest.mark.parametrize(("params", "model_id"), NOMINAL.items())
def test_nominal_size_takes_a_model_that_is_called_so(params: int, model_id: str) -> None:
    shape, model = representative(params), load_model(model_id)
    assert shape.parameters == model.parameters.computed
    assert 0.9 < shape.parameters / params < 1.25
    assert model.name in shape.notes[-1]


@pytest.mark.parametrize("params", [0, -7, 99_999, 10**14])
def test_impossible_size_is_refused(params: int) -> None:
    with pytest.raises(ValueError, match="no decoder has"):
        representative(params)


def test_reading_a_configuration_imports_no_torch() -> None:
    code = (
        "import sys; from kb.architecture import from_config, representative; from kb.catalogue import load_gpus;"
        "representative(7 * 10**9); load_gpus(); print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
}
EYES = {**VISION, "patch_size": 14, "num_channels": 3}
SEQUENCE = {
    "vocab_size": 97,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
}
GPT = {"vocab_size": 97, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
MOE = {"num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 24}
T5 = {"vocab_size": 97, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4}
OPT = {**TINY, "ffn_dim": 48, "word_embed_proj_dim": 32}
FALCON = {**TINY, "num_kv_heads": 2}
SHARED = {"shared_expert_intermediate_size": 40}
DEBERTA = {**TINY, "relative_attention": True, "position_buckets": -1, "type_vocab_size": 2}
LLAMA4_TEXT = {**TINY, **EXPERTS, "intermediate_size_mlp": 64, "head_dim": 8, "interleave_moe_layer_step": 2}
QWEN_EYES = {
    "depth": 3,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
}
PROJECTOR = {"vision_output_dim": 24, "projector_input_dim": 24, "projector_output_dim": 24, "pixel_shuffle_ratio": 0.5}

# Class, sizes and switches of every family; several entries where a switch changes what the model is made of.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "LlamaForCausalLM", {**TINY, "attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    ("mistral", "MistralForCausalLM", TINY),
    ("ministral", "MinistralForCausalLM", {**TINY, "head_dim": 8}),
    ("mixtral", "MixtralForCausalLM", {**TINY, **EXPERTS}),
    ("qwen2", "Qwen2ForCausalLM", TINY),
    ("qwen2_moe", "Qwen2MoeForCausalLM", {**TINY, **MOE, **SHARED, "mlp_only_layers": [0]}),
    ("qwen3", "Qwen3ForCausalLM", TINY),
    ("qwen3_moe", "Qwen3MoeForCausalLM", {**TINY, **MOE, "decoder_sparse_step": 2}),
    ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", {"text_config": TINY, "vision_config": QWEN_EYES}),
    (
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        {"text_config": TINY, "vision_config": {**QWEN_EYES, "deepstack_visual_indexes": [0, 2]}},
    ),
    ("gemma", "GemmaForCausalLM", TINY),
    ("gemma2", "Gemma2ForCausalLM", {**TINY, "attention_bias": True}),
    ("gemma3_text", "Gemma3ForCausalLM", {**TINY, "tie_word_embeddings": False}),
    (
        "gemma3",
        "Gemma3ForConditionalGeneration",
        {"text_config": TINY, "vision_config": {**EYES, "vision_use_head": False}},
    ),
    ("phi3", "Phi3ForCausalLM", {**TINY, "pad_token_id": 0}),
    ("smollm3", "SmolLM3ForCausalLM", {**TINY, "attention_bias": True, "pad_token_id": 0}),
    ("granite", "GraniteForCausalLM", {**TINY, "mlp_bias": True}),
    ("olmo2", "Olmo2ForCausalLM", TINY),
    ("olmo3", "Olmo3ForCausalLM", TINY),
    ("olmoe", "OlmoeForCausalLM", {**TINY, "num_experts_per_tok": 2, "num_experts": 4}),
    ("gpt_oss", "GptOssForCausalLM", {**TINY, **EXPERTS, "pad_token_id": 0}),
    ("gpt2", "GPT2LMHeadModel", GPT),
    ("gpt2", "GPT2LMHeadModel", {**GPT, "n_inner": 50, "tie_word_embeddings": False}),
    ("gptj", "GPTJForCausalLM", {**GPT, "rotary_dim": 4}),
    ("opt", "OPTForCausalLM", OPT),
    ("opt", "OPTForCausalLM", {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False, "enable_bias": False}),
    ("bloom", "BloomForCausalLM", {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    ("falcon", "FalconForCausalLM", FALCON),
    ("falcon", "FalconForCausalLM", {**FALCON, "new_decoder_architecture": True, "bias": True}),
    ("falcon", "FalconForCausalLM", {**FALCON, "multi_query": False, "parallel_attn": False}),
    ("gpt_neox", "GPTNeoXForCausalLM", {**TINY, "attention_bias": False}),
    ("phi", "PhiForCausalLM", TINY),
    ("phi", "PhiForCausalLM", {**TINY, "qk_layernorm": True}),
    ("stablelm", "StableLmForCausalLM", {**TINY, "use_qkv_bias": True, "use_parallel_residual": True}),
    ("starcoder2", "Starcoder2ForCausalLM", TINY),
    ("starcoder2", "Starcoder2ForCausalLM", {**TINY, "use_bias": False}),
    ("bert", "BertModel", TINY),
    ("roberta", "RobertaModel", {**TINY, "type_vocab_size": 1}),
    ("camembert", "CamembertModel", {**TINY, "type_vocab_size": 1}),
    ("xlm-roberta", "XLMRobertaModel", {**TINY, "type_vocab_size": 1}),
    ("electra", "ElectraModel", {**TINY, "embedding_size": 16}),
    ("distilbert", "DistilBertModel", {**TINY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
    ("deberta-v2", "DebertaV2Model", {**DEBERTA, "share_att_key": False, "pos_att_type": "p2c|c2p"}),
    ("deberta-v2", "DebertaV2Model", {**DEBERTA, "position_biased_input": False, "norm_rel_ebd": "layer_norm"}),
    (
        "modernbert",
        "ModernBertModel",
        {**TINY, "pad_token_id": 0, "attention_bias": True, "mlp_bias": True, "norm_bias": True},
    ),
    ("t5", "T5ForConditionalGeneration", T5),
    ("mt5", "MT5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    ("bart", "BartForConditionalGeneration", SEQUENCE),
    ("mbart", "MBartForConditionalGeneration", SEQUENCE),
    (
        "whisper",
        "WhisperForConditionalGeneration",
        {**SEQUENCE, "num_mel_bins": 8, "max_source_positions": 30, "max_target_positions": 20, "pad_token_id": 0},
    ),
    ("vit", "ViTForImageClassification", {**EYES, "num_labels": 7}),
    ("clip", "CLIPModel", {"projection_dim": 20, "text_config": {**TINY, "hidden_size": 16}, "vision_config": EYES}),
    ("llama4_text", "Llama4ForCausalLM", LLAMA4_TEXT),
    (
        "llama4",
        "Llama4ForConditionalGeneration",
        {"text_config": LLAMA4_TEXT, "vision_config": {**EYES, **PROJECTOR, "intermediate_size": 128}},
    ),
]


def test_every_family_has_a_case() -> None:
    within = {"qwen2_5_vl_text", "qwen3_vl_text"}  # transformers builds them with their eyes only
    assert {family for family, _, _ in CASES} == set(FAMILIES) - within


@pytest.mark.parametrize(
    ("family", "class_name", "sizes"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
def test_family_is_counted_exactly(family: str, class_name: str, sizes: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    built = getattr(transformers, class_name)
    with torch.device("meta"):
        model = built(built.config_class(**sizes))
    assert _counted(from_config({**model.config.to_dict(), "model_type": family})) == _built(model)


def _counted(shape: Architecture) -> dict[str, int]:
    known = shape.variables()
    return {name: known[name] for name in ("N", "n_bias", "n_norms", "n_norm")}


def _built(model: Any) -> dict[str, int]:
    parameters = dict(model.named_parameters())
    norms = [each for each in model.modules() if "norm" in type(each).__name__.lower() and [*each.parameters(False)]]
    return {
        "N": sum(each.numel() for each in parameters.values()),
        "n_bias": sum(each.numel() for name, each in parameters.items() if name.endswith("bias")),
        "n_norms": len(norms),
        "n_norm": sum(each.numel() for norm in norms for each in norm.parameters(False)),
    }

"""Names of the hub: tuned and repacked variants are read as the model whose shape they have, all others are refused."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kb.catalogue import VARIANTS, load_models, load_variants, read_variants
from kb.loader import RecordError
from recommender import ConstraintError, Constraints, estimate, recommend
from recommender.naming import model_id
from recommender.variant import conversational, meaning, models_like, unknown

UNDERSTOOD = {
    "Qwen2.5-VL-7B": "qwen2.5-vl-7b",
    "Qwen/Qwen2.5-VL-7B-Instruct-AWQ": "qwen2.5-vl-7b",
    "Qwen/Qwen3-VL-8B-Thinking-FP8": "qwen3-vl-8b",
    "unsloth/Qwen3-VL-4B-Instruct-unsloth-bnb-4bit": "qwen3-vl-4b",
    "allenai/Olmo-3-7B-Think-SFT": "olmo-3-7b",
    "allenai/Olmo-3.1-32B-Think": "olmo-3-32b",
    "allenai/olmOCR-2-7B-1025": "qwen2.5-vl-7b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Meta-Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "meta-llama/Llama-3.2-1B-Instruct": "llama-3.2-1b",
    "meta-llama/Llama-2-7b-chat-hf": "llama-2-7b",
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": "llama-4-scout-17b-16e",
    "NousResearch/Meta-Llama-3-8B-Instruct": "llama-3-8b",
    "NousResearch/Hermes-3-Llama-3.1-8B": "llama-3.1-8b",
    "TheBloke/Llama-2-13B-chat-GPTQ": "llama-2-13b",
    "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic": "llama-3.3-70b-instruct",
    "casperhansen/llama-3.3-70b-instruct-awq": "llama-3.3-70b-instruct",
    "neuralmagic/Meta-Llama-3.1-8B-Instruct-quantized.w8a8": "llama-3.1-8b",
    "bartowski/Llama-3.2-3B-Instruct-Q4_K_M.gguf": "llama-3.2-3b",
    "mlx-community/Llama-3.2-3B-Instruct-4bit": "llama-3.2-3b",
    "unsloth/llama-3-8b-bnb-4bit": "llama-3-8b",
    "llama3.1:8b-instruct-q4_K_M": "llama-3.1-8b",
    "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b",
    "Qwen/Qwen2.5-7B-Instruct-1M": "qwen2.5-7b",
    "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4": "qwen2.5-7b",
    "Qwen/Qwen2.5-Coder-7B-Instruct": "qwen2.5-7b",
    "Qwen/Qwen2.5-Math-7B-Instruct": "qwen2.5-7b",
    "Qwen/Qwen3-8B-Base": "qwen3-8b",
    "Qwen/Qwen3-8B-FP8": "qwen3-8b",
    "Qwen/Qwen3-4B-Instruct-2507": "qwen3-4b",
    "Qwen/Qwen3-30B-A3B-Thinking-2507-FP8": "qwen3-30b-a3b",
    "unsloth/Qwen3-14B-unsloth-bnb-4bit": "qwen3-14b",
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": "qwen3-8b",
    "unsloth/DeepSeek-R1-Distill-Qwen-7B-bnb-4bit": "r1-distill-qwen-7b",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistral-7b-v0.3",
    "mistralai/Mistral-7B-Instruct-v0.2": "mistral-7b-v0.1",
    "HuggingFaceH4/zephyr-7b-beta": "mistral-7b-v0.1",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "mixtral-8x7b",
    "mistralai/Mistral-Nemo-Instruct-2407": "mistral-nemo-12b",
    "mistralai/Mistral-Small-24B-Instruct-2501": "mistral-small-24b-2501",
    "google/gemma-2-9b-it": "gemma-2-9b",
    "google/gemma-3-12b-it": "gemma-3-12b",
    "google/gemma-3-12b-it-qat-q4_0-gguf": "gemma-3-12b",
    "google/codegemma-7b-it": "gemma-7b",
    "openai-community/gpt2": "gpt2",
    "unsloth/gpt-oss-20b-BF16": "gpt-oss-20b",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": "smollm2-1.7b",
    "HuggingFaceTB/SmolLM3-3B-Base": "smollm3-3b",
    "tiiuae/falcon-7b-instruct": "falcon-7b",
    "codellama/CodeLlama-7b-Instruct-hf": "codellama-7b",
    "ibm-granite/granite-3.2-8b-instruct": "granite-3.1-8b",
    "deepseek-ai/deepseek-coder-6.7b-instruct": "deepseek-coder-6.7b",
    "allenai/OLMo-2-1124-7B-SFT": "olmo-2-7b",
    "allenai/OLMoE-1B-7B-0125-Instruct": "olmoe-1b-7b",
    "ibm-granite/granite-3.3-8b-base": "granite-3.3-8b",
    "EleutherAI/pythia-6.9b-deduped": "pythia-6.9b",
    "01-ai/Yi-34B-200K": "yi-34b",
    "google-bert/bert-base-uncased": "bert-base-uncased",
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": "distilbert-base-uncased",
    "Xenova/all-MiniLM-L6-v2": "all-minilm-l6-v2",
    "https://huggingface.co/Qwen/Qwen2.5-7B-Instruct/tree/main": "qwen2.5-7b",
    " google/gemma-2-9b-it ": "gemma-2-9b",
}
REFUSED = [
    "Qwen2-VL-7B",
    "Qwen/Qwen3-VL-30B-A3B-Instruct",
    "Qwen/Qwen3-Embedding-8B",
    "Qwen/Qwen3.5-9B",
    "Qwen/Qwen1.5-MoE-A2.7B",
    "Qwen/Qwen2-Audio-7B-Instruct",
    "meta-llama/Llama-3.2-11B-Vision-Instruct",
    "codellama/CodeLlama-7b-Python-hf",
    "google/gemma-3n-E4B-it",
    "google/gemma-4-31B-it",
    "google/flan-ul2",
    "google-t5/t5",
    "FacebookAI/roberta",
    "google-bert/bert-base",
    "google-bert/bert-base-multilingual-cased",
    "mistralai/Mistral-7B",
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    "microsoft/Phi-3-vision-128k-instruct",
    "microsoft/Phi-3.5-MoE-instruct",
    "microsoft/Phi-4-mini-flash-reasoning",
    "tiiuae/falcon-mamba-7b",
    "NousResearch/Hermes-2-Pro-Llama-3-8B",
    "allenai/Llama-3.1-Tulu-3-8B",
    "instruct",
    "",
    "unsloth/",
]
SUFFIXES = (
    "-Instruct", "-it", "-Chat", "-hf", "-bnb-4bit", "-unsloth-bnb-4bit", "-AWQ", "-GPTQ-Int4", "-GGUF", "-FP8", "-bf16",
    "-Instruct-2507", "-Instruct-AWQ", "-DPO", "-Q4_K_M", "-8bit", "-4-bit", "-w4a16",
)  # fmt: skip


@pytest.mark.parametrize(("name", "id_"), UNDERSTOOD.items(), ids=UNDERSTOOD)
def test_a_variant_is_read_as_the_model_whose_shape_it_has(name: str, id_: str) -> None:
    found = meaning(model_id(name))
    assert found is not None
    assert found.id == id_


@pytest.mark.parametrize(
    ("name", "talks"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", True),
        ("meta-llama/Llama-3.1-8B", False),
        ("Qwen/Qwen3-8B", True),
        ("Qwen/Qwen3-8B-Base", False),
        ("unsloth/Qwen3-8B-Base-bnb-4bit", False),
        ("HuggingFaceTB/SmolLM3-3B", True),
        ("microsoft/phi-4", True),
        ("microsoft/phi-2", False),
        ("openai/gpt-oss-20b", True),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", True),
    ],
)
def test_whether_a_model_talks_is_read_off_its_name(name: str, talks: bool) -> None:
    assert conversational(name) is talks


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_may_have_another_shape_is_not_understood(name: str) -> None:
    assert meaning(model_id(name)) is None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_word_on_tuning_or_packing_changes_the_model(suffix: str) -> None:
    for id_, model in load_models().items():
        if suffix.endswith("2507") and re.search(r"\d{4}", model.hf_id):
            continue  # another date is another release
        for name in (id_, model.name, model.hf_id.rpartition("/")[2]):
            found = meaning(model_id(f"unsloth/{name}{suffix}"))
            assert found is not None, name
            assert found.id == id_


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    found = meaning(model_id(text))
    assert found is not None or "config.json" in unknown(text)


def test_a_repository_of_plain_weights_is_what_scripts_load() -> None:
    tuned = recommend(Constraints(gpu_mem="24GB", model="Qwen/Qwen2.5-7B-Instruct"))
    assert tuned.model.repository == "Qwen/Qwen2.5-7B-Instruct"
    assert tuned.model.read_as == "Qwen/Qwen2.5-7B-Instruct is read as Qwen2.5 7B: the same architecture."
    first = tuned.ranked[0].code
    assert first.script is not None
    assert 'else "Qwen/Qwen2.5-7B-Instruct"' in first.script
    assert first.llama_factory is not None
    assert "model_name_or_path: Qwen/Qwen2.5-7B-Instruct\n" in first.llama_factory


@pytest.mark.parametrize(
    ("name", "repository", "word"),
    [
        ("unsloth/llama-3-8b-bnb-4bit", "meta-llama/Meta-Llama-3-8B", "bnb"),
        ("Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B", "awq"),
        ("bartowski/Llama-3.2-3B-Instruct-Q4_K_M", "meta-llama/Llama-3.2-3B", "Q4_K_M"),
        ("mlx-community/gemma-3-12b-it-bf16", "google/gemma-3-12b-pt", "mlx"),
    ],
)
def test_repacked_weights_are_not_what_scripts_load(name: str, repository: str, word: str) -> None:
    found = meaning(name)
    assert found is not None
    assert found.said is not None
    assert (found.repository, f"since {word} says" in found.said) == (repository, True)


def test_an_address_on_the_hub_is_its_repository() -> None:
    asked = Constraints(model="https://huggingface.co/Qwen/Qwen2.5-7B-Instruct?library=transformers")
    assert asked.model == "Qwen/Qwen2.5-7B-Instruct"
    assert Constraints(model="hf.co/meta-llama/Llama-3.1-8B").model == "llama-3.1-8b"


def test_a_variant_costs_what_its_model_costs() -> None:
    of, own = (estimate("lora", Constraints(model=name)) for name in ("google/gemma-2-9b-it", "gemma-2-9b"))
    assert of.peak == own.peak
    assert (of.model.id, of.model.read_as is None, own.model.read_as) == ("gemma-2-9b", False, None)


def test_a_variant_may_take_more_tokens_than_its_model() -> None:
    own, tuned = (
        estimate("lora", Constraints(model=name, seq=100_000)).warnings
        for name in ("qwen3-4b", "Qwen/Qwen3-4B-Instruct-2507")
    )
    assert any("tokens that the model was made for." in each for each in own)
    assert any("made for; a variant of it may take more." in each for each in tuned)


def test_models_of_the_catalogue_keep_their_own_names() -> None:
    for id_, model in load_models().items():
        assert meaning(id_) == (id_, model.hf_id, None)


@pytest.mark.parametrize(
    ("name", "near", "hint"),
    [
        ("bert-base", "bert-base-cased or bert-base-uncased; say which", "as in params=7B"),
        ("mistral-7b", "mistral-7b-v0.1 or mistral-7b-v0.3; say which", "(params=7B)"),
        ("lama-3.1-8b", "did you mean llama-3.1-8b?", "(params=8B)"),
        ("someone/qwen3-4b-of-mine", "did you mean qwen3-4b?", "(params=4B)"),
    ],
)
def test_an_unknown_model_ends_with_what_helps(name: str, near: str, hint: str) -> None:
    with pytest.raises(ConstraintError) as refused:
        recommend(Constraints(gpu_mem="24GB", model=name))
    assert near in str(refused.value)
    assert hint in str(refused.value)
    assert "config.json" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "near", "reason", "size"),
    [
        ("Qwen/Qwen3.5-9B", "qwen3-8b", "linear attention", "params=9B"),
        ("Qwen/Qwen3.6-27B-FP8", "", "linear attention", "params=27B"),
        ("Qwen/Qwen3.5-35B-A3B", "", "linear attention", None),
        ("google/gemma-4-31B-it", "gemma-3-27b", "heads of two sizes", "params=31B"),
        ("google/gemma-3n-E4B-it", "", "heads of two sizes", None),
        ("deepseek-ai/DeepSeek-V3", "", "latent attention", None),
    ],
)
def test_a_model_that_cannot_be_predicted_is_refused_with_its_reason(
    name: str, near: str, reason: str, size: str | None
) -> None:
    with pytest.raises(ConstraintError) as refused:
        recommend(Constraints(gpu_mem="24GB", model=name))
    said = str(refused.value)
    assert near in said
    assert reason in said
    assert (size in said) if size else ("params=" not in said)
    assert "config.json" not in said  # it would be refused, too


@pytest.mark.parametrize(
    ("config", "mechanism"),
    [
        ({"model_type": "qwen3_5_text", "linear_num_value_heads": 32}, "linear attention"),
        ({"model_type": "gemma4", "text_config": {"global_head_dim": 512}}, "heads of two sizes"),
    ],
)
def test_a_configuration_that_cannot_be_predicted_names_its_size_instead(
    config: dict[str, object], mechanism: str
) -> None:
    with pytest.raises(ConstraintError, match=mechanism) as refused:
        recommend(Constraints(gpu_mem="24GB", config=config))
    assert "size alone" in str(refused.value)


def test_no_size_of_a_dense_model_is_offered_for_a_mixture() -> None:
    assert "params=" not in unknown("google/gemma-4-26B-A4B-it")


def test_near_names_are_of_the_same_family_and_about_that_size() -> None:
    assert models_like("google/gemma-4-26B-A4B-it") == ("gemma-3-27b", "gemma-2-27b")
    assert models_like("zai-org/GLM-5") == ()


def test_listed_variants_have_as_many_parameters_as_their_model(tmp_path: Path) -> None:
    assert all(meaning(model_id(name)).id == id_ for name, id_ in load_variants().items())  # type: ignore[union-attr]  # all are known
    path = tmp_path / "variants.yaml"
    path.write_text(VARIANTS.read_text(encoding="utf-8").replace("7615616512", "7615616513"), encoding="utf-8")
    with pytest.raises(RecordError, match="are not those of"):
        read_variants(path, load_models())

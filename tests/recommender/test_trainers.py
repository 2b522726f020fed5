"""Configurations for LLaMA-Factory and axolotl: every key is one that the tool knows, and every value of its type."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
import yaml

from kb.records import load_methods
from recommender import Constraints, recommend
from recommender.answer import Ranked
from tests.recommender.trainer_schema import FILE, configurations

KNOWN: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))


def answered(slug: str, **constraints: object) -> Ranked:
    asked = {"model": "llama-3.1-8b", "gpu_mem": "48GB", "limit": 500, **constraints}
    answer = recommend(Constraints.model_validate(asked))
    return next(each for each in answer.ranked if each.slug == slug)


def test_every_configuration_fits_the_schema_of_its_tool() -> None:
    checked = 0
    for tool, words, text in configurations():
        content = yaml.safe_load(text)
        for key, value in content.items():
            assert key in KNOWN["fields"][tool], f"{tool} has no {key} ({words})"
            schema = KNOWN["fields"][tool][key]
            assert jsonschema_rs.is_valid(schema, value), f"{tool}: {key} cannot be {value!r} ({words})"
        checked += 1
    assert checked > 50


def test_the_schema_refuses_what_is_not_right() -> None:
    fields = KNOWN["fields"]
    assert "lora_rnk" not in fields["llamafactory"]
    assert not jsonschema_rs.is_valid(fields["llamafactory"]["finetuning_type"], "lora_xs")
    assert not jsonschema_rs.is_valid(fields["axolotl"]["lora_r"], "sixteen")


def test_versions_are_those_that_records_name() -> None:
    for method in load_methods().values():
        for library in method.code.libraries:
            if library.name in KNOWN["versions"] and library.version is not None:
                assert library.version == KNOWN["versions"][library.name], method.slug


@pytest.mark.parametrize("slug", ["lora", "qlora", "dora", "rslora", "pissa", "lora_plus", "full_fine_tuning"])
def test_both_tools_are_told_the_plan(slug: str) -> None:
    found = answered(slug, gpu_mem="180GB")
    plan, code = found.plan, found.code
    assert code.llama_factory
    assert code.axolotl
    theirs, other = yaml.safe_load(code.llama_factory), yaml.safe_load(code.axolotl)
    rate = next(each.value for each in found.hyperparameters if each.name == "learning_rate")
    assert (theirs["cutoff_len"], other["sequence_len"]) == (plan.seq, plan.seq)
    assert theirs["per_device_train_batch_size"] == other["micro_batch_size"] == plan.micro_batch
    assert theirs["gradient_accumulation_steps"] == other["gradient_accumulation_steps"] == plan.accumulation
    assert theirs["learning_rate"] == other["learning_rate"] == rate
    assert theirs["disable_gradient_checkpointing"] is not plan.checkpointing
    assert other["gradient_checkpointing"] is plan.checkpointing
    assert (theirs.get("quantization_bit") == 4) is (plan.storage == "nf4") is bool(other.get("load_in_4bit"))


def test_what_sets_a_method_apart_is_said() -> None:
    assert "use_dora: true" in str(answered("dora").code.llama_factory)
    assert "peft_use_dora: true" in str(answered("dora").code.axolotl)
    assert "loraplus_lr_ratio: 16" in str(answered("lora_plus").code.axolotl)
    assert "oft_block_size: 32" in str(answered("oft").code.llama_factory)


def test_lora_on_four_bits_is_told_as_qlora_is() -> None:
    lora, qlora = answered("lora", quantization="4bit").code, answered("qlora", quantization="4bit").code
    for tool, words in (
        ("llama_factory", ("quantization_bit", "quantization_method")),
        ("axolotl", ("adapter", "load_in_4bit")),
    ):
        one, other = (yaml.safe_load(str(getattr(code, tool))) for code in (lora, qlora))
        assert [one[word] for word in words] == [other[word] for word in words]


def test_a_card_without_bf16_trains_in_fp16() -> None:
    code = answered("lora", gpu="t4", gpu_mem="16GB", model="llama-3.2-1b").code
    for text in (str(code.llama_factory), str(code.axolotl)):
        told = yaml.safe_load(text)
        assert (told.get("fp16"), told.get("bf16")) == (True, None)
    assert "dtype=torch.float16" in str(code.script)
    assert "fp16=True" in str(code.script)
    assert "bf16" not in str(code.script)


def test_a_plan_that_a_tool_cannot_run_has_no_configuration() -> None:
    assert answered("dora", quantization="4bit").code.axolotl is None  # plain LoRA alone is known to work on four bits
    assert answered("dora", model="t5-3b").code.llama_factory is None
    assert answered("houlsby_adapter").code.llama_factory is None


@pytest.mark.parametrize(
    ("model", "template"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("Qwen/Qwen3-8B", "qwen3"),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl_nothink"),
        ("google/gemma-2-9b-it", "gemma2"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral"),
        ("microsoft/phi-4", "phi4"),
        ("NousResearch/Hermes-3-Llama-3.1-8B", "default"),  # no word of its name says that it talks
        ("cognitivecomputations/Llama-3.1-8B-Instruct-abliterated", None),  # LLaMA-Factory reads the tokenizer's
        ("meta-llama/Llama-3.1-8B", "default"),
        ("Qwen/Qwen3-8B-Base", "default"),
    ],
)
def test_llama_factory_is_told_the_template_that_the_model_talks_in(model: str, template: str | None) -> None:
    told = yaml.safe_load(str(answered("lora", model=model).code.llama_factory))
    assert told.get("template") == template


def test_axolotl_turns_rows_into_the_template_of_a_model_that_talks() -> None:
    text = str(answered("lora", model="meta-llama/Llama-3.1-8B-Instruct").code.axolotl)
    told = yaml.safe_load(text)
    assert told["chat_template"] == "tokenizer_default"
    assert [(one["type"], one["field_messages"]) for one in told["datasets"]] == [("chat_template", "messages")]
    assert '"role": "assistant"' in text


def test_axolotl_gives_a_model_that_only_continues_texts_no_template() -> None:
    text = str(answered("lora", model="meta-llama/Llama-3.1-8B").code.axolotl)
    told = yaml.safe_load(text)
    assert "chat_template" not in told
    assert told["datasets"][0]["type"]["field_output"] == "completion"
    assert '"completion"' in text


def test_a_model_that_reads_images_has_no_configuration_of_axolotl() -> None:
    code = answered("lora", model="qwen3-vl-8b").code
    assert code.axolotl is None
    assert code.llama_factory is not None

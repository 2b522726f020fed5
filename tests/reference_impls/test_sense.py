"""What stands beside a language model: it is found in every family that reads images, and methods leave it alone."""

import re

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

from recommender.modules import SENSES
from reference_impls import bitfit, full_fine_tuning, lora
from reference_impls.training.sense import aside, senses

EYES = {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4}
SIGHTED = {"qwen2_5_vl": EYES, "qwen3_vl": {**EYES, "deepstack_visual_indexes": [0]}, "gemma3": {}, "llama4": {}}


def built(family: str) -> nn.Module:
    """A model of texts and images with a decoder of one block, without values."""
    text = {
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "vocab_size": 97,
    }
    config = AutoConfig.for_model(family, text_config=text, vision_config=SIGHTED[family])
    with torch.device("meta"):
        model: nn.Module = AutoModelForImageTextToText.from_config(config)
    return model


@pytest.mark.parametrize("family", SIGHTED)
def test_scripts_name_to_peft_what_stands_beside_the_language_model_and_nothing_else(family: str) -> None:
    model = built(family)
    beside = list(senses(model))
    assert beside
    assert all(re.fullmatch(SENSES, f"{name}.layer") for name in beside)
    assert not [name for name, _ in model.named_modules() if "language_model" in name and re.fullmatch(SENSES, name)]


@pytest.mark.parametrize("family", SIGHTED)
@pytest.mark.parametrize("method", [lora, full_fine_tuning], ids=["lora", "full_fine_tuning"])
def test_a_method_that_is_put_on_beside_eyes_trains_none_of_them(family: str, method: object) -> None:
    model = built(family)
    inside = tuple(f"{name}." for name in senses(model))
    eyes = {name for name, _ in model.named_parameters() if name.startswith(inside)}
    with aside(model):
        method.attach(model)  # type: ignore[attr-defined]  # a module
    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learned
    assert not [name for name in learned if name.startswith(inside)]
    assert eyes == {name for name, _ in model.named_parameters() if name.startswith(inside)}


def test_eyes_are_back_after_a_method_has_refused() -> None:
    model = built("qwen3_vl")
    before = [name for name, _ in model.named_parameters()]
    with pytest.raises(ValueError, match="no bias"), aside(model):  # those of its eyes do not count
        bitfit.attach(model)
    assert sorted(name for name, _ in model.named_parameters()) == sorted(before)


def test_a_model_of_texts_alone_has_nothing_beside_it() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, hidden_size=32, intermediate_size=48, vocab_size=97))
    assert list(senses(model)) == []

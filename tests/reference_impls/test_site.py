"""Where layers are: the names of every family's matrices are known."""

import re
from functools import cache

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from reference_impls import _site

FAMILIES = (
    *(
        "bert",
        "bloom",
        "deberta-v2",
        "distilbert",
        "falcon",
        "gemma2",
        "gpt_neox",
        "gptj",
        "llama",
        "modernbert",
        "opt",
    ),
    *("phi", "phi3", "qwen3", "roberta", "starcoder2", "t5", "vit"),
)
DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers")


@cache
def model(family: str) -> nn.Module:
    """A model of this family, one block deep, without values."""
    config = AutoConfig.for_model(family)
    for name in DEPTHS:
        if hasattr(config, name):
            setattr(config, name, 1)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    with torch.device("meta"):
        return AutoModel.from_config(config)


@cache
def blocks(family: str) -> list[str]:
    """The names of the linear layers in the blocks of a model of this family."""
    stacks = [f"{name}." for name, module in model(family).named_modules() if isinstance(module, nn.ModuleList)]
    return [name for name, _ in _site.instances(model(family), nn.Linear) if name.startswith(tuple(stacks))]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_layers_of_the_blocks_have_known_names(family: str) -> None:
    found = blocks(family)
    assert found
    pattern = re.compile(rf"(?:.*\.)?(?:{_site.LINEAR})")
    assert [name for name in found if not pattern.fullmatch(name)] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_no_layer_is_of_two_kinds(family: str) -> None:
    kinds = (_site.ATTENTION, _site.FFN)
    for name in blocks(family):
        assert sum(re.fullmatch(rf"(?:.*\.)?(?:{kind})", name) is not None for kind in kinds) == 1, name


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_as_wide_as_the_hidden_states(family: str) -> None:
    for stack in _site.stacks(model(family)):
        assert stack.width == model(family).config.hidden_size  # also where heads have norms of their own


@pytest.mark.parametrize(("family", "norm"), [("bloom", "ln_f"), ("opt", "decoder.final_layer_norm"), ("bert", None)])
def test_norm_of_a_stack_stands_behind_its_blocks(family: str, norm: str | None) -> None:
    (stack,) = _site.stacks(model(family))
    assert (stack.norm[0] if stack.norm else None) == norm  # BLOOM has one behind its embedding too

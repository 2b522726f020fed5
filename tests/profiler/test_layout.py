"""Layouts: kinds of blocks, their numbers at a depth, and the formulas by which letters follow from a model."""

import pytest
from torch import nn
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from kb.architecture import from_config
from kb.expression import evaluate
from kb.polynomial import widths
from profiler.layout import UNIFORM, Spot, layout
from profiler.shapes import SHAPES
from reference_impls import s4
from reference_impls._site import instances
from reference_impls.pfeiffer_adapter import Bottleneck

WIDE = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 8, "num_layers": 6, "num_decoder_layers": 6}
BERT = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 4}


def test_alike_blocks_are_told_by_the_nearer_end() -> None:
    found = [[*UNIFORM.spots(6, block, 6, 0)] for block in range(6)]
    assert found == [[Spot(0)], [Spot(1)], [], [], [Spot(-3)], [Spot(-2)]]


def test_blocks_of_groups_are_told_by_the_ends_of_their_group() -> None:
    found = [[*layout("s4", SHAPES["decoder"]).spots(6, block, 6, 0)] for block in range(6)]
    assert found == [
        [Spot(0, 0), Spot(-2, 0)],  # the only block of a group is its first and its last
        [Spot(0, 1)],
        [Spot(-2, 1)],
        [Spot(0, 2)],
        [Spot(-2, 2)],
        [Spot(0, 3), Spot(-2, 3)],
    ]


@pytest.mark.parametrize("name", ["decoder", "encoder", "encoder_decoder"])
def test_formulas_say_how_many_blocks_each_group_has_at_any_depth(name: str) -> None:
    kinds = layout("s4", SHAPES[name])
    for depth in range(4, 100):
        counts = kinds.counts(depth)
        assert {letter: evaluate(kinds.formulas[letter], {"L": depth}) for letter in counts} == counts
        stacks = 2 if name == "encoder_decoder" else 1
        assert sum(map(counts.__getitem__, kinds.letters)) == stacks * depth


@pytest.mark.parametrize(
    ("model", "config", "name"),
    [
        (T5ForConditionalGeneration, T5Config(**WIDE), "encoder_decoder"),
        (BertForMaskedLM, BertConfig(**BERT), "encoder"),
    ],
    ids=["t5", "bert"],
)
def test_formulas_say_how_large_the_parts_are(model: type[nn.Module], config: T5Config | BertConfig, name: str) -> None:
    attached = s4.attach(model(config), s4.Config(budget=0.01))
    known = {**widths(from_config(config.to_dict())), "beta": 0.01}
    formulas = layout("s4", SHAPES[name]).formulas
    m, p = (evaluate(formulas[letter], known) for letter in ("m", "p"))
    bottlenecks = {one.down.out_features for _, one in instances(attached, Bottleneck)}
    prefixes = {len(one.prefix.P_k) for _, one in instances(attached, s4.OwnPrefix)}
    for found, said in ((bottlenecks, m), (prefixes, p)):  # the mean of blocks that pay for biases and others
        assert said == pytest.approx(sum(found) / len(found), abs=1)

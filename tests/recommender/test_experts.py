"""Mixtures of experts: what no storage reaches is counted, sourced and held apart from what is predicted."""

import pytest

from kb.catalogue import load_models
from recommender import Constraints, estimate, recommend
from recommender.base import BYTES

MIXTURES = [id_ for id_, model in load_models().items() if model.architecture.experts]


@pytest.mark.parametrize("model", MIXTURES)
def test_the_experts_of_a_mixture_are_counted_and_sourced(model: str) -> None:
    found = estimate("lora", Constraints(model=model)).model.mixture
    assert found is not None
    record = load_models()[model]
    assert found.parameters == record.architecture.expert_parameters
    assert 85 < found.percent < 100
    assert all(note.source.url is not None for note in found.notes)
    matrices = record.architecture.variables()["N_experts"]
    assert found.held_bytes - found.packed_bytes == pytest.approx((2 - BYTES["nf4"]) * matrices, abs=2)
    assert 0.5 * record.parameters.computed < found.packed_bytes < 0.3 * 2 * record.parameters.computed


def test_the_weights_of_a_mixture_are_what_its_plan_in_four_bits_holds() -> None:
    answer = estimate("qlora", Constraints(model="qwen3-30b-a3b"))
    assert answer.model.mixture is not None
    assert answer.peak.parts.weights == answer.model.mixture.held_bytes


@pytest.mark.parametrize(
    ("model", "memory"), [("qwen3-30b-a3b", "24GB"), ("gpt-oss-20b", "24GB"), ("mixtral-8x7b", "80GB")]
)
def test_where_nothing_fits_a_mixture_the_answer_says_that_its_experts_are_the_reason(model: str, memory: str) -> None:
    answer = recommend(Constraints(model=model, gpu_mem=memory))
    assert not answer.ranked
    assert "% of the model are experts, which stay in bf16 here" in answer.summary
    assert "LoRA among them" in answer.advice[0].text
    said = " ".join(note.text for note in answer.model.mixture.notes) if answer.model.mixture else ""
    assert "bitsandbytes packs linear layers alone" in said
    assert "an orientation from its shape" in said
    assert ("MXFP4" in said) is (model == "gpt-oss-20b")


def test_a_dense_model_has_no_experts() -> None:
    assert recommend(Constraints(model="llama-3.1-8b", gpu_mem="24GB")).model.mixture is None


def test_scripts_load_experts_that_are_published_in_four_bits_as_copies() -> None:
    own, copies = (
        recommend(Constraints(model=name, gpu_mem="80GB")).ranked[0].code.script
        for name in ("openai/gpt-oss-20b", "unsloth/gpt-oss-20b-BF16")
    )
    assert own is not None
    assert copies is not None
    assert "quantization_config=Mxfp4Config(dequantize=True)" in own
    assert "Mxfp4Config" not in copies

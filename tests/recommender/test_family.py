"""What a family adds to its shape: more where it has more norms and these train."""

import pytest

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.polynomial import at_length
from recommender import Constraints, estimate, recommend
from recommender.family import SPARE, extra
from recommender.footprint import subject


def added(model: str, normed: bool) -> float:
    """Bytes that each token of an example keeps at the start of the backward pass, beyond what the shape keeps."""
    found = extra(subject(from_config(load_models()[model].config)), run=(False, False), windowed=False, normed=normed)
    assert found is not None
    return found.parts["head backward"]["activations"].get((1, 1), 0.0)


@pytest.mark.parametrize("model", ["gemma-2-2b", "qwen3-0.6b", "olmo-2-1b"])
def test_further_norms_keep_their_inputs_only_while_they_train(model: str) -> None:
    assert added(model, normed=True) > added(model, normed=False) > 0


def test_a_family_with_the_norms_of_its_shape_keeps_the_same_either_way() -> None:
    assert added("granite-3.3-8b", normed=True) == added("granite-3.3-8b", normed=False)


@pytest.mark.parametrize("model", ["gemma-2-2b", "qwen3-0.6b"])
def test_what_a_family_adds_at_a_length_is_what_it_adds_whatever_the_length(model: str) -> None:
    found = extra(subject(from_config(load_models()[model].config)), run=(False, False), windowed=False)
    assert found is not None
    ends = found.heights(512)
    assert ends[SPARE] == pytest.approx(at_length(found.spare, 512))
    assert {phase: ends[phase] for phase in found.totals} == {
        phase: pytest.approx(at_length(powers, 512)) for phase, powers in found.totals.items()
    }


@pytest.mark.parametrize("checkpointing", ["on", "off"])
@pytest.mark.parametrize("code", [{"implementation": "ours"}, {"implementation": "peft", "autocast": "on"}])
def test_a_base_that_was_run_in_bf16_alone_is_packed_as_one_that_was_run_packed(
    checkpointing: str, code: dict[str, str]
) -> None:
    asked = {"params": "7B", "batch": 2, "quantization": "4bit", "checkpointing": checkpointing, **code}
    told = estimate("rslora", Constraints.model_validate({**asked, "targets": "all_linear", "rank": 16}))
    run = estimate("qlora", Constraints.model_validate(asked))  # the same computation, read off runs on four bits
    assert told.peak.device_bytes == pytest.approx(run.peak.device_bytes, rel=0.01)
    assert told.step_time_relative == pytest.approx(run.step_time_relative, rel=0.02)


def test_eight_bits_are_not_taken_before_four_where_their_kernels_take_a_multiple_of_the_time() -> None:
    lora = next(each for each in recommend(Constraints(gpu_mem="16GB", params="7B")).ranked if each.slug == "lora")
    eight = estimate("lora", Constraints(gpu_mem="16GB", params="7B", quantization="8bit"))
    assert lora.plan.storage == "nf4"
    assert eight.step_time_relative > 2 * lora.step_time_relative

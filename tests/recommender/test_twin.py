"""Two names for one run share plan and standing, and stand next to each other; in any other plan each has its own."""

import pytest

from recommender import Answer, Constraints, recommend
from recommender.answer import Ranked

SHARED = [
    {"params": "13B", "gpu_mem": "24GB"},
    {"model": "llama-3.1-8b", "gpu_mem": "16GB"},
    {"model": "llama-3.1-8b", "gpu_mem": "16GB", "task": "reasoning"},
    {"params": "70B", "gpu_mem": "80GB", "objective": "quality"},
    {"params": "7B", "gpu_mem": "24GB", "quantization": "4bit", "targets": "all_linear"},
]
APART = [
    {"params": "7B", "gpu_mem": "24GB"},  # LoRA's base is bf16
    {"params": "7B", "gpu_mem": "24GB", "quantization": "4bit", "objective": "memory"},  # query and value alone
]


def _pair(answer: Answer) -> tuple[Ranked, Ranked]:
    found = {each.slug: each for each in answer.ranked}
    return found["lora"], found["qlora"]


@pytest.mark.parametrize("asked", SHARED, ids=str)
def test_lora_on_four_bits_and_all_linear_layers_is_qlora(asked: dict[str, str]) -> None:
    answer = recommend(Constraints.model_validate({**asked, "limit": 500}))
    lora, qlora = _pair(answer)
    assert qlora.rank == lora.rank + 1
    assert (lora.twin and lora.twin.slug, qlora.twin and qlora.twin.slug) == ("qlora", "lora")
    for name in ("plan", "memory", "step_time_relative", "counts", "quality", "score", "criteria", "verdict"):
        assert getattr(lora, name) == getattr(qlora, name), name
    standings = {each.slug: each for each in answer.standings}
    assert (
        standings["lora"].model_copy(update={"slug": "qlora", "name": "QLoRA", "rank": qlora.rank})
        == standings["qlora"]
    )
    assert {each.slug for each in answer.ranked if each.twin is not None} == {"lora", "qlora"}


@pytest.mark.parametrize("asked", APART, ids=str)
def test_another_plan_leaves_each_with_its_own_standing(asked: dict[str, str]) -> None:
    lora, qlora = _pair(recommend(Constraints.model_validate({**asked, "limit": 500})))
    assert lora.twin is qlora.twin is None
    assert lora.quality.independent > qlora.quality.independent
    assert lora.score != qlora.score
    named = "rests on the 2 independent studies that use this name, that of LoRA on 21"
    assert any(named in reason.text for reason in qlora.reasons)


def test_the_better_founded_of_the_two_lends_its_standing() -> None:
    lora, qlora = _pair(recommend(Constraints(params="13B", gpu_mem="24GB", limit=500)))
    assert qlora.quality.independent == lora.quality.independent > 10
    assert qlora.twin is not None
    assert qlora.twin.source is not None
    assert qlora.twin.source.ref == "qlora"
    assert "Both have the plan and the standing of LoRA" in qlora.twin.text
    assert [each.name for each in qlora.hyperparameters][:2] == ["rank", "alpha"]
    assert qlora.code.run == "peft-atlas run qlora"


def test_why_not_says_that_the_other_name_is_the_answer() -> None:
    why = recommend(Constraints(params="13B", gpu_mem="24GB", why="qlora")).why
    assert why is not None
    assert why.text.startswith("QLoRA is the answer, too. LoRA with its base in NF4")
    assert why.losses == why.gains == why.admits == ()


def test_the_answer_in_short_names_both() -> None:
    assert "QLoRA is the same run" in recommend(Constraints(params="13B", gpu_mem="24GB")).summary
    assert "same run" not in recommend(Constraints(params="7B", gpu_mem="24GB")).summary

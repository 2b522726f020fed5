"""Plans store a base only as the code that runs them can."""

from typing import Any

import pytest

from kb.storages import refused
from recommender import ConstraintError, Constraints, estimate, recommend


def answered(**asked: Any) -> Any:
    return recommend(Constraints(limit=500, **asked))


@pytest.mark.parametrize("slug", ["loha", "lokr", "pissa"])
def test_no_code_is_planned_on_a_base_on_which_it_does_not_run(slug: str) -> None:
    roomy, narrow = (
        next(each.plan for each in answered(gpu_mem=size, params="7B").ranked if each.slug == slug)
        for size in ("80GB", "12GB")
    )
    assert (roomy.implementation, roomy.storage) == ("peft", "bf16")
    assert narrow.storage != "bf16"
    assert slug not in refused(narrow.storage, narrow.implementation)


def test_asking_for_what_does_not_run_is_answered_so() -> None:
    with pytest.raises(ConstraintError, match=r"LoHa works so, but its code does not run with quantization=4bit"):
        estimate("loha", Constraints(params="7B", quantization="4bit", implementation="peft"))


def test_a_family_that_is_not_packed_stays_in_bf16_and_the_answer_says_so() -> None:
    roomy, narrow = (answered(gpu_mem=size, model="falcon-7b") for size in ("24GB", "12GB"))
    assert {each.plan.storage for each in roomy.ranked} == {"bf16"}
    assert narrow.ranked == ()
    assert any("stores no layer of this family in fewer bits" in said for said in narrow.warnings)
    left = next(
        each
        for each in answered(gpu_mem="24GB", model="falcon-7b", quantization="4bit").excluded
        if each.slug == "lora"
    )
    assert left.reason == "works so, but transformers stores no layer of this family in fewer bits"


def test_what_stays_whole_of_t5_is_counted_whole() -> None:
    found = estimate("lora", Constraints(model="t5-11b", quantization="4bit"))
    kept = 48 * 1024 * 65536  # the second matrix of every feed-forward network
    packed = found.model.parameters - kept - 32128 * 1024
    assert found.peak.parts.weights == pytest.approx(2 * (kept + 32128 * 1024) + 0.5159 * packed, rel=0.01)

"""Answers that are sane on sight, and laws that hold for every question."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb.catalogue import load_gpus
from kb.records import load_methods
from recommender import Answer, ConstraintError, Constraints, estimate, recommend
from recommender.answer import Excluded

GIB = 2**30


def ask(**constraints: object) -> Answer:
    return recommend(Constraints.model_validate({"limit": 500, **constraints}))


def offered(answer: Answer) -> set[str]:
    return {item.slug for item in answer.ranked}


def barred(answer: Answer, slug: str) -> Excluded:
    return next(item for item in answer.excluded if item.slug == slug)


@pytest.fixture(scope="module")
def seven_on_24() -> Answer:
    return ask(gpu_mem="24GB", params="7B")


class TestSevenBillionOn24GB:
    def test_full_fine_tuning_is_excluded_and_says_what_it_needs(self, seven_on_24: Answer) -> None:
        full = barred(seven_on_24, "full_fine_tuning")
        assert full.code == "memory"
        assert full.needed_bytes is not None
        assert 54e9 < full.needed_bytes < 80e9  # weights, gradients and two states in bf16, and temporaries
        assert "8 bytes per parameter" in full.reason

    def test_lora_fits_in_bf16(self, seven_on_24: Answer) -> None:
        lora = next(item for item in seven_on_24.ranked if item.slug == "lora")
        assert (lora.verdict, lora.plan.storage) == ("fits", "bf16")

    def test_lora_fits_in_bf16_at_long_sequences_only_with_checkpointing(self) -> None:
        long = estimate("lora", Constraints(gpu_mem="24GB", params="7B", seq=4096, quantization="none"))
        assert (long.fits, long.plan.checkpointing) == ("fits", True)

    def test_qlora_fits_with_room(self, seven_on_24: Answer) -> None:
        qlora = next(item for item in seven_on_24.ranked if item.slug == "qlora")
        assert qlora.plan.storage == "nf4"
        alone = estimate("qlora", Constraints(gpu_mem="24GB", params="7B", batch=1))
        assert alone.peak.device_bytes < 16 * GIB

    @pytest.mark.parametrize("slug", ["fishmask", "diff_pruning", "lt_sft", "sam"])
    def test_methods_that_need_gradients_of_all_weights_are_excluded(self, seven_on_24: Answer, slug: str) -> None:
        assert barred(seven_on_24, slug).code == "memory"

    def test_bitfit_is_not_offered_for_a_model_without_biases(self, seven_on_24: Answer) -> None:
        assert "biases" in barred(seven_on_24, "bitfit").reason

    def test_every_method_is_ranked_or_excluded(self, seven_on_24: Answer) -> None:
        excluded = {item.slug for item in seven_on_24.excluded}
        assert offered(seven_on_24) | excluded == set(load_methods())
        assert not offered(seven_on_24) & excluded

    def test_reasons_carry_sources_and_cite_the_survey(self, seven_on_24: Answer) -> None:
        reasons = [reason for item in seven_on_24.ranked for reason in item.reasons]
        assert all(reason.source.title and reason.source.where for reason in reasons)
        assert any(reason.source.where.startswith("finding") for reason in reasons)


class TestSeventyBillionOn24GB:
    def test_nothing_fits_and_the_answer_says_what_would(self) -> None:
        answer = ask(gpu_mem="24GB", params="70B")
        assert answer.ranked == ()
        assert "lacks" in answer.summary
        assert {"gpu_mem", "gpus"} <= {key for change in answer.advice for key in change.query}

    def test_the_card_that_is_named_would_do(self) -> None:
        advice = ask(gpu_mem="24GB", params="70B").advice
        (size,) = {change.query["gpu_mem"] for change in advice if "gpu_mem" in change.query}
        assert ask(gpu_mem=size, params="70B").ranked

    def test_the_number_of_cards_that_is_named_would_do(self) -> None:
        advice = ask(gpu_mem="24GB", params="70B").advice
        (cards,) = {change.query["gpus"] for change in advice if "gpus" in change.query}
        assert ask(gpu_mem="24GB", params="70B", gpus=int(cards)).ranked


def test_full_tuning_is_offered_and_compared_for_a_small_model_on_a_large_card() -> None:
    answer = ask(gpu_mem="80GB", params="0.5B")
    full = next(item for item in answer.ranked if item.slug == "full_fine_tuning")
    assert full.verdict == "fits"
    assert full.step_time_relative > 1


def test_parts_add_up_to_the_allocated_bytes(seven_on_24: Answer) -> None:
    for item in seven_on_24.ranked:
        assert sum(size for _, size in item.memory.parts) == item.memory.allocated_bytes
        memory = item.memory
        assert memory.allocated_bytes <= memory.reserved_bytes <= memory.device_bytes
        assert memory.low.device_bytes < memory.device_bytes < memory.high.device_bytes


def test_weights_of_the_criteria_add_up_to_one(seven_on_24: Answer) -> None:
    for item in seven_on_24.ranked:
        assert sum(part.weight for part in item.criteria) == pytest.approx(1)
        assert item.score == pytest.approx(sum(part.value * part.weight for part in item.criteria), abs=1e-3)


def test_pareto_methods_are_not_beaten(seven_on_24: Answer) -> None:
    axes = ("quality", "memory", "speed", "storage")
    points = {i.slug: tuple(int(1000 * c.value) for c in i.criteria if c.name in axes) for i in seven_on_24.ranked}
    for slug in seven_on_24.pareto:
        better = [
            other
            for other, point in points.items()
            if point != points[slug] and all(a >= b for a, b in zip(point, points[slug], strict=True))
        ]
        assert better == []


def test_a_named_card_gives_tokens_per_second() -> None:
    assert ask(gpu="rtx-4090", params="7B").ranked[0].tokens_per_second
    assert ask(gpu_mem="24GB", params="7B").ranked[0].tokens_per_second is None


def test_the_same_question_gives_the_same_answer() -> None:
    assert ask(gpu_mem="24GB", params="7B") == ask(gpu_mem="24GB", params="7B")


def test_a_model_of_an_unknown_family_is_answered_with_what_is_doubtful_about_it() -> None:
    config = {"model_type": "newcomer", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
    config |= {"num_attention_heads": 32, "vocab_size": 32000}
    answer = ask(config=config, gpu_mem="24GB")
    assert answer.ranked
    assert any("no family known here; read like Llama" in warning for warning in answer.warnings)


@pytest.mark.parametrize(
    ("constraints", "field", "hint"),
    [
        ({"params": "7B"}, "gpu_mem", "gpu_mem=24GB"),
        ({"params": "7B", "gpu": "rtx-4900"}, "gpu", "rtx-4090"),
        ({"params": "7B", "gpu": "RTX 3060 Laptop"}, "gpu", "rtx-3060-12gb.*gpu_mem"),
        ({"params": "7B", "gpu": "A100"}, "gpu", "a100-pcie-40gb or .*a100-sxm4-80gb"),
        ({"params": "7B", "gpu": "gtx-1660"}, "gpu", "give its memory"),
        ({"model": "llama-3.1-8", "gpu_mem": "24GB"}, "model", "llama-3.1-8b"),
        ({"params": "7B", "gpu_mem": "24GB", "library": "peftt"}, "library", "peft"),
        ({"params": "7B", "gpu_mem": "24GB", "family": "aditive"}, "family", "additive"),
        ({"config": {"model_type": "llama"}, "gpu_mem": "24GB"}, "config", "hidden_size"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(constraints: dict[str, object], field: str, hint: str) -> None:
    with pytest.raises(ConstraintError, match=hint) as error:
        ask(**constraints)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("given_", "hint"), [({}, "say which model"), ({"params": "7B", "model": "llama-3.1-8b"}, "give one")]
)
def test_exactly_one_description_of_the_model_is_needed(given_: dict[str, str], hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        Constraints.model_validate({"gpu_mem": "24GB", **given_})


sizes = st.sampled_from(["0.5B", "1.5B", "3B", "7B", "13B", "34B", "70B"])
gigabytes = st.integers(4, 200)
requirements = st.fixed_dictionaries(
    {},
    optional={
        "merge": st.just("required"),
        "adapters": st.integers(2, 50),
        "backprop": st.just("avoid"),
        "library": st.just("peft"),
        "family": st.sampled_from(["additive", "selective", "reparameterization"]),
    },
)


@settings(max_examples=25, deadline=None)
@given(sizes, gigabytes, st.integers(1, 100), st.sampled_from([256, 1024, 4096]))
def test_more_memory_never_removes_a_method(size: str, memory: int, more: int, seq: int) -> None:
    small = offered(ask(params=size, gpu_mem=f"{memory}GB", seq=seq))
    assert small <= offered(ask(params=size, gpu_mem=f"{memory + more}GB", seq=seq))


@settings(max_examples=25, deadline=None)
@given(sizes, gigabytes, requirements)
def test_a_stricter_requirement_never_adds_a_method(size: str, memory: int, stricter: dict[str, object]) -> None:
    free = offered(ask(params=size, gpu_mem=f"{memory}GB"))
    assert offered(ask(params=size, gpu_mem=f"{memory}GB", **stricter)) <= free


@settings(max_examples=15, deadline=None)
@given(sizes, gigabytes)
def test_longer_sequences_never_add_a_method(size: str, memory: int) -> None:
    assert offered(ask(params=size, gpu_mem=f"{memory}GB", seq=4096)) <= offered(
        ask(params=size, gpu_mem=f"{memory}GB", seq=512)
    )


@pytest.mark.parametrize("objective", ["balanced", "quality", "memory", "speed", "storage", "serving"])
def test_an_objective_puts_its_criterion_first(objective: str) -> None:
    answer = ask(gpu_mem="24GB", params="7B", objective=objective)
    weights = {part.name: part.weight for part in answer.ranked[0].criteria}
    heaviest = {"balanced": "quality", "serving": "inference"}.get(objective, objective)
    assert max(weights, key=weights.__getitem__) == heaviest


def test_every_card_of_the_catalogue_can_be_asked_for() -> None:
    for card in load_gpus():
        assert ask(gpu=card, params="1B").card.usable_bytes > 0


def test_a_brief_answer_is_the_same_without_standings_scripts_and_configurations() -> None:
    whole, brief = (ask(gpu_mem="24GB", params="7B", limit=8, detail=detail) for detail in ("full", "brief"))
    assert whole.standings
    assert any(each.code.script for each in whole.ranked)
    left_out = {"script": None, "llama_factory": None, "axolotl": None}
    shorter = tuple(each.model_copy(update={"code": each.code.model_copy(update=left_out)}) for each in whole.ranked)
    echoed = {**whole.constraints, "detail": "brief"}
    assert brief == whole.model_copy(update={"ranked": shorter, "standings": (), "constraints": echoed})

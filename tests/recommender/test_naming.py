"""Models, cards, tasks and numbers in the words of the people who ask."""

import pytest
from pydantic import ValidationError

from kb.catalogue import load_gpus, load_models
from recommender import Constraints, estimate, recommend


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("Llama 3.1 8B", "llama-3.1-8b"),
        ("llama-3.1-8b", "llama-3.1-8b"),
        ("FacebookAI/roberta-base", "roberta-base"),
        ("Qwen2.5-7B", "qwen2.5-7b"),
    ],
)
def test_a_model_is_known_by_id_name_and_repository(name: str, id_: str) -> None:
    assert Constraints(model=name).model == id_


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("rtx4090", "rtx-4090"),
        ("4090", "rtx-4090"),
        ("Tesla T4", "t4"),
        ("A100 SXM4 80GB", "a100-sxm4-80gb"),
    ],
)
def test_a_card_is_known_by_id_and_name_with_or_without_its_maker(name: str, id_: str) -> None:
    assert Constraints(params="7B", gpu=name).gpu == id_


def test_every_model_and_card_is_known_by_its_own_names() -> None:
    for id_, model in load_models().items():
        assert {Constraints(model=each).model for each in (id_, model.name, model.hf_id)} == {id_}
    for id_, card in load_gpus().items():
        assert {Constraints(params="7B", gpu=each).gpu for each in (id_, card.name)} == {id_}


def test_a_name_that_several_cards_have_is_left_as_it_stands() -> None:
    assert Constraints(params="7B", gpu="H100").gpu == "H100"


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("classification", "understanding"),
        ("Sentiment", "understanding"),
        ("chat", "generation"),
        ("code", "generation"),
        ("maths", "reasoning"),
        ("reasoning", "reasoning"),
    ],
)
def test_a_task_is_counted_where_the_evidence_counts_it(word: str, kind: str) -> None:
    assert Constraints.model_validate({"params": "7B", "task": word}).task == kind


@pytest.mark.parametrize(
    ("text", "number"), [("16000", 16_000), ("16,000", 16_000), ("16k", 16_000), ("1.2M", 1_200_000)]
)
def test_examples_are_read_as_people_write_them(text: str, number: int) -> None:
    assert Constraints.model_validate({"params": "7B", "data": text}).data == number


@pytest.mark.parametrize("text", ["many", "1.5", "-3", "16 thousand", ""])
def test_examples_that_are_no_number_are_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="16k"):
        Constraints.model_validate({"params": "7B", "data": text})


def test_sequences_end_where_the_model_does_if_nobody_said_how_long_they_are() -> None:
    short = estimate("lora", Constraints(model="roberta-base"))
    assert short.plan.seq == short.constraints["seq"] == 512
    assert not any("longer" in warning for warning in short.warnings)
    assert estimate("lora", Constraints(model="llama-3.1-8b")).plan.seq == 1024
    assert estimate("lora", Constraints(model="roberta-base", seq=64)).plan.seq == 64


def test_no_longer_sequences_are_proposed_than_the_model_takes() -> None:
    first = recommend(Constraints(model="roberta-base", gpu_mem="24GB", seq=64)).ranked[0]
    longer = [change for change in first.changes if "seq" in change.query and int(change.query["seq"]) > 64]
    assert [change.query["seq"] for change in longer] == ["512"]


def test_our_command_for_own_data_does_what_a_plan_of_ours_says_or_runs_in_fp32_where_that_fits() -> None:
    known = {"model": "roberta-base", "data": 800, "epochs": 2.0}
    answer = recommend(Constraints(gpu_mem="24GB", limit=500, **known))  # type: ignore[arg-type]  # fields by name
    adapter = next(each for each in answer.ranked if each.slug == "pfeiffer_adapter")
    assert adapter.code.own is not None
    assert "--model FacebookAI/roberta-base --data train.jsonl" in adapter.code.own
    assert "--batch 8 --dtype bf16 --longest 512 --steps 200" in adapter.code.own
    theirs = next(each for each in answer.ranked if each.plan.implementation == "peft" and each.code.own)
    assert "--dtype" not in str(theirs.code.own)
    for size, storage in (("24GB", "bf16"), ("12GB", "nf4")):
        narrow = recommend(Constraints(gpu_mem=size, params="7B", limit=500)).ranked
        assert all((each.code.own is None) == (each.plan.implementation == "peft") for each in narrow)
        own = {
            str(each.code.own) for each in narrow if (each.plan.implementation, each.plan.storage) == ("ours", storage)
        }
        assert own
        assert all("--dtype bf16" in line and ("--quantization 4bit" in line) == (storage == "nf4") for line in own)


def test_the_whole_run_has_a_time_where_card_examples_and_epochs_are_known() -> None:
    known = {"model": "llama-3.1-8b", "gpu": "rtx-4090", "data": 16_000}
    timed = recommend(Constraints(epochs=3, **known)).ranked[0]  # type: ignore[arg-type]  # fields by name
    assert timed.run_seconds is not None
    assert timed.tokens_per_second is not None
    assert timed.run_seconds == pytest.approx(16_000 * 3 * 1024 / timed.tokens_per_second, rel=0.01)
    assert recommend(Constraints(**known)).ranked[0].run_seconds is None  # type: ignore[arg-type]  # fields by name

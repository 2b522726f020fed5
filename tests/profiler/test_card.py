"""Predictions beside a card's measurements: which turns count, what is compared, and what is said while nothing is there."""

from types import SimpleNamespace
from typing import Any

import pytest

from kb.measurement import Fit, Machine, Setting, Step
from profiler.validation.card import NOTHING, card_of, make, predicted, runs, table

CARD = Machine(gpu="NVIDIA H100 80GB HBM3", memory_bytes=80, driver="1", cuda="13", versions={}, commit="abc")
SETTING = Setting(model="llama-3.2-1b", batch=4, seq=768)


def step(turn: int, allocated: int, seconds: float, **further: Any) -> Step:
    values: dict[str, Any] = {"implementation": "ours", "setting": SETTING, "outcome": "measured", **further}
    return Step(
        at=f"2026-01-01T00:00:0{turn}Z",
        machine=CARD,
        slug="lora",
        turn=turn,
        allocated_bytes=allocated,
        reserved_bytes=2 * allocated,
        seconds=(seconds, seconds),
        **values,
    )


ROWS = [
    step(1, 100, 1.0),
    step(3, 110, 2.0),
    step(2, 220, 3.0, implementation="peft"),
    step(4, 200, 1.0, implementation="peft"),
    step(5, 999, 9.0, outcome="failed"),
    step(6, 999, 9.0, setting=SETTING.model_copy(update={"small": True})),
    Fit(
        at="2026-01-01T00:00:09Z",
        machine=CARD,
        slug="qlora",
        setting=SETTING,
        limit_gb=24,
        predicted_bytes=1,
        predicted=True,
        fitted=True,
    ),
]


def report(run: Any) -> Any:
    return SimpleNamespace(
        allocated_bytes=111, reserved_bytes=220, flops=10**12, flops_fp32=0, bytes_moved=10**9, kernels=100
    )


def test_highest_peak_and_median_time_of_the_turns_count() -> None:
    card = make(report, ROWS)
    assert card is not None
    by = {row.implementation: row for row in card.compared}
    assert by["ours"].allocated_bytes == 110
    assert by["ours"].step_seconds == 1.5
    assert by["ours"].errors()["allocated"] == pytest.approx(111 / 110 - 1)
    assert by["peft"].allocated_bytes == 220


def test_failed_runs_and_small_models_are_no_measurement() -> None:
    assert {run[2].small for run in runs(row for row in ROWS if isinstance(row, Step))} == {False}
    assert sum(len(turns) for turns in runs(row for row in ROWS if isinstance(row, Step)).values()) == 4


def test_ours_is_a_share_of_pefts() -> None:
    card = make(report, ROWS)
    assert card is not None
    assert [(row.memory, row.time) for row in card.beside] == [(0.5, 0.75)]
    assert card.goals()["allocated"].rows == 2
    assert "memory 0.500×, time 0.750× of PEFT's" in table(card)
    assert "qlora, 24 GB" in table(card)


def test_run_that_cannot_be_predicted_says_why() -> None:
    def refuse(run: Any) -> Any:
        raise ValueError("reads values")

    card = make(refuse, ROWS)
    assert card is not None
    assert {row.reason for row in card.compared} == {"reads values"}
    assert card.goals() == {}
    assert "not predicted: reads values" in table(card)


def test_nothing_measured_is_said_and_makes_no_file() -> None:
    assert make(report, []) is None
    assert table(None) == NOTHING


def test_prediction_is_a_dry_run_of_the_same_setting() -> None:
    small = SETTING.model_copy(update={"small": True, "batch": 2, "seq": 16})
    once, twice = (
        predicted((str(CARD.gpu), "lora", small.model_copy(update={"batch": batch}), "ours")) for batch in (2, 4)
    )
    assert once.trainable == twice.trainable == 7168
    assert once.allocated_bytes < twice.allocated_bytes


def test_card_is_known_by_the_words_of_its_name() -> None:
    assert card_of("a card that nobody knows") is None
    found = card_of("NVIDIA L40S")
    assert found is None or "L40S" in found.name

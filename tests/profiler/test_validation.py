"""The profiler against published runs: a sample is run again and must give the committed report."""

from __future__ import annotations

import json

import pytest

from kb.loader import KB
from kb.speed import Efficiency, efficiency, step_seconds
from profiler.validation import language, speed
from profiler.validation.coverage import coverage, quantile
from profiler.validation.outcome import Outcome, summary
from profiler.validation.published import IMAGE, LANGUAGE, published_runs
from profiler.validation.report import LANGUAGE_MEMORY, STEP_TIME, Report

# Quick ones, of several kinds; the last reads values while it is set up.
SAMPLE = (
    "lora/llama-3.2-3B-rank32",
    "miss/llama-3.2-3B-default",
    "full-finetuning/llama-3.2-3B-lr_0.00001",
    "shira/llama-3.2-3B-lr_0.0003-random_seed_42",
)
RUNS = {one.name: one for task in (LANGUAGE, IMAGE) for one in published_runs(task)}


@pytest.fixture(scope="module")
def report() -> Report:
    return Report.model_validate(json.loads((KB / "validation" / "report.json").read_text()))


def _row(report: Report, target: str, name: str) -> Outcome:
    return next(one for one in report.rows if (one.target, one.name) == (target, name))


@pytest.mark.parametrize("name", SAMPLE)
def test_committed_memory_is_what_a_run_gives(report: Report, name: str) -> None:
    again = language.memory(RUNS[name])
    assert again["reserved"] == pytest.approx(_row(report, LANGUAGE_MEMORY, name).predicted, rel=1e-3)
    assert again["trainable"] == RUNS[name].trainable


@pytest.mark.parametrize("name", ["lora/llama-3.2-3B-rank32", "full-finetuning/llama-3.2-3B-lr_0.00001"])
def test_committed_time_is_what_the_work_and_the_constants_give(report: Report, name: str) -> None:
    again = speed.predicted(language.work(RUNS[name]), efficiency())
    assert again == pytest.approx(_row(report, STEP_TIME, name).predicted, rel=2e-2)


# Their blocks ask for values when they are computed again in the backward pass, which a dry run cannot answer yet.
NOT_RUN = {"vblora/flux2-klein-default", "waveft/flux2-klein-default"}


def test_every_published_run_that_can_be_run_is_in_the_report(report: Report) -> None:
    shown = {(one.target, one.name) for one in report.rows}
    assert {name for target, name in shown if target != STEP_TIME} == set(RUNS) - NOT_RUN
    assert {name for target, name in shown if target == STEP_TIME} == {one.name for one in published_runs(LANGUAGE)}


def test_figures_are_those_of_the_rows_that_nothing_was_fitted_on(report: Report) -> None:
    for target, goal in report.goals.items():
        assert goal.reached == summary(one for one in report.rows if one.target == target)


def test_memory_targets_are_met(report: Report) -> None:
    assert report.goals[LANGUAGE_MEMORY].met
    assert report.goals["image-memory"].met


def test_misses_are_explained(report: Report) -> None:
    silent = [one.name for one in report.rows if one.unit == "bytes" and abs(one.error) > 0.03 and not one.note]
    assert not silent


def test_range_holds_the_wanted_share(report: Report) -> None:
    rows = [one for one in report.rows if one.unit == "bytes"]
    assert report.range == coverage(rows)
    assert 0.85 <= report.range.covered <= 0.97


def test_conformal_quantile_is_the_next_larger_value() -> None:
    assert quantile([3, 1, 2, 4, 5, 6, 7, 8, 9], 0.9) == 9
    assert quantile(range(1, 20), 0.9) == 18
    assert quantile([1.0], 0.95) == 1.0


def test_fitting_finds_the_constants_that_made_the_times() -> None:
    known = Efficiency(
        tensor=0.5, fp32=0.4, bandwidth=1.2, optimizer=speed.STREAMED, launch_seconds=0.0, card="l40s", source="made up"
    )
    works = {
        f"run-{at:02d}": {
            "flops": 1e13 * (1 + at % 5),
            "flops_fp32": 1e11 * (1 + at % 7),
            "bytes_moved": 5e10 * (1 + at % 4),
            "bytes_optimizer": 1e9 * (1 + at % 3),
            "kernels": 10.0,
        }
        for at in range(60)
    }
    found = speed.fit(works, {name: speed.predicted(work, known) for name, work in works.items()})
    assert found.tensor == pytest.approx(0.5, rel=0.01)
    assert found.fp32 == pytest.approx(0.4, rel=0.01)
    assert found.bandwidth == pytest.approx(1.2, rel=0.01)


def test_a_step_lasts_as_long_as_its_launches_when_the_card_is_faster() -> None:
    made = Efficiency(tensor=1, fp32=1, bandwidth=1, optimizer=0.5, launch_seconds=1e-5, card="x", source="made up")
    rates = {"tensor_tflops": 100.0, "fp32_tflops": 10.0, "bandwidth_gbs": 1000.0}
    assert step_seconds(1e12, 0, 5000, reached=made, **rates) == pytest.approx(0.05)
    assert step_seconds(1e13, 0, 5000, reached=made, **rates) == pytest.approx(0.1)
    assert step_seconds(1e13, 0, 0, flops_fp32=1e13, reached=made, **rates) == pytest.approx(1.0)
    assert step_seconds(0, 3e9, 0, bytes_optimizer=1e9, reached=made, **rates) == pytest.approx(0.004)

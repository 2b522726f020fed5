"""The profiler against published runs: a sample is run again and must give the committed report."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kb.loader import KB
from kb.speed import Efficiency, efficiency, step_seconds
from profiler.validation import frameworks, job, language, speed
from profiler.validation.cache import Cache
from profiler.validation.coverage import coverage, quantile
from profiler.validation.goals import FRAMEWORK_MEMORY, IMAGE_MEMORY, LANGUAGE_MEMORY, STEP_TIME
from profiler.validation.litgpt import Gpt, Setup
from profiler.validation.outcome import Outcome, summary
from profiler.validation.published import IMAGE, LANGUAGE, adapted, published_runs
from profiler.validation.report import Report

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


@pytest.mark.parametrize("name", ["litgpt/phi-1.5/lora/nf4/1x1044"])
def test_committed_memory_of_a_framework_is_what_a_run_gives(report: Report, name: str) -> None:
    run = next(one for one in frameworks.framework_runs() if one.name == name)
    assert frameworks.memory(run)["allocated"] == pytest.approx(
        _row(report, FRAMEWORK_MEMORY, name).predicted, rel=1e-3
    )


def test_every_published_run_is_in_the_report(report: Report) -> None:
    shown = {(one.target, one.name) for one in report.rows}
    assert {name for target, name in shown if target in (LANGUAGE_MEMORY, IMAGE_MEMORY)} == set(RUNS)
    assert {name for target, name in shown if target == STEP_TIME} == {one.name for one in published_runs(LANGUAGE)}
    assert {name for target, name in shown if target == FRAMEWORK_MEMORY} == {
        one.name for one in frameworks.framework_runs()
    }


def test_figures_are_those_of_the_rows_that_nothing_was_fitted_on(report: Report) -> None:
    for target, goal in report.goals.items():
        assert goal.reached == summary(one for one in report.rows if one.target == target)


def test_targets_are_met(report: Report) -> None:
    assert all(goal.met for goal in report.goals.values())


def test_misses_are_explained(report: Report) -> None:
    far = {LANGUAGE_MEMORY: 0.03, IMAGE_MEMORY: 0.03, FRAMEWORK_MEMORY: 0.1, STEP_TIME: 0.15}
    assert not [one.name for one in report.rows if abs(one.error) > far[one.target] and not one.note]


def test_range_holds_the_wanted_share(report: Report) -> None:
    rows = [one for one in report.rows if one.target in (LANGUAGE_MEMORY, IMAGE_MEMORY)]
    assert report.range == coverage(rows)
    assert 0.85 <= report.range.covered <= 0.97


def test_conformal_quantile_is_the_next_larger_value() -> None:
    assert quantile([3, 1, 2, 4, 5, 6, 7, 8, 9], 0.9) == 9
    assert quantile(range(1, 20), 0.9) == 18
    assert quantile([1.0], 0.95) == 1.0


def test_fitting_finds_the_constants_that_made_the_times() -> None:
    known = Efficiency(
        tensor=0.5,
        fp32=0.4,
        bandwidth=1.2,
        optimizer=speed.STREAMED,
        kernel_seconds=speed.SHORTEST,
        solver_seconds=5e-6,
        host_gbs=12.0,
        launch_seconds=0.0,
        card="l40s",
        source="made up",
    )
    works = {
        f"run-{at:02d}": {
            "flops": 1e13 * (1 + at % 5),
            "flops_fp32": 1e11 * (1 + at % 7),
            "bytes_moved": 5e10 * (1 + at % 4),
            "bytes_optimizer": 1e9 * (1 + at % 3),
            "kernels": 10.0,
            "kernels_inside": 5.0 * (at % 2),
            "solver_steps": 1e4 * (at % 11),
            "bytes_host": 1e9 * (at % 13),
        }
        for at in range(60)
    }
    found = speed.fit(works, {name: speed.predicted(work, known) for name, work in works.items()})
    assert found.tensor == pytest.approx(0.5, rel=0.01)
    assert found.fp32 == pytest.approx(0.4, rel=0.01)
    assert found.bandwidth == pytest.approx(1.2, rel=0.01)
    assert found.solver_seconds == pytest.approx(5e-6, rel=0.01)
    assert found.host_gbs == pytest.approx(12.0, rel=0.01)


def test_a_step_lasts_as_long_as_its_launches_when_the_card_is_faster() -> None:
    made = Efficiency(
        tensor=1,
        fp32=1,
        bandwidth=1,
        optimizer=0.5,
        kernel_seconds=0,
        solver_seconds=1e-6,
        host_gbs=10,
        launch_seconds=1e-5,
        card="x",
        source="made up",
    )
    rates = {"tensor_tflops": 100.0, "fp32_tflops": 10.0, "bandwidth_gbs": 1000.0}
    assert step_seconds(1e12, 0, 5000, reached=made, **rates) == pytest.approx(0.05)
    assert step_seconds(1e13, 0, 5000, reached=made, **rates) == pytest.approx(0.1)
    assert step_seconds(1e13, 0, 0, flops_fp32=1e13, reached=made, **rates) == pytest.approx(1.0)
    assert step_seconds(0, 3e9, 0, bytes_optimizer=1e9, reached=made, **rates) == pytest.approx(0.004)
    assert step_seconds(0, 0, 0, solver_steps=1000, reached=made, **rates) == pytest.approx(0.001)
    assert step_seconds(1e12, 0, 5000, bytes_host=1e9, reached=made, **rates) == pytest.approx(0.15)  # both wait


def test_every_published_row_of_a_framework_is_compared_or_left_out_for_a_reason() -> None:
    compared, left = frameworks.framework_runs(), frameworks.left_out()
    assert len(compared) + sum(left.values()) == 358
    assert {one.framework for one in compared} == {"litgpt", "torchtune"}
    assert all(one.measured > 10**9 and one.url.startswith("https://") for one in compared)
    assert all(one.framework == "torchtune" or one.model in frameworks.SIZES for one in compared)
    assert {one.setup.method for one in compared} <= {"lora", "adapter", "adapter_v2", "full"}
    assert {one.setup.storage for one in compared} == {"bf16", "nf4", "nf4-dq"}


@pytest.mark.parametrize(
    ("model", "setup", "trainable"),
    [
        ("phi-1.5", Setup(), 1_572_864),
        ("StableLM Alpha 3B", Setup(), 2_097_152),
        ("Llama-2-7B", Setup(), 4_194_304),
        ("Llama-2-13B", Setup(), 6_553_600),
        ("Llama-2-7B", Setup("adapter"), 1_229_760),
        ("StableLM Alpha 3B", Setup("adapter"), 573_888),
        ("Llama-2-7B", Setup("adapter_v2"), 4_279_744),
        ("StableLM Alpha 3B", Setup("adapter_v2"), 2_125_248),
    ],
)
def test_litgpt_trains_as_many_parameters_as_it_published(model: str, setup: Setup, trainable: int) -> None:
    with torch.device("meta"):
        built = Gpt(frameworks.SIZES[model], setup)
    assert sum(one.numel() for one in built.parameters() if one.requires_grad) == trainable


def test_the_card_that_is_named_holds_the_prediction() -> None:
    card = frameworks.card_named(20e9)
    assert card is not None
    assert card.id == "rtx-4090"
    run = frameworks.framework_runs()[0]
    assert not frameworks.too_small(replace(run, measured=20 * 10**9), 20e9)
    assert frameworks.too_small(replace(run, measured=30 * 10**9), 20e9)
    assert frameworks.card_named(1e15) is None


@pytest.mark.parametrize(("terminal", "begins", "ends"), [(True, "\r[", "\n"), (False, "  1/2 memory/one\n", "\n")])
def test_progress_is_drawn_over_itself_on_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, begins: str, ends: str
) -> None:
    made = [job.Job(LANGUAGE_MEMORY, f"memory/{name}", name, lambda: {"reserved": 1.0}) for name in ("one", "two")]
    monkeypatch.setattr(job, "jobs", lambda: tuple(made))
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    assert job.run(Cache(tmp_path / "rows.json"), out, [LANGUAGE_MEMORY]) == []
    said = out.getvalue()
    assert said.startswith(begins)
    assert said.endswith(ends)
    assert said.count("\n") == (1 if terminal else 2)
    assert said.count("\r") == (2 if terminal else 0)


def test_attaching_a_method_of_peft_draws_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    published = next(run for run in published_runs(LANGUAGE) if run.peft_type == "FROD")
    tiny = LlamaConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=16)
    with warnings.catch_warnings(action="ignore"):
        adapted(LlamaForCausalLM(tiny), published)
    assert "FRoD" not in capfd.readouterr().err

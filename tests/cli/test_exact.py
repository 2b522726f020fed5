"""``peft-atlas estimate``: the dry run behind ``--exact``, its drawing, and the exit status that a job can be gated on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli import course, exact
from cli.main import app
from kb.catalogue import load_models
from kb.device import ANY
from profiler import profiles
from profiler.dry_run import dry_run
from profiler.settings import Settings
from recommender import Estimate

MODEL = ["--model", "smollm2-135m", "--batch", "2", "--seq", "64"]
SETTINGS = Settings(batch=2, seq=64)


def _invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "160", "NO_COLOR": "1", "TERM": "dumb"})


def _exact(*words: str, slug: str = "lora") -> Estimate:
    result = _invoke("estimate", slug, "--exact", *MODEL, *words, "--json")
    assert result.exit_code == 0, result.stderr
    return Estimate.model_validate_json(result.stdout)


@pytest.fixture(scope="module")
def plain() -> Estimate:
    """LoRA in our implementation, as it is advised."""
    return _exact("--implementation", "ours")


@pytest.mark.parametrize("implementation", ["ours", "peft"])
def test_json_is_an_estimate_with_the_numbers_of_the_dry_run(implementation: Any) -> None:
    answer = _exact("--implementation", implementation)
    want = dry_run(
        load_models()["smollm2-135m"].config,
        "lora",
        SETTINGS,
        implementation,
        exact._fields("lora", implementation, None, ()),
    )
    assert (answer.peak.basis, answer.plan.implementation) == ("dry_run", implementation)
    assert answer.peak.parts.model_dump() == want.parts
    assert (answer.peak.allocated_bytes, answer.peak.reserved_bytes) == (want.allocated_bytes, want.reserved_bytes)
    assert answer.peak.moment == want.moment
    assert (answer.flops, answer.bytes_moved, answer.kernels) == (want.flops, want.bytes_moved, want.kernels)
    assert answer.counts.trainable == want.trainable


def test_the_published_run_is_predicted() -> None:
    words = "--model llama-3.2-3b --batch 4 --seq 768 --rank 32 --targets q_proj,v_proj --implementation peft"
    result = _invoke("estimate", "lora", *words.split(), "--exact", "--json")
    assert result.exit_code == 0, result.stderr
    found = Estimate.model_validate_json(result.stdout)
    assert found.peak.basis == "dry_run"
    assert found.peak.reserved_bytes == pytest.approx(20.76 * 2**30, rel=0.015)


def test_ends_of_the_range_enclose_the_prediction(plain: Estimate) -> None:
    for name in ("allocated_bytes", "reserved_bytes", "device_bytes"):
        low, middle, high = (getattr(each, name) for each in (plain.peak.low, plain.peak, plain.peak.high))
        assert 0 < low < middle < high
    assert plain.peak.allocated_bytes <= plain.peak.reserved_bytes < plain.peak.device_bytes


@pytest.mark.parametrize(
    ("words", "part", "factor"),
    [
        (["--rank", "32"], "adapter", (2, 2)),  # rank 16 is advised
        (["--targets", "q_proj,k_proj,v_proj,o_proj"], "adapter", (1.5, 3)),
        (["--quantization", "4bit"], "weights", (0.3, 0.8)),
        (["--quantization", "8bit"], "weights", (0.5, 0.9)),
        (["--checkpointing", "true"], "activations", (0.05, 0.6)),
        (["--optimizer", "sgd"], "optimizer", (0, 0)),
        (["--head-chunks", "4"], "logits", (0.1, 0.6)),
        (["--implementation", "peft"], "adapter", (2, 2)),  # fp32 instead of bf16
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_every_knob_reaches_the_run(plain: Estimate, words: list[str], part: str, factor: tuple[float, float]) -> None:
    implementation = [] if "--implementation" in words else ["--implementation", "ours"]
    changed = _exact(*implementation, *words)
    share = getattr(changed.peak.parts, part) / getattr(plain.peak.parts, part)
    assert factor[0] * 0.99 <= share <= factor[1] * 1.01


def test_products_by_autocast_take_less_where_nothing_is_recomputed() -> None:
    words = ["--implementation", "peft", "--targets", "all_linear", "--checkpointing", "false"]
    plain, cast = _exact(*words), _exact(*words, "--autocast", "on")
    assert cast.peak.parts.activations < 0.9 * plain.peak.parts.activations
    assert any("products in bf16 by autocast" in said for said in cast.assumptions)


def test_a_table_names_parts_quantities_moment_and_basis() -> None:
    result = _invoke("estimate", "lora", "--exact", *MODEL, "--gpu", "rtx-4090")
    assert result.exit_code == 0, result.output
    for word in ("weights", "activations", "allocated", "reserved", "device", "The peak is", "Basis: dry run", "s per"):
        assert word in " ".join(result.stdout.split())


def test_a_model_without_a_closed_form_is_run_as_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_closed", lambda slug, constraints: None)
    answer = _exact("--quantization", "4bit", "--checkpointing", "on")
    assert (answer.plan.storage, answer.plan.checkpointing, answer.plan.micro_batch) == ("nf4", True, 2)
    assert any("no closed form" in each for each in answer.warnings)


def test_gradients_of_earlier_micro_batches_count(plain: Estimate) -> None:
    report = dry_run(load_models()["smollm2-135m"].config, "lora", SETTINGS)
    once, _ = exact._memory(report, plain.plan, ANY)
    twice, doubts = exact._memory(report, plain.plan.model_copy(update={"accumulation": 2}), ANY)
    carried = 2 * report.trainable - report.parts["gradients"]  # bf16
    assert twice.allocated_bytes - once.allocated_bytes == carried > 0
    assert any("micro-batch" in each for each in doubts)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["estimate", "lora", "--exact", *MODEL, "--merge", "required"], "does not read --merge"),
        (["estimate", "lora", "--exact", *MODEL, "--task", "vision"], "does not read --task"),
        (["estimate", "lora", "--exact", *MODEL, "--targets", "q_prj"], "did you mean q_proj"),
        (["estimate", "ia3", "--exact", *MODEL, "--rank", "4"], "has no rank"),
        (
            ["estimate", "full_fine_tuning", "--exact", *MODEL, "--quantization", "4bit"],
            "does not work on a base stored",
        ),
        (["estimate", "bitfit", "--exact", "--model", "bert-base-uncased", "--seq", "600"], "at most 512 tokens"),
        (["estimate", "prompt_tuning", "--exact", "--model", "vit-base-patch16-224"], "does not run on such a model"),
        (["estimate", "lora", *MODEL, "--plot", "x.svg"], "give --exact too"),
        (["estimate", "lora", "--exact", "--model", "lama-3.1-8b"], "did you mean llama-3.1-8b"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_it_does_not_do_is_refused_by_name(words: list[str], says: str) -> None:
    result = _invoke(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in " ".join(result.stderr.split())


def test_a_method_without_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "_closed", lambda slug, constraints: None)
    monkeypatch.setattr(profiles, "implementations", lambda method: ())
    result = _invoke("estimate", "lora", "--exact", *MODEL)
    assert result.exit_code == 2
    assert "neither this project nor PEFT" in " ".join(result.stderr.split())


# Exit status


@pytest.mark.parametrize("way", [[], ["--exact"]], ids=["closed form", "dry run"])
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(("card", "code"), [([], 0), (["--gpu", "rtx-4090"], 0), (["--gpu-mem", "600MB"], 1)])
def test_the_exit_status_says_whether_it_fits(way: list[str], form: list[str], card: list[str], code: int) -> None:
    result = _invoke("estimate", "lora", *way, *MODEL, *card, *form)
    assert result.exit_code == code, result.output
    if form:
        fits = Estimate.model_validate_json(result.stdout).fits
        assert fits == (None if not card else "too_large" if code else "fits")


def test_tight_counts_as_fitting(plain: Estimate) -> None:
    between = (plain.peak.device_bytes + plain.peak.high.device_bytes) // 2 // 2**20
    words = ["--implementation", "ours", "--quantization", "none", "--checkpointing", "off", "--gpu-mem"]
    result = _invoke("estimate", "lora", "--exact", *MODEL, *words, f"{between}MiB", "--json")
    answer = Estimate.model_validate_json(result.stdout)
    assert (answer.fits, answer.missing_bytes, result.exit_code) == ("tight", None, 0)


def test_bad_input_ends_with_two() -> None:
    assert _invoke("estimate", "lora", *MODEL, "--gpu", "rtx-4091").exit_code == 2
    assert _invoke("estimate", "lora", *MODEL, "--rank", "0").exit_code == 2


def test_the_exit_status_is_documented() -> None:
    said = " ".join(_invoke("estimate", "--help").stdout.split())
    assert "0 if it fits or is tight" in said
    assert "1 if it is too large" in said


# The drawing


def test_the_drawing_shows_phases_parts_and_the_peak(tmp_path: Path) -> None:
    path = tmp_path / "step.svg"
    result = _invoke("estimate", "lora", "--exact", *MODEL, "--plot", str(path))
    assert result.exit_code == 0, result.output
    root = ElementTree.parse(path).getroot()
    text = " ".join(root.itertext())
    assert "One training step of LoRA on SmolLM2" in text
    for word in ("forward", "backward", "weights", "activations", "logits", "2 × 64 tokens"):
        assert word in text
    space = {"svg": "http://www.w3.org/2000/svg"}
    height = float(root.attrib["viewBox"].split()[3])
    for area in root.findall("svg:path", space):
        heights = [float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", area.attrib["d"])]
        assert 0 <= min(heights) <= max(heights) < height


def test_a_drawing_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    result = _invoke("estimate", "lora", "--exact", *MODEL, "--plot", str(tmp_path / "no" / "step.svg"))
    assert result.exit_code == 1
    assert "cannot be written" in " ".join(result.stderr.split())


def test_samples_keep_the_peak_and_the_order_of_phases() -> None:
    report = dry_run(load_models()["smollm2-135m"].config, "lora", SETTINGS)
    found = course.sampled(report, "smollm2-135m", "a test")
    assert found.samples <= course.SAMPLES
    parts = len(found.mebibytes)
    assert abs(found.totals()[found.peak] - report.allocated_bytes / 2**20) <= parts / 2 + 1
    assert max(found.totals()) - found.totals()[found.peak] <= parts
    order = [name for name, _ in found.phases]
    assert order[0] == "forward"
    assert order.index("forward") < order.index("backward") < order.index("optimizer")

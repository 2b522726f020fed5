"""All rows together: run, put into a table, and written to ``kb/validation/``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, ConfigDict, Field

from kb.files import put
from kb.loader import KB
from kb.speed import Efficiency
from profiler.validation import image, language, speed
from profiler.validation.cache import Cache, code_version, versions
from profiler.validation.coverage import Range, coverage
from profiler.validation.outcome import Outcome, Summary, summary
from profiler.validation.published import IMAGE, LANGUAGE, PublishedRun, published_runs

FOLDER = KB / "validation"
GENERATOR = "python -m profiler.validation"
RESERVED = "maximum of reserved bytes (torch.cuda.max_memory_reserved)"
LANGUAGE_MEMORY, IMAGE_MEMORY, STEP_TIME = "language-memory", "image-memory", "step-time"
# What was missed by more than 3 % of memory or 15 % of time, and what the run did.
_EVALUATED = (
    "Probably the evaluation in between, which the published maximum includes: the prefix of its 50 examples is one block of "
    "2.1 GiB."
)
_FRAGMENTS = "The replayed allocator holds 0.3 GiB more than the run's; where it differs is not known."
_COPIED = "What is made from the base weights lies in the computer's memory and is copied to the card in every step."
_SOLVED = "The library that decomposes matrices or solves equations works in many small steps; they are not counted."
_TRANSFORMED = "The work of Fourier or wavelet transforms is not counted."
WHY = {
    "memory/prefixtuning/llama-3.2-3B-lr_0.001": _EVALUATED,
    "memory/prefixtuning/llama-3.2-3B-lr_0.005_zero_init": _EVALUATED,
    "memory/fourierft/flux2-klein-default": "The workspace of the Fourier transform on the card is not counted.",
    "memory/adalora/flux2-klein-default": "Not explained.",
    "memory/frod/flux2-klein-default": "Not explained.",
    "memory/ia3/flux2-klein-default": _FRAGMENTS,
    "memory/ln_tuning/flux2-klein-default": _FRAGMENTS,
    "memory/oft/flux2-klein-default": _FRAGMENTS,
    "memory/hra/flux2-klein-default": "The run took what the card had left.",
    "time/boft/llama-3.2-3B-default": _COPIED,
    "time/frod/llama-3.2-3B-default": _COPIED,
    "time/frod/llama-3.2-3B-sparse0.02-lr_0.001": _COPIED,
    "time/lora/llama-3.2-3B-rank32-lorafa": _SOLVED,
    "time/psoft/llama-3.2-3B-default": _SOLVED,
    "time/oft/llama-3.2-3B-rank32": _SOLVED,
    "time/c3a/llama-3.2-3B-default": _TRANSFORMED,
    "time/fourierft/llama-3.2-3B-default": _TRANSFORMED,
    "time/fourierft/llama-3.2-3B-n_frequency-5000": _TRANSFORMED,
    "time/waveft/llama-3.2-3B-n_frequency-5000": _TRANSFORMED,
    "time/adalora/llama-3.2-3B-rank32": "AdaLoRA's account of what matters, after each step, is not in the time.",
}


class Goal(BaseModel):
    """One target: what was asked for and what was reached."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(description="what is compared")
    quantity: str = Field(description="what was measured")
    asked: str = Field(description="the target in words")
    met: bool = Field(description="whether it was reached")
    reached: Summary = Field(description="errors of the rows that no constant was fitted on")
    rank_correlation: float | None = Field(description="Spearman's, over the same rows; null where it says nothing")
    fitted: str = Field(description="what was fitted, and on which rows")


class Peer(BaseModel):
    """A rival calculator's errors on 30 public measurements of LoRA, QLoRA and full tuning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="the tool")
    median: float = Field(description="median of the absolute relative errors")
    worst: float = Field(description="the largest")
    too_small: int = Field(description="how often, of 30, the card that it names is too small")


PEERS = tuple(
    Peer(name=name, median=middle / 100, worst=worst / 100, too_small=small)
    for name, middle, worst, small in (
        ("fitcheck-llm 0.3.1", 13, 111, 1),
        ("Unsloth Studio's estimator", 24, 98, 16),
        ("fm-training-estimator (theory)", 29, 156, 19),
        ("training_hub (mid)", 39, 195, 19),
        ("gpu_poor", 45, 326, 3),
        ("LLaMA-Factory's rule of thumb", 47, 84, 28),
        ("canifinetune 0.4.1", 57, 247, 0),
        ("accelerate estimate-memory", 161, 350, 4),
        ("llm-analysis (no LoRA)", 447, 905, 0),
    )
)


class Report(BaseModel):
    """``kb/validation/report.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: str = Field(description="the command that wrote this")
    versions: dict[str, str] = Field(description="libraries that the dry runs ran")
    code: str = Field(description="digest of the profiler's code")
    goals: dict[str, Goal] = Field(description="targets by id; rows name them")
    range: Range = Field(description="factors of a 90 % range for a dry run's reserved bytes")
    peers: tuple[Peer, ...] = Field(description="published errors of other calculators")
    rows: tuple[Outcome, ...] = Field(description="every prediction beside its measurement")


class Jobs:
    """What has to be run, by key."""

    def __init__(self, cache: Cache, out: TextIO) -> None:
        self._cache, self._out = cache, out
        self.all: dict[str, Callable[[], dict[str, float]]] = {}
        for one in published_runs(LANGUAGE):
            self.all[f"time/{one.name}"] = _job(language.work, one)
            self.all[f"memory/{one.name}"] = _job(language.memory, one)
        for one in published_runs(IMAGE):
            self.all[f"memory/{one.name}"] = _job(image.memory, one)

    def run(self, only: str = "") -> list[str]:
        """Runs what is not in the cache, with a line of progress; returns the keys that could not be run."""
        failed = []
        wanted = [key for key in self.all if only in key]
        for at, key in enumerate(wanted, 1):
            done = 30 * at // len(wanted)
            self._out.write(f"\r[{'#' * done}{'.' * (30 - done)}] {at:3d}/{len(wanted)} {key:70.70s}")
            self._out.flush()
            try:
                found = self._cache.get(key, self._once(key))
            except (ValueError, RuntimeError, ImportError, TypeError) as error:
                self._out.write(f"\n{key}: {error}\n")
                failed.append(key)
            else:
                if only:
                    self._out.write(f"\n{key}: {found}\n")
        self._out.write("\n")
        return failed

    def _once(self, key: str) -> Callable[[], dict[str, float]]:
        """The job of ``key``, or the result of an earlier one that differs in its learning rate only."""
        kind, _, name = key.partition("/")
        runs = {one.name: one for task in (LANGUAGE, IMAGE) for one in published_runs(task)}
        for other in runs.values():
            if f"{kind}/{other.name}" in self._cache and other.settings == runs[name].settings:
                return lambda: self._cache.rows[f"{kind}/{other.name}"]
        return self.all[key]


def _job(make: Callable[[PublishedRun], dict[str, float]], run: PublishedRun) -> Callable[[], dict[str, float]]:
    return lambda: make(run)


def make(cache: Cache) -> tuple[Report, Efficiency]:
    """The report and the constants of the step time from what the cache holds; rows that it lacks are left out."""
    outcomes = [*_memory(cache, LANGUAGE, LANGUAGE_MEMORY), *_memory(cache, IMAGE, IMAGE_MEMORY)]
    reached, times = _times(cache)
    goals = {
        LANGUAGE_MEMORY: _language_goal([one for one in outcomes if one.target == LANGUAGE_MEMORY]),
        STEP_TIME: _time_goal(times),
    }
    pictures = [one for one in outcomes if one.target == IMAGE_MEMORY]
    if pictures:
        goals[IMAGE_MEMORY] = _image_goal(pictures)
    report = Report(
        generator=GENERATOR,
        versions=versions(),
        code=code_version(),
        goals=goals,
        range=coverage(outcomes),
        peers=PEERS,
        rows=(*outcomes, *times),
    )
    return report, reached


def _memory(cache: Cache, task: str, target: str) -> list[Outcome]:
    found = []
    for one in published_runs(task):
        key = f"memory/{one.name}"
        if key in cache:
            found.append(
                Outcome(
                    target=target,
                    name=one.name,
                    method=one.peft_type,
                    quantity=RESERVED,
                    unit="bytes",
                    predicted=cache.rows[key]["reserved"],
                    measured=one.memory_bytes,
                    use="fit" if one.name == language.FITTED_ON else "validation",
                    note=WHY.get(key, ""),
                )
            )
    return found


def _times(cache: Cache) -> tuple[Efficiency, list[Outcome]]:
    runs = {one.name: one for one in published_runs(LANGUAGE) if f"time/{one.name}" in cache}
    works = {name: cache.rows[f"time/{name}"] for name in runs}
    reached = speed.fit(works, {name: one.step_seconds for name, one in runs.items()})
    used = speed.fitted_on(list(runs))
    return reached, [
        Outcome(
            target=STEP_TIME,
            name=name,
            method=one.peft_type,
            quantity="mean length of a training step",
            unit="seconds",
            predicted=round(speed.predicted(works[name], reached), 6),
            measured=one.step_seconds,
            use="fit" if name in used else "validation",
            note=WHY.get(f"time/{name}", ""),
        )
        for name, one in runs.items()
    ]


def _language_goal(rows: list[Outcome]) -> Goal:
    found = summary(rows)
    return Goal(
        title="Memory of 63 runs of Hugging Face PEFT on Llama-3.2-3B",
        quantity=RESERVED,
        asked="median at most 1 %, nine of ten rows within 3 %, all within 10 %",
        met=found.median <= 0.01 and found.p90 <= 0.03 and found.worst <= 0.1,
        reached=found,
        rank_correlation=None,
        fitted=f"the length of the longest batch, {language.LONGEST} tokens, on {language.FITTED_ON}",
    )


def _image_goal(rows: list[Outcome]) -> Goal:
    found = summary(rows)
    return Goal(
        title="Memory of 31 runs of Hugging Face PEFT on FLUX.2-klein-base-4B, image generation",
        quantity=RESERVED,
        asked="median at most 5 %",
        met=found.median <= 0.05,
        reached=found,
        rank_correlation=None,
        fitted="nothing",
    )


def _time_goal(rows: list[Outcome]) -> Goal:
    found = summary(rows)
    checked = [one for one in rows if one.use == "validation"]
    rank = speed.rank_correlation([one.predicted for one in checked], [one.measured for one in checked])
    return Goal(
        title="Step time of the 63 runs on Llama-3.2-3B",
        quantity="mean length of a training step",
        asked="median at most 5 %, rank correlation at least 0.95",
        met=found.median <= 0.05 and rank >= 0.95,
        reached=found,
        rank_correlation=round(rank, 4),
        fitted="four constants of the card, on every third row by name",
    )


def write(report: Report, reached: Efficiency, folder: Path = FOLDER) -> None:
    """Writes ``report.json``, its rows as ``results.csv``, and the constants as ``speed.json``."""
    put(folder / "report.json", report.model_dump_json(indent=1) + "\n")
    rows = io.StringIO()
    columns = csv.DictWriter(rows, [*Outcome.model_fields, "error"], lineterminator="\n")
    columns.writeheader()
    columns.writerows({**one.model_dump(), "error": round(one.error, 5)} for one in report.rows)
    put(folder / "results.csv", rows.getvalue())
    stated = {"generator": GENERATOR, "efficiency": reached.model_dump()}
    put(folder / "speed.json", json.dumps(stated, indent=1) + "\n")


def table(report: Report) -> str:
    """The report as lines of text."""
    lines = []
    for name, goal in report.goals.items():
        lines += ["", f"{goal.title} ({goal.quantity})", f"  fitted: {goal.fitted}"]
        for one in (row for row in report.rows if row.target == name):
            scale, unit = (2**30, "GiB") if one.unit == "bytes" else (1e-3, "ms")
            mark = "fit" if one.use == "fit" else ""
            lines.append(
                f"  {one.name:56.56s} {one.predicted / scale:8.2f} {one.measured / scale:8.2f} {unit} "
                f"{one.error:+7.1%} {mark:3s} {one.note}"
            )
        reached = goal.reached
        rank = "" if goal.rank_correlation is None else f", rank correlation {goal.rank_correlation:.3f}"
        lines.append(
            f"  {reached.rows} rows: median {reached.median:.2%}, nine of ten within {reached.p90:.2%}, "
            f"worst {reached.worst:.1%}{rank}. Asked: {goal.asked}: {'met' if goal.met else 'NOT met'}"
        )
    held = report.range
    lines += [
        "",
        f"Range for reserved bytes: {held.low} to {held.high} of the prediction; made from {held.made_from} rows, holds "
        f"{held.covered:.1%} of the {held.held_out} others.",
        "",
        "Other calculators, as published, on 30 runs with LoRA, QLoRA and full tuning: median, worst",
        *(f"  {one.name:34s} {one.median:6.0%} {one.worst:6.0%}" for one in report.peers),
        "",
    ]
    return "\n".join(lines)

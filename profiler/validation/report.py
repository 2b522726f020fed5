"""All rows together: put into a table, and written to ``kb/validation/``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kb.files import put
from kb.loader import KB
from kb.speed import Efficiency, efficiency
from profiler.validation import frameworks, goals, language, speed
from profiler.validation.cache import Cache, code_version, versions
from profiler.validation.coverage import Range, coverage
from profiler.validation.goals import (
    ALLOCATED,
    FRAMEWORK_MEMORY,
    IMAGE_MEMORY,
    LANGUAGE_MEMORY,
    PEERS,
    RESERVED,
    STEP_TIME,
    WHY,
    Goal,
    Peer,
)
from profiler.validation.outcome import Outcome
from profiler.validation.published import IMAGE, LANGUAGE, published_runs

FOLDER = KB / "validation"
GENERATOR = "python -m profiler.validation"
GOALS = (LANGUAGE_MEMORY, STEP_TIME, IMAGE_MEMORY, FRAMEWORK_MEMORY)


class Report(BaseModel):
    """``kb/validation/report.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: str = Field(description="the command that wrote this")
    versions: dict[str, str] = Field(description="libraries that the dry runs ran")
    goals: dict[str, Goal] = Field(description="targets by id; rows name them")
    range: Range = Field(description="factors of a 90 % range for a dry run's reserved bytes")
    peers: tuple[Peer, ...] = Field(description="published errors of other calculators")
    rows: tuple[Outcome, ...] = Field(description="every prediction beside its measurement")


def make(cache: Cache, wanted: Collection[str]) -> tuple[Report, Efficiency]:
    """The report and the constants of the step time.

    Goals in ``wanted`` come from what the cache holds, where rows that it lacks are left out; the others stay as they were
    written.
    """
    known = read() if {*wanted} != {*GOALS} else None
    rows = {name: [one for one in known.rows if one.target == name] if known else [] for name in GOALS}
    found = dict(known.goals) if known else {}
    code, reached = code_version(), efficiency() if STEP_TIME not in wanted else None
    for name, task in ((LANGUAGE_MEMORY, LANGUAGE), (IMAGE_MEMORY, IMAGE)):
        if name in wanted:
            rows[name] = _memory(cache, task, name)
    if LANGUAGE_MEMORY in wanted:
        found[LANGUAGE_MEMORY] = goals.language_goal(rows[LANGUAGE_MEMORY], code)
    if IMAGE_MEMORY in wanted and rows[IMAGE_MEMORY]:
        found[IMAGE_MEMORY] = goals.image_goal(rows[IMAGE_MEMORY], code)
    if reached is None:
        reached, rows[STEP_TIME] = _times(cache)
        found[STEP_TIME] = goals.time_goal(rows[STEP_TIME], code)
    if FRAMEWORK_MEMORY in wanted:
        rows[FRAMEWORK_MEMORY], small = _frameworks(cache)
        found[FRAMEWORK_MEMORY] = goals.framework_goal(rows[FRAMEWORK_MEMORY], code, small)
    return Report(
        generator=GENERATOR,
        versions=versions(),
        goals={name: found[name] for name in GOALS if name in found},
        range=coverage([*rows[LANGUAGE_MEMORY], *rows[IMAGE_MEMORY]]),
        peers=PEERS,
        rows=tuple(one for name in GOALS for one in rows[name]),
    ), reached


def read(folder: Path = FOLDER) -> Report:
    """The report as it was last written."""
    return Report.model_validate_json((folder / "report.json").read_bytes())


def _memory(cache: Cache, task: str, target: str) -> list[Outcome]:
    return [
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
        for one in published_runs(task)
        if (key := f"memory/{one.name}") in cache
    ]


def _frameworks(cache: Cache) -> tuple[list[Outcome], int]:
    """The rows, and for how many of them the card that we name is too small."""
    runs = [one for one in frameworks.framework_runs() if f"framework/{one.name}" in cache]
    numbers = [cache.rows[f"framework/{one.name}"] for one in runs]
    rows = [
        Outcome(
            target=FRAMEWORK_MEMORY,
            name=one.name,
            method=one.setup.method,
            quantity=ALLOCATED,
            unit="bytes",
            predicted=found["allocated"],
            measured=one.measured,
            use="validation",
            note=WHY.get(f"framework/{one.name}", ""),
        )
        for one, found in zip(runs, numbers, strict=True)
    ]
    small = sum(frameworks.too_small(one, found["reserved"]) for one, found in zip(runs, numbers, strict=True))
    return rows, small


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

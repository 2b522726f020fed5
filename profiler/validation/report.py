"""All rows together: put into a table, and written to ``kb/validation/``."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kb.files import put
from kb.loader import KB
from kb.speed import Efficiency, efficiency
from profiler.validation import frameworks, goals, language, speed
from profiler.validation.cache import Cache, versions
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
GOALS = {
    LANGUAGE_MEMORY: goals.language_goal,
    STEP_TIME: goals.time_goal,
    IMAGE_MEMORY: goals.image_goal,
    FRAMEWORK_MEMORY: goals.framework_goal,
}


class Report(BaseModel):
    """``kb/validation/report.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    generator: str = Field(description="the command that wrote this")
    versions: dict[str, str] = Field(description="libraries that the dry runs ran")
    goals: dict[str, Goal] = Field(description="targets by id; rows name them")
    range: Range = Field(description="factors of a 90 % range for a dry run's reserved bytes")
    peers: tuple[Peer, ...] = Field(description="published errors of other calculators")
    rows: tuple[Outcome, ...] = Field(description="every prediction beside its measurement")


def make(cache: Cache) -> tuple[Report, Efficiency]:
    """The report and the constants of the step time: rows that the cache lacks stay as they were written.

    The constants are fitted anew when all runs' steps are in the cache.
    """
    known = {(one.target, one.name): one for one in read().rows}
    reached = _efficiency(cache)
    found = [
        *_memory(cache, LANGUAGE, LANGUAGE_MEMORY),
        *_memory(cache, IMAGE, IMAGE_MEMORY),
        *_frameworks(cache),
        *(_times(cache, reached) if reached else ()),
    ]
    known |= {(one.target, one.name): one for one in found}
    rows = {name: [_explained(one) for (target, _), one in sorted(known.items()) if target == name] for name in GOALS}
    return Report(
        generator=GENERATOR,
        versions=versions(),
        goals={name: of(rows[name]) for name, of in GOALS.items()},
        range=coverage([*rows[LANGUAGE_MEMORY], *rows[IMAGE_MEMORY]]),
        peers=PEERS,
        rows=tuple(one for name in GOALS for one in rows[name]),
    ), reached or efficiency()


def _explained(one: Outcome) -> Outcome:
    """The row with what is known today of why it is missed."""
    kind = {STEP_TIME: "time", FRAMEWORK_MEMORY: "framework"}.get(one.target, "memory")
    return one.model_copy(update={"note": WHY.get(f"{kind}/{one.name}", "")})


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
            code=cache.version,
        )
        for one in published_runs(task)
        if (key := f"memory/{one.name}") in cache
    ]


def _frameworks(cache: Cache) -> list[Outcome]:
    return [
        Outcome(
            target=FRAMEWORK_MEMORY,
            name=one.name,
            method=one.setup.method,
            quantity=ALLOCATED,
            unit="bytes",
            predicted=cache.rows[key]["allocated"],
            measured=one.measured,
            use="validation",
            too_small=frameworks.too_small(one, cache.rows[key]["reserved"]),
            code=cache.version,
        )
        for one in frameworks.framework_runs()
        if (key := f"framework/{one.name}") in cache
    ]


def _works(cache: Cache) -> dict[str, dict[str, float]]:
    return {one.name: cache.rows[key] for one in published_runs(LANGUAGE) if (key := f"time/{one.name}") in cache}


def _efficiency(cache: Cache) -> Efficiency | None:
    """The constants, if the cache holds all steps."""
    works, runs = _works(cache), published_runs(LANGUAGE)
    return speed.fit(works, {one.name: one.step_seconds for one in runs}) if len(works) == len(runs) else None


def _times(cache: Cache, reached: Efficiency) -> list[Outcome]:
    works = _works(cache)
    used = speed.fitted_on(list(works))
    return [
        Outcome(
            target=STEP_TIME,
            name=one.name,
            method=one.peft_type,
            quantity="mean length of a training step",
            unit="seconds",
            predicted=round(speed.predicted(works[one.name], reached), 6),
            measured=one.step_seconds,
            use="fit" if one.name in used else "validation",
            code=cache.version,
        )
        for one in published_runs(LANGUAGE)
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

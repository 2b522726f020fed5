"""Predicted against measured: the profiler's report as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic import Field

from kb.loader import KB
from kb.measured import CardGoal, CardReport, card_report
from recommender.units import with_minus
from web.views.base import Stamped, View, stamp
from web.views.forms import FormErrors, form_errors
from web.views.label import Label, place_labels
from web.views.scale import Scale, Tick

FOLDER = KB / "validation"
SIZE, LEFT, BOTTOM, TOP, RIGHT = 420, 52, 44, 10, 14
_NAMED = 4  # outliers of a drawing that are named
_UNITS = {"bytes": ("GiB", 2**30), "seconds": ("ms", 1e-3)}


class Row(View):
    """One prediction beside its measurement."""

    id: str = Field(description="place on the page")
    name: str = Field(description="the run, as its publisher names it")
    method: str = Field(description="the method, as its publisher names it")
    predicted: float = Field(description="in bytes or seconds")
    measured: float = Field(description="in bytes or seconds")
    error: float = Field(description="relative; above zero when too much is predicted")
    fitted: bool = Field(description="whether a constant was fitted on this row")
    note: str = Field(description="why it is missed, where it is")


class Dot(View):
    """A row in the drawing."""

    id: str
    x: float
    y: float
    fitted: bool
    text: str = Field(description="the row in words")
    name: str = Field(description="the method, as its publisher names it")
    label: Label | None = Field(description="where the name stands: for the largest errors, where there is room")


class Drawing(View):
    """Predicted (up) against measured (right), with the line on which they agree."""

    size: int
    left: int
    right: int
    top: int
    bottom: int
    ticks_x: tuple[Tick, ...]
    ticks_y: tuple[Tick, ...]
    dots: tuple[Dot, ...]


class Target(View):
    """One comparison: errors, what was asked for, the drawing and the rows."""

    id: str
    title: str = Field(description="what is compared")
    quantity: str = Field(description="what was measured")
    unit: str = Field(description="unit of the drawing and the table")
    scale: float = Field(description="how many bytes or seconds that unit is")
    asked: str = Field(description="the target in words")
    met: bool = Field(description="whether it was reached")
    checked: int = Field(description="rows that no constant was fitted on")
    median: float = Field(description="median of their absolute relative errors")
    p90: float = Field(description="what nine of ten of them stay within")
    worst: float = Field(description="the largest")
    rank_correlation: float | None = Field(description="Spearman's; null where it says nothing")
    fitted: str = Field(description="what was fitted, and on which rows")
    too_small: int | None = Field(description="rows whose card, named by us, is too small; null if none is named")
    left_out: dict[str, int] = Field(description="published rows that are not compared, by reason")
    drawing: Drawing
    rows: tuple[Row, ...]


class Rival(View):
    """Another calculator's published errors."""

    name: str
    median: float
    worst: float
    too_small: int = Field(description="how often, of 30, the card that it names is too small")


class BenchmarksPage(Stamped):
    """The profiler against what others measured."""

    generator: str = Field(description="the command that made these figures")
    versions: dict[str, str] = Field(description="libraries that were dry-run")
    range: dict[str, float] = Field(description="factors of the range of reserved bytes, and how it did")
    targets: tuple[Target, ...]
    rivals: tuple[Rival, ...]
    forms: FormErrors = Field(description="closed forms against dry runs, on models that no form was read from")
    card: CardReport | None = Field(
        description="predictions beside what cards measured here; null while none has measured"
    )
    goals: dict[str, CardGoal] = Field(description="errors of the predictions for those cards, by quantity")


@lru_cache(maxsize=1)
def benchmarks_page() -> BenchmarksPage:
    """The committed report, as it is shown."""
    report = json.loads((FOLDER / "report.json").read_text(encoding="utf-8"))
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in report["rows"]:
        rows.setdefault(row["target"], []).append(row)
    return BenchmarksPage(
        **stamp(),
        links={"html": "/benchmarks", "api": "/api/v1/benchmarks", "csv": "/api/v1/benchmarks.csv"},
        generator=report["generator"],
        versions=report["versions"],
        range=report["range"],
        targets=tuple(_target(name, goal, rows[name]) for name, goal in report["goals"].items()),
        rivals=tuple(Rival(**each) for each in report["peers"]),
        forms=form_errors(),
        card=card_report(),
        goals=card.goals() if (card := card_report()) else {},
    )


@lru_cache(maxsize=1)
def benchmarks_csv() -> bytes:
    """All rows as a table."""
    return (FOLDER / "results.csv").read_bytes()


def _target(name: str, goal: dict[str, Any], raw: Sequence[dict[str, Any]]) -> Target:
    rows = tuple(
        Row(
            id=f"{name}-{at}",
            name=each["name"],
            method=each["method"],
            predicted=each["predicted"],
            measured=each["measured"],
            error=each["predicted"] / each["measured"] - 1,
            fitted=each["use"] == "fit",
            note=each["note"],
        )
        for at, each in enumerate(raw, 1)
    )
    unit, scale = _UNITS[raw[0]["unit"]]
    reached = goal["reached"]
    return Target(
        id=name,
        title=goal["title"],
        quantity=goal["quantity"],
        unit=unit,
        scale=scale,
        asked=goal["asked"],
        met=goal["met"],
        checked=reached["rows"],
        median=reached["median"],
        p90=reached["p90"],
        worst=reached["worst"],
        rank_correlation=goal["rank_correlation"],
        fitted=goal["fitted"],
        too_small=goal["too_small"],
        left_out=goal["left_out"],
        drawing=_drawing(rows, unit, scale),
        rows=rows,
    )


def _drawing(rows: Sequence[Row], unit: str, scale: float) -> Drawing:
    values = [value / scale for row in rows for value in (row.predicted, row.measured)]
    across = Scale(min(values), max(values), LEFT, SIZE - RIGHT)
    up = Scale(min(values), max(values), SIZE - BOTTOM, TOP)
    places = [(across(row.measured / scale), up(row.predicted / scale)) for row in rows]
    names = [row.name.partition("/")[0] for row in rows]
    outliers = sorted(range(len(rows)), key=lambda place: -abs(rows[place].error))[:_NAMED]
    labels = place_labels(names, places, outliers, (LEFT, TOP, SIZE, SIZE - BOTTOM))
    dots = tuple(
        Dot(
            id=row.id,
            x=round(x, 1),
            y=round(y, 1),
            fitted=row.fitted,
            text=_words(row, unit, scale),
            name=names[place],
            label=labels.get(place),
        )
        for place, (row, (x, y)) in enumerate(zip(rows, places, strict=True))
    )
    return Drawing(
        size=SIZE,
        left=LEFT,
        right=SIZE - RIGHT,
        top=TOP,
        bottom=SIZE - BOTTOM,
        ticks_x=across.ticks("{:g}"),
        ticks_y=up.ticks("{:g}"),
        dots=dots,
    )


def _words(row: Row, unit: str, scale: float) -> str:
    error = with_minus(f"{row.error:+.1%}")
    return (
        f"{row.name}: {row.predicted / scale:.1f} {unit} predicted, {row.measured / scale:.1f} {unit} measured, {error}"
    )

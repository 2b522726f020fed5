"""The methods that fit as points on two axes of the reader's choice: computed here, so that the page needs no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from recommender.answer import Standing
from recommender.units import signed
from web.render import size
from web.views.base import View
from web.views.label import Label, place_labels
from web.views.mark import tone
from web.views.scale import LogScale, Scale, Tick


class Sheet(NamedTuple):
    """What a drawing is drawn on: its size, and what is left free at its edges, in pixels."""

    width: int
    height: int
    left: int
    bottom: int
    top: int = 14
    right: int = 14


ROOMY, SLIM = Sheet(720, 400, 56, 44), Sheet(300, 400, 50, 42)
"""For windows with room, and for a telephone: letters have one size on both."""

Across = Literal["memory", "time", "storage"]
Up = Literal["quality", "robustness"]


class Axis(NamedTuple):
    """A quantity that methods differ in."""

    title: str  # of the axis, with the unit
    short: str  # in a sentence
    value: Callable[[Standing], float | None]
    text: Callable[[Standing], str]
    logarithmic: bool = False


ACROSS: dict[Across, Axis] = {
    "memory": Axis(
        "device memory, GiB", "device memory", lambda one: one.device_bytes / 2**30, lambda one: size(one.device_bytes)
    ),
    "time": Axis(
        "time per token, as a multiple of LoRA's",
        "time per token",
        lambda one: one.step_time_relative,
        lambda one: f"{one.step_time_relative:.2f} × LoRA's time",
    ),
    "storage": Axis(
        "stored per task, MiB",
        "storage per task",
        lambda one: None if one.stored_bytes is None else one.stored_bytes / 2**20,
        lambda one: size(one.stored_bytes),
        logarithmic=True,
    ),
}
"""Less is better."""
UP: dict[Up, Axis] = {
    "quality": Axis(
        "expected quality, standard deviations",
        "expected quality",
        lambda one: one.quality,
        lambda one: f"quality {signed(one.quality)} ({signed(one.quality_low)} to {signed(one.quality_high)})",
    ),
    "robustness": Axis(
        "robustness, 0 to 1", "robustness", lambda one: one.robustness, lambda one: f"robustness {one.robustness:.2f}"
    ),
}
"""More is better."""


class Point(View):
    """A method in the drawing."""

    slug: str
    name: str
    href: str = Field(description="its card on the page, or its own page")
    x: float
    y: float
    high: float | None = Field(description="position of the upper end of the interval; null without one")
    low: float | None = Field(description="position of the lower end of the interval; null without one")
    best: bool = Field(description="whether no other method is better on one axis and as good on the other")
    tone: str = Field(description="classes of the style sheet that colour it")
    text: str = Field(description="both values in words")
    label: Label | None = Field(description="where the name stands; null where it would cover another one")


class Scatter(View):
    """The drawing."""

    across: Across
    up: Up
    x_title: str
    y_title: str
    summary: str = Field(description="what it shows, in a sentence")
    width: int
    height: int
    left: int
    bottom: float
    top: int
    right: int
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    front: str = Field(description="the front as the points of a line")
    points: tuple[Point, ...]
    unknown: tuple[str, ...] = Field(description="names of methods without a value on one of the axes")


def scatter(
    standings: Sequence[Standing],
    across: Across,
    up: Up,
    classes: Mapping[str, str],
    here: Container[str],
    sheet: Sheet = ROOMY,
) -> Scatter | None:
    """The drawing of the methods that fit; ``None`` for fewer than two points.

    ``classes`` give the class of each, ``here`` holds those that the page itself explains.

    Every method on the front gets its name where there is room, then those that rank high.
    """
    x_axis, y_axis = ACROSS[across], UP[up]
    shown = [one for one in standings if x_axis.value(one) is not None and y_axis.value(one) is not None]
    if len(shown) < 2:
        return None
    values = [(x_axis.value(one) or 0.0, y_axis.value(one) or 0.0) for one in shown]
    kind = LogScale if x_axis.logarithmic else Scale
    x_scale = kind(min(x for x, _ in values), max(x for x, _ in values), sheet.left, sheet.width - sheet.right)
    lows = [one.quality_low for one in shown] if up == "quality" else [y for _, y in values]
    highs = [one.quality_high for one in shown] if up == "quality" else [y for _, y in values]
    y_scale = Scale(min(lows), max(highs), sheet.height - sheet.bottom, sheet.top)
    places = [(x_scale(x), y_scale(y)) for x, y in values]
    best = _front(values)
    order = [*best, *(place for place in range(len(shown)) if place not in best)]
    edges = (sheet.left, 0.0, sheet.width - 2.0, float(sheet.height - sheet.bottom))
    labels = place_labels([one.name for one in shown], places, order, edges)
    points = [
        Point(
            slug=one.slug,
            name=one.name,
            href=f"#{one.slug}" if one.slug in here else f"/methods/{one.slug}",
            x=round(x, 1),
            y=round(y, 1),
            high=round(y_scale(one.quality_high), 1) if up == "quality" else None,
            low=round(y_scale(one.quality_low), 1) if up == "quality" else None,
            best=place in best,
            tone=tone(classes[one.slug]),
            text=f"{x_axis.text(one)}, {y_axis.text(one)}",
            label=labels.get(place),
        )
        for place, (one, (x, y)) in enumerate(zip(shown, places, strict=True))
    ]
    names = ", ".join(shown[place].name for place in best)
    return Scatter(
        across=across,
        up=up,
        x_title=x_axis.title,
        y_title=y_axis.title,
        summary=f"{y_axis.short.capitalize()} against {x_axis.short} of {len(shown)} methods; on the front: {names}",
        width=sheet.width,
        height=sheet.height,
        left=sheet.left,
        bottom=sheet.height - sheet.bottom,
        top=sheet.top,
        right=sheet.width - sheet.right,
        x_ticks=x_scale.ticks("{:g}"),
        y_ticks=y_scale.ticks("{:+g}" if up == "quality" else "{:g}"),
        front=_steps([places[place] for place in best]),
        points=tuple(sorted(points, key=lambda point: point.best)),
        unknown=tuple(one.name for one in standings if one not in shown),
    )


def _front(values: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points that no other beats: less across and more up, from left to right."""
    kept: list[int] = []
    highest = -math.inf
    for place in sorted(range(len(values)), key=lambda each: (values[each][0], -values[each][1])):
        if values[place][1] > highest:
            highest = values[place][1]
            kept.append(place)
    return kept


def _steps(places: Iterable[tuple[float, float]]) -> str:
    """The front as a staircase: between two of its points nothing better than the left one is to be had."""
    corners: list[tuple[float, float]] = []
    for x, y in places:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)

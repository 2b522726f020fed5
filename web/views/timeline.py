"""The course of a training step as a drawing: live memory by part, stacked, computed here so that no script is needed.

Positions across are percentages of the drawing, so that it fills any width; heights are pixels.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kb.timeline import MEBIBYTE, Timeline
from web.views.base import View
from web.views.scale import Scale, Tick

HEIGHT, TOP = 266, 26
STEPS = 1000
"""Width of the outlines in units of their own, which are stretched over the drawing."""
_FLAT = 0.15  # pixels; a sample that lies this near to the line between its neighbours is not drawn
_LETTER = 6.2  # pixels, the mean width of one
_SLIM, _ROOMY = 220, 560  # pixels that the drawing has on a telephone, and at least on a wide window


class Area(View):
    """A part in the stack."""

    part: str = Field(description="what it holds")
    number: int = Field(description="its place among the parts, which decides the colour")
    path: str = Field(description="outline from the baseline up to the top of this part; the next one covers it below")


class Stretch(View):
    """A phase of the step."""

    name: str = Field(description="its name")
    x: float = Field(description="where it begins")
    middle: float = Field(description="its middle")
    fits: Literal["always", "roomy", "never"] = Field(description="on which windows its name fits below it")
    bytes_at_most: int = Field(description="the most that is alive in it")
    parts: dict[str, int] = Field(description="bytes by part at that moment")


class Course(View):
    """The drawing."""

    title: str = Field(description="what is drawn, in words")
    settings: str = Field(description="how the method was trained, in words")
    implementation: str = Field(description="whose code was run: ours or peft")
    unit: str = Field(description="unit of the upright axis")
    steps: int = Field(description="width of the outlines in units of their own")
    height: int = Field(description="height of the baseline")
    top: int = Field(description="height of the highest mark")
    y_ticks: tuple[Tick, ...]
    areas: tuple[Area, ...] = Field(description="from the back to the front")
    phases: tuple[Stretch, ...]
    peak_x: float
    peak_y: float
    peak_anchor: Literal["start", "middle", "end"] = Field(description="side of the peak's label that stands at it")
    peak_bytes: int


def course(of: Timeline, title: str) -> Course:
    """The drawing of ``of``."""
    totals = of.totals()
    unit, size = ("GiB", 1024) if max(totals) >= 1024 else ("MiB", 1)
    across = 100 / max(of.samples - 1, 1)
    y_scale = Scale(0, max(totals) / size, HEIGHT, TOP)
    peak_x = across * of.peak
    shown = [(number, part) for number, part in enumerate(of.mebibytes, 1) if any(of.mebibytes[part])]
    tops, standing = [], [0] * of.samples
    for number, part in shown:
        standing = [below + value for below, value in zip(standing, of.mebibytes[part], strict=True)]
        line = [(STEPS / 100 * across * at, y_scale(value / size)) for at, value in enumerate(standing)]
        tops.append(Area(part=part, number=number, path=_outline(line)))
    return Course(
        title=title,
        settings=of.settings,
        implementation=of.implementation,
        unit=unit,
        steps=STEPS,
        height=HEIGHT,
        top=TOP,
        y_ticks=y_scale.ticks("{:g}"),
        areas=tuple(reversed(tops)),
        phases=_stretches(of, totals, across),
        peak_x=round(peak_x, 1),
        peak_y=round(y_scale(totals[of.peak] / size), 1),
        peak_anchor="start" if peak_x < 12 else "end" if peak_x > 88 else "middle",
        peak_bytes=totals[of.peak] * MEBIBYTE,
    )


def _stretches(of: Timeline, totals: tuple[int, ...], across: float) -> tuple[Stretch, ...]:
    ends = [start for _, start in of.phases[1:]] + [of.samples]
    found = []
    for (name, start), end in zip(of.phases, ends, strict=True):
        highest = max(range(start, end), key=totals.__getitem__)
        found.append(
            Stretch(
                name=name,
                x=round(across * start, 1),
                middle=round(across * (start + end - 1) / 2, 1),
                fits=_fits(name, across * (end - start) / 100),
                bytes_at_most=totals[highest] * MEBIBYTE,
                parts={part: values[highest] * MEBIBYTE for part, values in of.mebibytes.items()},
            )
        )
    return tuple(found)


def _fits(name: str, share: float) -> Literal["always", "roomy", "never"]:
    """On which windows a name fits below ``share`` of the drawing."""
    width = _LETTER * len(name) + 4
    return "always" if share * _SLIM > width else "roomy" if share * _ROOMY > width else "never"


def _outline(line: list[tuple[float, float]]) -> str:
    """A closed path under ``line``, without the samples that lie on the line between those that are drawn."""
    kept = [line[0]]
    for before, point, after in zip(line, line[1:], line[2:], strict=False):
        left = kept[-1]
        between = left[1] + (after[1] - left[1]) * (point[0] - left[0]) / (after[0] - left[0])
        if abs(between - point[1]) > _FLAT or abs(before[1] - point[1]) > _FLAT:
            kept.append(point)
    kept.append(line[-1])
    places = "L".join(f"{x:.1f} {y:.1f}" for x, y in kept)
    return f"M{line[0][0]:.1f} {HEIGHT}L{places}L{line[-1][0]:.1f} {HEIGHT}Z"

"""What each study says about a method, line by line, and what all of them say together: a forest plot.

Positions are percentages of a lane, so that one drawing fills any width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from pydantic import Field

from recommender.answer import Quality, Relation, StudyEffect
from recommender.units import signed
from web.views.base import View
from web.views.scale import Scale, Tick

_MOST = 14  # lines that an eye can compare; further studies are in the table


class ForestLine(View):
    """One study."""

    title: str = Field(description="its title")
    url: str | None = Field(description="where to read it")
    relation: Relation = Field(description="independent; rival: its authors propose another method; own: this one")
    x: float = Field(description="position of the estimate")
    low: float = Field(description="position of the lower end")
    high: float = Field(description="position of the upper end")
    size: float = Field(description="half of the mark's width in pixels; it grows with the number of comparisons")
    value: str = Field(description="estimate in words")
    interval: str = Field(description="interval in words")


class Forest(View):
    """The drawing."""

    zero: float = Field(description="position of the average method of a comparison")
    ticks: tuple[Tick, ...]
    lines: tuple[ForestLine, ...] = Field(description="independent studies first")
    left_out: int = Field(description="studies that are not drawn: those with the fewest comparisons")
    whole: tuple[float, float, float] = Field(description="positions of the synthesis: low, estimate, high")
    whole_value: str = Field(description="the synthesis in words")
    whole_interval: str = Field(description="its interval in words")
    summary: str = Field(description="the drawing in one sentence")


def forest(effects: Iterable[StudyEffect], quality: Quality) -> Forest | None:
    """The drawing of what studies say; ``None`` if no study contains the method."""
    every = tuple(effects)
    if not every:
        return None
    first = sorted(every, key=lambda each: (each.relation != "own", -each.n, each.study))[:_MOST]
    shown = [each for each in every if each in first]
    ends = [0.0, quality.low, quality.high, *(each.low for each in shown), *(each.high for each in shown)]
    scale = Scale(min(ends), max(ends), 0, 100)
    lines = tuple(
        ForestLine(
            title=each.title,
            url=each.url,
            relation=each.relation,
            x=round(scale(each.estimate), 1),
            low=round(scale(each.low), 1),
            high=round(scale(each.high), 1),
            size=round(min(3 + 0.8 * each.n**0.5, 9), 1),
            value=signed(each.estimate),
            interval=_interval(each.low, each.high),
        )
        for each in shown
    )
    independent, rivals, own = (sum(each.relation == kind for each in every) for kind in get_args(Relation))
    return Forest(
        left_out=len(every) - len(shown),
        zero=round(scale(0.0), 1),
        ticks=scale.ticks("{:+g}"),
        lines=lines,
        whole=(round(scale(quality.low), 1), round(scale(quality.estimate), 1), round(scale(quality.high), 1)),
        whole_value=signed(quality.estimate),
        whole_interval=_interval(quality.low, quality.high),
        summary=f"{independent} independent studies, {rivals} by authors of other methods, {own} by its own authors; "
        f"together {signed(quality.estimate)} ({_interval(quality.low, quality.high)})",
    )


def _interval(low: float, high: float) -> str:
    return f"{signed(low)} to {signed(high)}"

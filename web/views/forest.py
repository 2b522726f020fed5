"""What each study says about a method, line by line, and what all of them say together: a forest plot."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import get_args

from pydantic import Field

from recommender.answer import Quality, Relation, StudyEffect
from recommender.units import signed
from web.views.base import View
from web.views.scale import Scale, Tick

WIDTH, LEFT, RIGHT, ROW, TOP = 820, 360, 690, 28, 8
_TITLE = 52  # letters of a title that fit left of the drawing
_MOST = 14  # lines that an eye can compare; further studies are in the table


class ForestLine(View):
    """One study."""

    title: str = Field(description="its title")
    short: str = Field(description="its title, cut where the drawing begins")
    url: str | None = Field(description="where to read it")
    relation: Relation = Field(description="independent; rival: its authors propose another method; own: this one")
    y: int = Field(description="height of the line")
    x: float = Field(description="position of the estimate")
    low: float = Field(description="position of the lower end")
    high: float = Field(description="position of the upper end")
    size: float = Field(description="half of the mark's width; it grows with the number of comparisons")
    text: str = Field(description="estimate and interval in words")


class Forest(View):
    """The drawing."""

    width: int
    height: int
    left: int
    right: int
    zero: float = Field(description="position of the average method of a comparison")
    ticks: tuple[Tick, ...]
    lines: tuple[ForestLine, ...] = Field(description="independent studies first")
    left_out: int = Field(description="studies that are not drawn: those with the fewest comparisons")
    whole: tuple[float, float, float] = Field(description="positions of the synthesis: low, estimate, high")
    whole_y: int = Field(description="height of the synthesis")
    whole_text: str = Field(description="the synthesis in words")
    summary: str = Field(description="the drawing in one sentence")


def forest(effects: Iterable[StudyEffect], quality: Quality) -> Forest | None:
    """The drawing of what studies say; ``None`` if no study contains the method."""
    every = tuple(effects)
    if not every:
        return None
    first = sorted(every, key=lambda each: (each.relation != "own", -each.n, each.study))[:_MOST]
    shown = [each for each in every if each in first]
    ends = [0.0, quality.low, quality.high, *(each.low for each in shown), *(each.high for each in shown)]
    scale = Scale(min(ends), max(ends), LEFT, RIGHT)
    lines = tuple(
        ForestLine(
            title=each.title,
            short=textwrap.shorten(each.title, _TITLE, placeholder=" …"),
            url=each.url,
            relation=each.relation,
            y=TOP + ROW * number + ROW // 2,
            x=round(scale(each.estimate), 1),
            low=round(scale(each.low), 1),
            high=round(scale(each.high), 1),
            size=round(min(3 + 0.8 * each.n**0.5, 9), 1),
            text=_words(each.estimate, each.low, each.high),
        )
        for number, each in enumerate(shown)
    )
    below = TOP + ROW * len(lines)
    independent, rivals, own = (sum(each.relation == kind for each in every) for kind in get_args(Relation))
    return Forest(
        width=WIDTH,
        height=below + 2 * ROW + 22,
        left=LEFT,
        right=RIGHT,
        left_out=len(every) - len(shown),
        zero=round(scale(0.0), 1),
        ticks=scale.ticks("{:+g}"),
        lines=lines,
        whole=(round(scale(quality.low), 1), round(scale(quality.estimate), 1), round(scale(quality.high), 1)),
        whole_y=below + ROW // 2 + 6,
        whole_text=_words(quality.estimate, quality.low, quality.high),
        summary=f"{independent} independent studies, {rivals} by authors of other methods, {own} by its own authors; "
        f"together {_words(quality.estimate, quality.low, quality.high)}",
    )


def _words(estimate: float, low: float, high: float) -> str:
    return f"{signed(estimate)} ({signed(low)} to {signed(high)})"

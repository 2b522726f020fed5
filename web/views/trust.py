"""Drawings and tables of how far the synthesis can be trusted: bias of self-report, validation, calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from kb.situation import ANYWHERE
from kb.studies import Study
from recommender.units import signed
from taxonomy import build
from web.views.base import View
from web.views.scale import Scale, Tick

SIZE, EDGE, BELOW, MARGIN = 340, 52, 44, 24


class Interval(View):
    """A mean with an 80 % interval."""

    mean: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The interval in words."""
        return f"{signed(self.mean)} ({signed(self.low)} to {signed(self.high)})"


class Mark(View):
    """A study of a method's own authors in the drawing."""

    study: str
    title: str
    method: str
    value: float = Field(description="what the method gains over what all evidence lets expect")
    x: float


class Group(View):
    """A class in the drawing."""

    name: str
    bias: Interval = Field(description="the synthesis' estimate for the class")
    studies: int = Field(description="studies that propose a method of it")
    x: float
    low: float
    high: float
    marks: tuple[Mark, ...]


class Advantages(View):
    """How much better methods look in the studies of those who propose them, in standard deviations within a cell.

    Positions are percentages of a lane, so that one drawing fills any width.
    """

    whole: Interval
    studies: int
    groups: tuple[Group, ...]
    zero: float
    band: tuple[float, float] = Field(description="positions of the ends of the interval of all classes together")
    ticks: tuple[Tick, ...]


class Measure(View):
    """A mean over studies with its 80 % interval over draws of studies."""

    mean: float
    low: float
    high: float
    studies: int


class Ranking(View):
    """A way to rank methods, judged on studies that it has not seen."""

    name: str
    correlation: Measure = Field(description="Spearman's rank correlation within a cell")
    regret_three: Measure = Field(
        description="what the best of its first three lacks to the cell's best, in standard deviations; cells of four methods or more"
    )
    regret_first: Measure = Field(description="the same for its first choice alone; cells of three methods or more")


class Trial(View):
    """A study that was left out."""

    study: str
    title: str
    cells: int
    methods: tuple[str, ...]
    correlation: float
    regret_three: float | None = Field(description="null if no cell has four methods")
    regret_first: float
    agreement: float | None = Field(description="rank correlation of a cell with the study's other cells; null for one")
    covered: float = Field(description="share of results that the 80 % intervals hold")


class Point(View):
    """A level of the intervals."""

    nominal: float
    reached: float
    x: float
    y: float


class Calibration(View):
    """Share of results in the intervals against what the intervals promise."""

    size: int
    left: int
    right: int
    top: int
    bottom: int
    points: tuple[Point, ...]
    ticks_x: tuple[Tick, ...]
    ticks_y: tuple[Tick, ...]


_NAMES = {
    "synthesis": "This synthesis",
    "mean": "Plain mean of all results",
    "claims": "Papers' own tables at face value",
    "lora": "Always LoRA",
}


def _interval(numbers: list[float]) -> Interval:
    return Interval(mean=numbers[0], low=numbers[1], high=numbers[2])


def _gains(fitted: Mapping[str, Any], studies: Mapping[str, Study]) -> dict[str, list[tuple[str, str, float]]]:
    """By class, studies of a method's own authors: the study, the method and what it gains there."""
    found: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    for slug, own in fitted["methods"].items():
        expected = own["estimates"][ANYWHERE.key][0]
        for name, effect in own["studies"].items():
            if slug in studies[name].proposes:
                found[slug].append((name, slug, effect[0] - expected))
    return found


def advantages(fitted: Mapping[str, Any], studies: Mapping[str, Study], names: Mapping[str, str]) -> Advantages:
    """The drawing of self-report bias; ``names`` are those of the classes."""
    told = fitted["self_report"]
    gains = _gains(fitted, studies)
    by_class: dict[str, list[tuple[str, str, float]]] = defaultdict(list)
    for slug, marks in gains.items():
        for leaf in build().methods[slug].taxonomy.classes:
            by_class[leaf] += marks
    whole = _interval(told["bias"])
    ends = [0.0, whole.low, whole.high, *(gain for marks in gains.values() for _, _, gain in marks)]
    ends += [end for each in told["classes"].values() for end in each["bias"]]
    scale = Scale(min(ends), max(ends), 0, 100)
    groups = []
    for leaf, each in told["classes"].items():
        bias = _interval(each["bias"])
        groups.append(
            Group(
                name=names[leaf],
                bias=bias,
                studies=each["studies"],
                x=round(scale(bias.mean), 1),
                low=round(scale(bias.low), 1),
                high=round(scale(bias.high), 1),
                marks=tuple(
                    Mark(
                        study=name,
                        title=studies[name].title,
                        method=build().methods[slug].name,
                        value=round(gain, 2),
                        x=round(scale(gain), 1),
                    )
                    for name, slug, gain in sorted(by_class[leaf], key=lambda mark: mark[2])
                ),
            )
        )
    return Advantages(
        whole=whole,
        studies=told["studies"],
        groups=tuple(groups),
        zero=round(scale(0.0), 1),
        band=(round(scale(whole.low), 1), round(scale(whole.high), 1)),
        ticks=scale.ticks("{:+g}"),
    )


def rankings(told: Mapping[str, Any]) -> tuple[Ranking, ...]:
    """The synthesis first, then the simpler rankings."""

    def measure(numbers: Mapping[str, Any]) -> Measure:
        return Measure(**{name: numbers[name] for name in Measure.model_fields})

    return tuple(
        Ranking(
            name=words, **{name: measure(told[key][name]) for name in ("correlation", "regret_three", "regret_first")}
        )
        for key, words in _NAMES.items()
    )


def trials(told: Iterable[Mapping[str, Any]], titles: Mapping[str, str]) -> tuple[Trial, ...]:
    """The studies that were left out, hardest first."""
    found = (Trial(title=titles[each["study"]], **each) for each in told if each["study"] in titles)
    return tuple(sorted(found, key=lambda each: (each.correlation, each.study)))


def calibration(told: Iterable[Mapping[str, float]]) -> Calibration:
    """The drawing of promised against reached shares."""
    across, up = Scale(0.4, 1.0, EDGE, SIZE - MARGIN), Scale(0.4, 1.0, SIZE - BELOW, 10)
    return Calibration(
        size=SIZE,
        left=EDGE,
        right=SIZE - MARGIN,
        top=10,
        bottom=SIZE - BELOW,
        points=tuple(
            Point(**each, x=round(across(each["nominal"]), 1), y=round(up(each["reached"]), 1)) for each in told
        ),
        ticks_x=across.ticks("{:.0%}"),
        ticks_y=up.ticks("{:.0%}"),
    )

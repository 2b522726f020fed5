"""Small multiples of a comparison: memory, time and expected quality of each method, on one scale each."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from recommender import ConstraintError, Constraints, Estimate, estimate
from recommender.quality import quality
from recommender.units import signed
from web.render import size
from web.views.base import View
from web.views.scale import Scale, Tick

WIDTH, LEFT, RIGHT, ROW, TOP = 340, 150, 326, 26, 6
_LETTERS = 24  # of a name that fit left of a drawing
_CROWDED = 6  # marks whose values would touch
BATCH = 4
"""Examples in a micro-batch, as on the page of a method."""


class Subject(NamedTuple):
    """A method to be drawn."""

    slug: str
    name: str
    tone: str  # CSS classes of its colour


class Reach(NamedTuple):
    """A value with the ends of its range."""

    value: float
    low: float
    high: float


class MultipleLine(View):
    """One method in one drawing."""

    slug: str
    name: str
    short: str = Field(description="its name, cut where the drawing begins")
    tone: str = Field(description="CSS classes of its colour")
    y: int = Field(description="height of the line")
    x: float | None = Field(description="position of the value; null if it is not known")
    low: float | None = Field(description="position of the lower end of its range")
    high: float | None = Field(description="position of the upper end of its range")
    text: str = Field(description="value and range in words")


class Multiple(View):
    """One quantity of all methods."""

    key: str = Field(description="name in data")
    title: str = Field(description="the quantity with its unit")
    better: str = Field(description="which side is better")
    bars: bool = Field(description="whether lines start at zero as bars; else they are points with an interval")
    zero: float = Field(description="position of zero")
    ticks: tuple[Tick, ...]
    lines: tuple[MultipleLine, ...]
    width: int
    height: int
    left: int = Field(description="where the drawing begins, to the right of the names")


class Multiples(View):
    """The drawings, and what they hold for."""

    settings: str = Field(description="what memory and time are predicted for, in words")
    missing: tuple[str, ...] = Field(description="why a method has no memory and time, in words")
    panels: tuple[Multiple, ...]


class _Quantity(NamedTuple):
    key: str
    title: str
    better: str
    unit: float
    words: Callable[[float], str]
    bars: bool


_MEMORY = _Quantity("memory", "Device memory, GiB", "less is better", 2**30, size, bars=True)
_TIME = _Quantity(
    "time", "Time per token, as a multiple of LoRA's", "less is better", 1.0, "{:.2f} ×".format, bars=True
)
_QUALITY = _Quantity("quality", "Expected quality, standard deviations", "more is better", 1.0, signed, bars=False)


def multiples(subjects: Sequence[Subject], model: str) -> Multiples:
    """The drawings for a model of the catalogue, in bf16 without checkpointing."""
    found: dict[str, Estimate] = {}
    missing = []
    wanted = Constraints(model=model, batch=BATCH, quantization="none", checkpointing="off")
    for each in subjects:
        try:
            found[each.slug] = estimate(each.slug, wanted)
        except ConstraintError as error:
            missing.append(str(error) if each.name in str(error) else f"{each.name}: {error}")
    memory = {
        slug: Reach(one.peak.device_bytes, one.peak.low.device_bytes, one.peak.high.device_bytes)
        for slug, one in found.items()
    }
    time = {slug: Reach(*[one.step_time_relative] * 3) for slug, one in found.items()}
    standing = {one.slug: quality(one.slug) for one in subjects}
    qualities = {slug: Reach(one.estimate, one.low, one.high) for slug, one in standing.items()}
    drawn = [(_MEMORY, memory), (_TIME, time), (_QUALITY, qualities)]
    return Multiples(
        settings=_settings(found),
        missing=tuple(missing),
        panels=tuple(_panel(quantity, subjects, values) for quantity, values in drawn if values),
    )


def _settings(found: Mapping[str, Estimate]) -> str:
    if not found:
        return "none of these methods can be computed on this model"
    one = next(iter(found.values()))
    shape = f"{one.plan.micro_batch} × {one.plan.seq} tokens"
    return f"{one.model.name}, {shape}, weights in bf16, no checkpointing"


def _panel(quantity: _Quantity, subjects: Sequence[Subject], values: Mapping[str, Reach]) -> Multiple:
    ends = [end / quantity.unit for each in values.values() for end in each]
    scale = Scale(min([0.0, *ends]), max([0.0, *ends]), LEFT, RIGHT)
    return Multiple(
        key=quantity.key,
        title=quantity.title,
        better=quantity.better,
        bars=quantity.bars,
        zero=round(scale(0.0), 1),
        ticks=_labelled(scale, "{:g}" if quantity.bars else "{:+g}"),
        lines=tuple(_line(quantity, at, one, values.get(one.slug), scale) for at, one in enumerate(subjects)),
        width=WIDTH,
        left=LEFT,
        height=TOP + ROW * len(subjects) + 20,
    )


def _labelled(scale: Scale, text: str) -> tuple[Tick, ...]:
    """The marks of an axis; of many, every second has its value, zero among them."""
    ticks = scale.ticks(text)
    if len(ticks) < _CROWDED:
        return ticks
    zero = round(-scale.low / scale.step)
    return tuple(
        tick if (place - zero) % 2 == 0 else tick.model_copy(update={"label": ""}) for place, tick in enumerate(ticks)
    )


def _line(quantity: _Quantity, at: int, subject: Subject, reach: Reach | None, scale: Scale) -> MultipleLine:
    x, low, high, text = None, None, None, "not known"
    if reach is not None:
        x, low, high = (round(scale(end / quantity.unit), 1) for end in reach)
        text = quantity.words(reach.value)
        if reach.low < reach.high:
            text += f" ({quantity.words(reach.low)} to {quantity.words(reach.high)})"
    return MultipleLine(
        slug=subject.slug,
        name=subject.name,
        short=textwrap.shorten(subject.name, _LETTERS, placeholder="…"),
        tone=subject.tone,
        y=TOP + ROW * at + ROW // 2,
        x=x,
        low=low,
        high=high,
        text=text,
    )

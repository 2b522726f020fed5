"""The scale of a drawing: round numbers at its ends, a mark at every step."""

from __future__ import annotations

import math

from pydantic import Field

from recommender.units import with_minus
from web.views.base import View

_STEPS = (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000)


class Tick(View):
    """A line of an axis."""

    at: float = Field(description="position in the drawing")
    label: str = Field(description="value")


class Scale:
    """A linear scale whose ends are round numbers."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        span = max(high - low, 1e-9)
        self.step = next((step for step in _STEPS if span / step <= 6), span)
        self.low = (low // self.step) * self.step
        self.high = -(-high // self.step) * self.step
        if self.high <= self.low:
            self.high = self.low + self.step
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        """The position of a value in the drawing."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, text: str) -> tuple[Tick, ...]:
        """A mark at every step, with the value in ``text``."""
        count = round((self.high - self.low) / self.step)
        values = [round(self.low + place * self.step, 6) for place in range(count + 1)]
        return tuple(
            Tick(at=round(self(value), 1), label=with_minus(text.format(value)) if value else "0") for value in values
        )


class LogScale(Scale):
    """A scale of equal ratios whose ends are powers of ten; values have to be above zero."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = math.floor(math.log10(low)), math.ceil(math.log10(high))
        self.high = max(self.high, self.low + 1)
        self.step, self.start, self.end = 1.0, start, end

    def __call__(self, value: float) -> float:
        """The position of a value in the drawing."""
        return super().__call__(math.log10(value))

    def ticks(self, text: str) -> tuple[Tick, ...]:
        """A mark at every power of ten."""
        powers = range(round(self.low), round(self.high) + 1)
        return tuple(
            Tick(at=round(super(LogScale, self).__call__(power), 1), label=text.format(10**power)) for power in powers
        )

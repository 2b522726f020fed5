"""A range for reserved bytes that holds the truth nine times out of ten: conformal quantiles of truth over prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from profiler.validation.outcome import Outcome

WANTED = 0.9


class Range(BaseModel):
    """Factors on a dry run's reserved bytes, and how they did on rows that they were not made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float = Field(description="the truth is seldom below this times the prediction")
    high: float = Field(description="the truth is seldom above this times the prediction")
    wanted: float = Field(description="share of rows that the range is meant to hold")
    made_from: int = Field(description="rows that gave the factors: the first, third, fifth … by target and name")
    held_out: int = Field(description="rows that they were checked on: all others")
    covered: float = Field(description="share of the held-out rows within the range")


def quantile(values: Sequence[float], share: float) -> float:
    """The conformal quantile: the k-th of n values, k = ceil(share · (n + 1)); the last where k exceeds n."""
    ordered = sorted(values)
    return ordered[min(math.ceil(share * (len(ordered) + 1)), len(ordered)) - 1]


def coverage(outcomes: Sequence[Outcome]) -> Range:
    """The range from every second of the rows that no constant was fitted on, checked on the others."""
    rows = sorted((one for one in outcomes if one.use == "validation"), key=lambda one: (one.target, one.name))
    ratios = [one.measured / one.predicted for one in rows]
    made, held = ratios[::2], ratios[1::2]
    tail = (1 - WANTED) / 2
    low, high = -quantile([-ratio for ratio in made], 1 - tail), quantile(made, 1 - tail)
    low, high = math.floor(low * 1e4) / 1e4, math.ceil(high * 1e4) / 1e4
    inside = sum(low <= ratio <= high for ratio in held)
    return Range(
        low=low, high=high, wanted=WANTED, made_from=len(made), held_out=len(held), covered=round(inside / len(held), 4)
    )

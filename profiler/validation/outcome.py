"""One row of the table: a prediction beside a measurement, with the quantity named."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Use = Literal["fit", "validation"]


class Outcome(BaseModel):
    """A prediction, the published value, and what the row was used for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = Field(description="which target it belongs to")
    name: str = Field(description="the run, as its publisher names it")
    method: str = Field(description="the method, as its publisher names it")
    quantity: str = Field(description="what was measured")
    unit: Literal["bytes", "seconds"] = Field(description="unit of both values")
    predicted: float = Field(description="our value")
    measured: float = Field(description="the published value")
    use: Use = Field(description="whether the row was used to fit a constant or only to check it")
    note: str = Field("", description="why it is missed, where it is, or what was assumed")
    too_small: bool | None = Field(
        None, description="whether the card that we name is too small; null if none is named"
    )
    code: str = Field(description="digest of the profiler's code that the row was run with")

    @property
    def error(self) -> float:
        """Relative; above zero when too much is predicted."""
        return self.predicted / self.measured - 1


class Summary(BaseModel):
    """The errors of the rows of a target that no constant was fitted on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(description="rows that were checked")
    fitted: int = Field(description="rows that a constant was fitted on; not in the figures below")
    median: float = Field(description="median of the absolute relative errors")
    p90: float = Field(description="the error that nine of ten rows stay within")
    worst: float = Field(description="the largest absolute relative error")
    bias: float = Field(description="median of the signed errors")


def summary(outcomes: Iterable[Outcome]) -> Summary:
    """Figures of one target. Raises ``ValueError`` when no row is left."""
    rows = list(outcomes)
    signed = [one.error for one in rows if one.use == "validation"]
    if not signed:
        raise ValueError("no row was left for validation")
    errors = sorted(map(abs, signed))
    return Summary(
        rows=len(errors),
        fitted=len(rows) - len(errors),
        median=median(errors),
        p90=errors[-(-9 * len(errors) // 10) - 1],
        worst=errors[-1],
        bias=median(signed),
    )

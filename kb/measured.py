"""Predictions beside what cards measured here: the file ``kb/validation/card.json``, absent while nothing is measured."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from kb.closed_form import Implementation
from kb.loader import KB

FILE = KB / "validation" / "card.json"
_WANTED = {
    "allocated": (0.01, 0.03),
    "reserved": (0.02, 0.05),
    "step time": (0.08, 0.20),
}  # median, bound that is counted


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CardRun(_Part):
    """One run on a card, and its prediction."""

    card: str = Field(description="the card, as its driver names it")
    date: str = Field(description="day of the measurement")
    commit: str | None = Field(description="commit of this project that was measured")
    slug: str
    implementation: Implementation
    setting: str = Field(description="model, batch, types, in words")
    allocated_bytes: int | None = Field(description="measured peak of allocated bytes")
    reserved_bytes: int | None = Field(description="measured peak of reserved bytes")
    step_seconds: float | None = Field(description="measured median")
    predicted_allocated: int | None
    predicted_reserved: int | None
    predicted_seconds: float | None = Field(description="null where the catalogue does not know the card's rates")
    reason: str | None = Field(description="why it could not be predicted")

    def errors(self) -> dict[str, float]:
        """Relative errors of what is known, above zero when too much is predicted."""
        pairs = {
            "allocated": (self.predicted_allocated, self.allocated_bytes),
            "reserved": (self.predicted_reserved, self.reserved_bytes),
            "step time": (self.predicted_seconds, self.step_seconds),
        }
        return {name: said / found - 1 for name, (said, found) in pairs.items() if said and found}


class Beside(_Part):
    """Our implementation as a share of PEFT's."""

    card: str
    slug: str
    setting: str
    memory: float | None = Field(description="of the peak of allocated bytes")
    time: float | None = Field(description="of the step time")


class Tried(_Part):
    """Whether a batch fitted into a limit, as predicted and as tried."""

    card: str
    slug: str
    setting: str
    limit_gb: int
    predicted_bytes: int
    predicted: bool
    fitted: bool


class CardGoal(_Part):
    """The errors of one quantity."""

    rows: int
    median: float = Field(description="of the absolute relative errors")
    wanted: float = Field(description="the median that was asked for")
    bound: float
    within: float = Field(description="share of rows whose error is within the bound")


class CardReport(_Part):
    """The whole comparison."""

    made_by: str = Field(description="the command that writes the file")
    compared: tuple[CardRun, ...]
    beside: tuple[Beside, ...]
    tried: tuple[Tried, ...]

    def goals(self) -> dict[str, CardGoal]:
        """What was reached for each quantity that any row has."""
        found = {}
        for name, (wanted, bound) in _WANTED.items():
            errors = [abs(error) for row in self.compared if (error := row.errors().get(name)) is not None]
            if errors:
                share = sum(error <= bound for error in errors) / len(errors)
                found[name] = CardGoal(
                    rows=len(errors), median=median(errors), wanted=wanted, bound=bound, within=share
                )
        return found


@lru_cache(maxsize=1)
def card_report(path: Path = FILE) -> CardReport | None:
    """The committed comparison, or ``None`` while no card has been measured."""
    return CardReport.model_validate_json(path.read_bytes()) if path.is_file() else None

"""The criteria of the score, each between 0 and 1, and their weights per objective."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from recommender.answer import Criterion
from recommender.constraints import Objective
from recommender.quality import Evidence

WEIGHTS: dict[Objective, tuple[float, ...]] = {  # quality, memory, speed, storage, inference, robustness
    "balanced": (0.35, 0.15, 0.15, 0.05, 0.10, 0.20),
    "quality": (0.60, 0.05, 0.05, 0.05, 0.05, 0.20),
    "memory": (0.25, 0.45, 0.05, 0.05, 0.05, 0.15),
    "speed": (0.25, 0.05, 0.45, 0.05, 0.05, 0.15),
    "storage": (0.25, 0.05, 0.05, 0.45, 0.05, 0.15),
    "serving": (0.25, 0.05, 0.05, 0.15, 0.40, 0.10),
}
_INFERENCE = {
    "none": 1.0,
    "elementwise": 0.9,
    "extra_layers": 0.6,
    "longer_input": 0.5,
    "extra_network": 0.3,
    None: 0.5,
}
_UNSUPPORTED = 0.15  # taken off robustness where no independent study exists: untried is not robust


class Standing(NamedTuple):
    """The criteria that do not depend on a request, each between 0 and 1."""

    quality: float
    inference: float
    robustness: float


def standing_values(evidence: Evidence, overhead: str | None) -> Standing:
    """Quality, inference cost (from what the method leaves at inference) and robustness of a method."""
    quality = evidence.quality
    return Standing(
        quality=0.5 * (1 + math.erf(quality.low / math.sqrt(2))),
        inference=_INFERENCE[overhead],
        robustness=min(1.0, max(0.0, 1 + 0.5 * evidence.steadiness - _UNSUPPORTED * (quality.independent == 0))),
    )


def stored_value(stored: int | None) -> float:
    """The storage criterion from bytes per task: 1 at 100 kB, 0 at 100 GB, a half if it is not known."""
    return 0.5 if stored is None else min(1.0, max(0.0, 1 - math.log10(max(stored, 10**5) / 10**5) / 6))


def values(standing: Standing, demand: float, relative_time: float, storage: float) -> tuple[float, ...]:
    """The criteria in the order of ``WEIGHTS``, each between 0 and 1.

    ``demand`` is the share of the usable memory that the plan needs with one example at a time, ``relative_time`` the
    step time against LoRA, ``storage`` the value of ``stored_value``.
    """
    quality, inference, robustness = standing
    memory = 1 - demand if demand < 1 else 0.0
    speed = 0.8 / relative_time if relative_time > 0.8 else 1.0
    return quality, memory, speed, storage, inference, robustness


def score(weights: tuple[float, ...], parts: tuple[float, ...]) -> float:
    """The weighted sum of the criteria, between 0 and 1."""
    (a, b, c, d, e, f), (u, v, w, x, y, z) = weights, parts
    return a * u + b * v + c * w + d * x + e * y + f * z


def explained(
    objective: Objective, parts: tuple[float, ...], notes: StandingNotes, relative_time: float, stored: str
) -> tuple[Criterion, ...]:
    """The criteria with their weights and what each value stands for."""
    _, memory, speed, storage, _, _ = parts
    weights = WEIGHTS[objective]
    quality, inference, robustness = _standing(objective, parts[0], parts[4], parts[5], notes)
    return (
        quality,
        Criterion(
            name="memory",
            value=round(memory, 4),
            weight=weights[1],
            note=f"{1 - memory:.0%} of the memory with one example at a time",
        ),
        Criterion(
            name="speed",
            value=round(speed, 4),
            weight=weights[2],
            note=f"{relative_time:.2f} times LoRA's time per token",
        ),
        Criterion(name="storage", value=round(storage, 4), weight=weights[3], note=stored),
        inference,
        robustness,
    )


class StandingNotes(NamedTuple):
    """What the criteria that do not depend on a request stand for, in words."""

    quality: str
    inference: str
    robustness: str


def standing_notes(evidence: Evidence, overhead: str | None) -> StandingNotes:
    """The words for ``standing_values``."""
    quality = evidence.quality
    tried = f"worst study {evidence.steadiness:+.2f} against the mean, drawn towards the usual"
    return StandingNotes(
        quality=f"at least {quality.low:+.2f} standard deviations from the average method, in nine cases of ten",
        inference="not known" if overhead is None else overhead.replace("_", " "),
        robustness=tried if quality.independent else f"{tried}; no independent study",
    )


@lru_cache(maxsize=1024)
def _standing(
    objective: Objective, quality: float, inference: float, robustness: float, notes: StandingNotes
) -> tuple[Criterion, Criterion, Criterion]:
    weights = WEIGHTS[objective]
    return (
        Criterion(name="quality", value=round(quality, 4), weight=weights[0], note=notes.quality),
        Criterion(name="inference", value=round(inference, 4), weight=weights[4], note=notes.inference),
        Criterion(name="robustness", value=round(robustness, 4), weight=weights[5], note=notes.robustness),
    )

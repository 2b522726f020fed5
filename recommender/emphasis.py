"""How constraints move the weights of the criteria: each has one documented effect, with the finding that says why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from kb.situation import ANY, Situation
from recommender.answer import Citation, CriterionName, Effect
from recommender.citations import Library, computed
from recommender.constraints import Constraints, Objective

CRITERIA: tuple[CriterionName, ...] = (
    "quality",
    "memory",
    "speed",
    "storage",
    "inference",
    "robustness",
    "retention",
)

WEIGHTS: dict[Objective, tuple[float, ...]] = {  # in the order of CRITERIA
    "balanced": (0.35, 0.15, 0.15, 0.05, 0.10, 0.20, 0.0),
    "quality": (0.60, 0.05, 0.05, 0.05, 0.05, 0.20, 0.0),
    "memory": (0.25, 0.45, 0.05, 0.05, 0.05, 0.15, 0.0),
    "speed": (0.25, 0.05, 0.45, 0.05, 0.05, 0.15, 0.0),
    "storage": (0.25, 0.05, 0.05, 0.45, 0.05, 0.15, 0.0),
    "serving": (0.25, 0.05, 0.05, 0.15, 0.40, 0.10, 0.0),
}
"""The presets, chosen by us; they add up to 1."""

RETAINED = 0.25  # weight of retention, beside the others' 1, where forgetting matters
FEW, MANY = 300, 10_000  # examples: at and below the one sensitivity weighs most, from the other on as usual
SHORT, LONG = 3.0, 10.0  # passes over the data, likewise; the survey's comparison trained for three


class Shift(NamedTuple):
    """One effect of a constraint on a weight."""

    constraint: str
    criterion: CriterionName
    factor: float
    finding: int
    why: str


class Emphasis(NamedTuple):
    """The weights of a request and how they came about."""

    weights: tuple[float, ...]  # in the order of CRITERIA; they add up to 1
    shifts: tuple[Shift, ...]


def _between(value: float, full: float, none: float) -> float:
    """1 at and below ``full``, 0 from ``none`` on, and evenly in between on a logarithmic scale."""
    return min(1.0, max(0.0, math.log(none / value) / math.log(none / full)))


def shifts(constraints: Constraints) -> tuple[Shift, ...]:
    """What ``constraints`` do to the weights. Numbers act smoothly, so that a small change does little."""
    found = []
    if constraints.budget != "small":
        factor, why = {
            "none": (2.0, "a method that needs a search loses what its own tables promise"),
            "large": (0.5, "a search finds what a sensitive method needs"),
        }[constraints.budget]
        found.append(Shift(f"budget={constraints.budget}", "robustness", factor, 4, why))
    if constraints.epochs is not None and constraints.epochs < LONG:
        factor = 1 + 0.5 * _between(constraints.epochs, SHORT, LONG)
        found.append(
            Shift(
                f"epochs={constraints.epochs:g}",
                "robustness",
                factor,
                4,
                "few passes leave no time to recover from a bad start",
            )
        )
    if constraints.data is not None and constraints.data < MANY:
        factor = 1 + 0.5 * _between(constraints.data, FEW, MANY)
        found.append(
            Shift(
                f"data={constraints.data}",
                "robustness",
                factor,
                15,
                "with few examples settings decide more than the method",
            )
        )
    if constraints.adapters > 1:
        factor = 1 + math.log10(constraints.adapters)
        found.append(
            Shift(
                f"adapters={constraints.adapters}",
                "storage",
                factor,
                1,
                "every task is stored; nothing is merged, since tasks share a batch",
            )
        )
    if constraints.latency == "matters":
        found.append(
            Shift("latency=matters", "inference", 3.0, 1, "what a method leaves at inference is an axis of its own")
        )
    return tuple(found)


def emphasis(constraints: Constraints) -> Emphasis:
    """The weights of the objective, moved by the constraints and scaled to 1."""
    return _emphasis(constraints.objective, constraints.forgetting == "matters", shifts(constraints))


@lru_cache(maxsize=1024)
def _emphasis(objective: Objective, remembering: bool, moved: tuple[Shift, ...]) -> Emphasis:
    weights = dict(zip(CRITERIA, WEIGHTS[objective], strict=True))
    for shift in moved:
        weights[shift.criterion] *= shift.factor
    if remembering:
        weights["retention"] = RETAINED
    whole = sum(weights.values())
    return Emphasis(tuple(weight / whole for weight in weights.values()), moved)


RECORDS = computed("records: what each method needs and leaves")
SYNTHESIS = computed(
    "synthesis of published comparisons, fitted apart for kinds of task, amounts of data and sizes of model"
)


def effects(
    constraints: Constraints,
    at: Situation,
    given: Emphasis,
    library: Library,
    forgotten: Citation,
    left_out: Mapping[str, int],
) -> tuple[Effect, ...]:
    """The effects in words.

    ``at`` is what the evidence was asked about, ``left_out`` counts the methods that each requirement leaves out,
    ``forgotten`` cites what was measured of forgetting.
    """
    found = [
        Effect(
            constraint=shift.constraint,
            criterion=shift.criterion,
            factor=round(shift.factor, 3),
            text=f"Because {shift.constraint}, {shift.criterion} weighs {shift.factor:.2g} times as much: {shift.why}.",
            source=library.finding(shift.finding),
        )
        for shift in given.shifts
    ]
    for name in ("task", "data"):
        if name in constraints.model_fields_set and getattr(at, name) != ANY:
            said = f"{name}={getattr(constraints, name)}"
            text = f"Because {said}, quality is judged for {at}, as far as studies tell."
            found.append(Effect(constraint=said, criterion="quality", factor=None, text=text, source=SYNTHESIS))
    if constraints.forgetting == "matters":
        said = "forgetting=matters"
        text = f"Because {said}, retention makes up {given.weights[-1]:.0%} of the score: how much the loss on other text rises differs widely between methods."
        found.append(Effect(constraint=said, criterion="retention", factor=None, text=text, source=forgotten))
    for name, count in left_out.items():
        said = f"{name}={getattr(constraints, name)}"
        many = "1 method is" if count == 1 else f"{count} methods are"
        text = f"Because {said}, {many} left out that would apply otherwise; each says why."
        found.append(Effect(constraint=said, criterion=None, factor=None, text=text, source=RECORDS))
    return tuple(found)

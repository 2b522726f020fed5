"""What a model keeps of what it could do before: published measurements of forgetting, per method or per class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from kb.schema import Method
from kb.studies import Row, Study

METRIC = "forgetting: rise of the loss"
"""The metric of the rows that say it: the loss on text that has nothing to do with the task, in nats per token."""

HALF = 0.1  # nats per token at which half of the criterion is gone; an assumed scale, the middle of the measured runs


class Forgotten(NamedTuple):
    """What the best run of a method forgot."""

    configuration: str
    score: float
    rise: float


@dataclass(frozen=True)
class Retention:
    """How much a method made a model forget."""

    rise: float
    measured: bool  # on the method itself, not on its kin
    note: str  # what that rests on, in words

    @property
    def value(self) -> float:
        """The criterion: 1 if nothing is forgotten, a half at ``HALF``."""
        return 1 / (1 + max(0.0, self.rise) / HALF)


def measured(studies: Mapping[str, tuple[Study, Sequence[Row]]]) -> tuple[Study, Mapping[str, Forgotten]]:
    """The study that measured forgetting for most methods, with the best run of each.

    The best run is the one with the best score: a rate that teaches nothing also destroys nothing. Raises
    ``LookupError`` if no study measured it.
    """
    found = [(study, _best_runs(rows)) for study, rows in studies.values() if any(r.metric == METRIC for r in rows)]
    if not found:
        raise LookupError(f"no study has rows of the metric {METRIC!r}")
    return max(found, key=lambda each: len(each[1]))


def _best_runs(rows: Iterable[Row]) -> dict[str, Forgotten]:
    rises: dict[tuple[str, str], float] = {}
    scores: dict[tuple[str, str], float] = {}
    for row in rows:
        run = (row.method, row.configuration)
        if row.metric == METRIC:
            rises[run] = row.value
        elif row.higher_is_better:
            scores[run] = row.value
    best: dict[str, Forgotten] = {}
    for (method, configuration), rise in rises.items():
        score = scores.get((method, configuration))
        if score is not None and (method not in best or score > best[method].score):
            best[method] = Forgotten(configuration, score, rise)
    return best


def retention(methods: Mapping[str, Method], best: Mapping[str, Forgotten]) -> dict[str, Retention]:
    """For every method the forgetting of its best run, else what is usual in its classes, else among all methods."""
    usual = median(run.rise for run in best.values())
    by_class: dict[str, list[float]] = {}
    for slug in best.keys() & methods.keys():
        for leaf in methods[slug].taxonomy.classes:
            by_class.setdefault(leaf, []).append(best[slug].rise)

    def of(slug: str, method: Method) -> Retention:
        own = best.get(slug)
        if own is not None:
            return Retention(own.rise, True, f"in its best run ({own.configuration})")
        kin = [rise for leaf in method.taxonomy.classes for rise in by_class.get(leaf, ())]
        if kin:
            return Retention(
                median(kin), False, f"not measured, the middle of {len(kin)} measured methods of its class"
            )
        return Retention(usual, False, "not measured, nor its class; the middle of all methods")

    return {slug: of(slug, method) for slug, method in methods.items()}

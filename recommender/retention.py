"""What a model keeps of what it could do before: published measurements of forgetting, per method or per class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from kb.schema import Method
from kb.trials import Series, Trial

HALF = 0.1  # nats per token at which half of the criterion is gone; an assumed scale, the middle of the measured runs


@dataclass(frozen=True)
class Retention:
    """How much a method made a model forget."""

    rise: float  # of the loss on text that has nothing to do with the task, in nats per token
    note: str  # what that rests on, in words
    series: Series

    @property
    def value(self) -> float:
        """The criterion: 1 if nothing is forgotten, a half at ``HALF``."""
        return 1 / (1 + max(0.0, self.rise) / HALF)


def retention(
    methods: Mapping[str, Method], series: Iterable[tuple[Series, tuple[Trial, ...]]]
) -> dict[str, Retention]:
    """For every method the forgetting of its best run, else what is usual in its classes, else among all methods.

    The best run is the one with the best score: a rate that teaches nothing also destroys nothing.
    """
    about, trials = next(iter(series))
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial.method not in best or trial.score > best[trial.method].score:
            best[trial.method] = trial
    usual = median(trial.forgetting for trial in best.values())
    by_class: dict[str, list[float]] = {}
    for slug in best.keys() & methods.keys():
        for leaf in methods[slug].taxonomy.classes:
            by_class.setdefault(leaf, []).append(best[slug].forgetting)

    def of(slug: str, method: Method) -> Retention:
        own = best.get(slug)
        if own is not None:
            note = f"its best run ({own.configuration}) raised it by {own.forgetting:.3f}"
            return Retention(own.forgetting, note, about)
        kin = [rise for leaf in method.taxonomy.classes for rise in by_class.get(leaf, ())]
        if kin:
            return Retention(
                median(kin), f"not measured; the {len(kin)} measured methods of its class: {median(kin):.3f}", about
            )
        return Retention(usual, f"not measured, nor its class; the middle of all methods: {usual:.3f}", about)

    return {slug: of(slug, method) for slug, method in methods.items()}

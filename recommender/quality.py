"""Expected quality from published comparisons, and what each study says.

Only differences inside one table count: values of one (table, model, task, metric) are put on a common scale, each
study has one voice per method, weighted by how sure it is, and methods with little evidence are drawn towards the mean
of their taxonomy class. A method that no independent study contains gets its class's mean and a wide interval.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from statistics import fmean, pstdev
from typing import NamedTuple

from kb.comparison import Cell, cells
from kb.records import load_methods
from kb.schema import Method
from kb.studies import Row, Study, load_studies
from recommender.answer import Quality, StudyEffect
from recommender.testimony import Voice, strongest, voices

# Standard deviations, in units of one table's spread between methods. Assumed until the hierarchical model estimates them.
BETWEEN = 0.8  # between studies of one method
NOISE = 0.6  # of a single result: most tables report one seed
WITHIN_CLASS = 0.5  # of methods around their class
PRIOR_STUDIES = 2.0  # how many studies' worth the usual steadiness and the mean of all classes count
EIGHTY = 1.2816  # an 80 % interval of a normal distribution
SMALLEST_TABLE = 3  # methods


@dataclass(frozen=True)
class Evidence:
    """What the studies say about one method."""

    quality: Quality
    steadiness: float  # worst study against the mean of all, at most 0; drawn towards what is usual
    studies: tuple[str, ...]


class Situation(NamedTuple):
    """What the estimate is asked for; ``any`` where it does not matter."""

    task: str = "any"
    """A task group of the evidence."""
    data: str = "any"
    """few, small or large: how many training examples there are."""
    scale: str = "any"
    """small, medium or large: how many parameters the model has."""

    def __str__(self) -> str:
        told = [f"{name} {value}" for name, value in self._asdict().items() if value != "any"]
        return ", ".join(told) or "all situations"


ANYWHERE = Situation()


def situation(task: str = "any", examples: int | None = None, parameters: int | None = None) -> Situation:
    """The situation of a request: a task group, the number of training examples and of the model's parameters."""
    return Situation(task, "any", "any")


@lru_cache(maxsize=1)
def _cells() -> tuple[Cell, ...]:
    """Every cell of the evidence."""
    methods = load_methods()
    return tuple(cell for study, rows in load_studies().values() for cell in cells(study, rows, methods))


@cache
def _voices(slug: str) -> tuple[Voice, ...]:
    return voices(slug, _cells())


@lru_cache(maxsize=1)
def _synthesised() -> Mapping[str, Evidence]:
    return synthesise(load_methods(), load_studies())


def quality(slug: str, at: Situation = ANYWHERE) -> Quality:
    """What the evidence says about a method in a situation; ``KeyError`` for a slug without a record."""
    return _synthesised()[slug].quality


@cache
def studies_of(slug: str) -> tuple[StudyEffect, ...]:
    """What each study says about a method, independent ones first."""
    found = []
    for voice in _voices(slug):
        error = EIGHTY * math.sqrt(BETWEEN**2 + NOISE**2 / len(voice.cells))
        found.append(
            StudyEffect(
                study=voice.study.id,
                title=voice.study.title,
                url=voice.study.address,
                year=voice.study.year,
                independent=voice.independent,
                estimate=round(voice.mean, 3),
                low=round(voice.mean - error, 3),
                high=round(voice.mean + error, 3),
                n=len(voice.cells),
            )
        )
    return tuple(sorted(found, key=lambda each: (not each.independent, each.study)))


def _standardised(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Per method: its distances from the table's mean, in the table's standard deviations."""
    tables: dict[tuple[str, str, str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        cell = tables[row.table, row.model, row.task, row.metric]
        value = row.value if row.higher_is_better else -row.value
        cell[row.method] = max(value, cell.get(row.method, -math.inf))  # the best configuration speaks for a method
    scores: dict[str, list[float]] = defaultdict(list)
    for cell in tables.values():
        spread = pstdev(cell.values()) if len(cell) >= SMALLEST_TABLE else 0.0
        if spread > 0:
            mean = fmean(cell.values())
            for method, value in cell.items():
                scores[method].append((value - mean) / spread)
    return scores


def synthesise(
    methods: Mapping[str, Method], studies: Mapping[str, tuple[Study, tuple[Row, ...]]]
) -> dict[str, Evidence]:
    """The evidence for every method. Rows of a method that the study's own authors proposed do not count here."""
    said: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for study, rows in studies.values():
        for method, scores in _standardised(rows).items():
            if method in methods and method not in study.proposes:
                said[method][study.id] = scores
    means = {slug: {study: fmean(scores) for study, scores in own.items()} for slug, own in said.items()}
    priors = _priors(methods, means)
    drops = [min(own.values()) - fmean(own.values()) for own in means.values() if len(own) > 1]
    usual = fmean(drops) if drops else 0.0
    names = {slug: method.name for slug, method in methods.items()}
    everything = [cell for study, rows in studies.values() for cell in cells(study, rows, methods)]
    return {
        slug: _evidence(priors[slug], said.get(slug, {}), usual, voices(slug, everything), names) for slug in methods
    }


def _priors(methods: Mapping[str, Method], means: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What a method's classes let expect before its own evidence: the mean of their other members, drawn towards 0."""
    members: dict[str, dict[str, float]] = defaultdict(dict)
    for slug, own in means.items():
        for leaf in methods[slug].taxonomy.classes:
            members[leaf][slug] = fmean(own.values())

    def expected(slug: str, leaf: str) -> float:
        others = [mean for member, mean in members[leaf].items() if member != slug]
        return sum(others) / (len(others) + PRIOR_STUDIES)

    return {slug: fmean(expected(slug, leaf) for leaf in method.taxonomy.classes) for slug, method in methods.items()}


def _evidence(
    prior: float,
    own: Mapping[str, Sequence[float]],
    usual: float,
    spoken: Sequence[Voice],
    names: Mapping[str, str],
) -> Evidence:
    weights = {study: 1 / (BETWEEN**2 + NOISE**2 / len(scores)) for study, scores in own.items()}
    precision = WITHIN_CLASS**-2 + sum(weights.values())
    told = sum(weight * fmean(own[study]) for study, weight in weights.items())
    estimate, error = (prior * WITHIN_CLASS**-2 + told) / precision, math.sqrt(1 / precision)
    means = [fmean(scores) for scores in own.values()]
    worst = min(means) - fmean(means) if len(means) > 1 else usual
    results = sum(map(len, own.values()))
    pro, contra = strongest(spoken, lambda cell: True, names)
    if own:
        basis = f"{len(own)} independent {'study' if len(own) == 1 else 'studies'}, {results} standardised {'result' if results == 1 else 'results'}"
        basis += "; little independent evidence" if len(own) < 3 else ""
    else:
        basis = "no independent study; the mean of its class with a wide interval"
    return Evidence(
        quality=Quality(
            estimate=round(estimate, 3),
            low=round(estimate - EIGHTY * error, 3),
            high=round(estimate + EIGHTY * error, 3),
            situation=str(ANYWHERE),
            independent=len(own),
            self_reported=sum(not voice.independent for voice in spoken),
            rows=results,
            basis=basis,
            strongest_for=pro,
            strongest_against=contra,
        ),
        steadiness=(worst * len(own) + usual * PRIOR_STUDIES) / (len(own) + PRIOR_STUDIES),
        studies=tuple(sorted(own)),
    )

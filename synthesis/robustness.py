"""How much a method's results depend on seed, configuration and task, from the studies that varied them.

Spreads of methods are compared where they were measured together: the standard deviation over seeds that a study
reports for a cell, that between three configurations or more of a cell, and that of a method's standing over the tasks
of one study and situation. Only ratios count, so settings of different noise may be mixed. The same hierarchical model
as for quality then gives each method its logarithm of spread against the average method.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median, stdev

import numpy as np

from kb.comparison import Cell
from kb.schema import Method
from kb.situation import ANYWHERE
from kb.studies import Study
from synthesis.model import STANDING, classes_of, fit, imagined, untried
from synthesis.observation import Observation, of_cell, standardised
from synthesis.quality import interval

FEWEST = 3  # configurations or tasks whose spread means something
FARTHEST = 3.0  # a spread beyond eight times the median, or below an eighth, counts as that
Spreads = dict[str, float]


def _comparable(own: Spreads) -> Spreads:
    """Logarithms (base 2) of spreads above zero against their median; empty for fewer than two methods."""
    some = {method: value for method, value in own.items() if value > 0}
    if len(some) < 2:
        return {}
    middle = median(some.values())
    return {method: min(FARTHEST, max(-FARTHEST, math.log2(value / middle))) for method, value in some.items()}


def _of_seeds(cell: Cell) -> Spreads:
    return _comparable({method: cell.best(method).std or 0.0 for method in cell.results})


def _of_configurations(cell: Cell) -> Spreads:
    tuned = {method: rows for method, rows in cell.results.items() if len(rows) >= FEWEST}
    return _comparable({method: stdev(row.value for row in rows) for method, rows in tuned.items()})


def _of_tasks(cells: Sequence[Cell]) -> Iterator[tuple[Study, Spreads]]:
    """The spread of each method's standing over the cells of a study and situation that compare the same methods."""
    together: dict[tuple[object, ...], list[tuple[Cell, Mapping[str, float]]]] = defaultdict(list)
    for cell, scores in zip(cells, standardised(cells), strict=True):
        if len(scores) > 2:  # of two, each moves as far as the other
            together[cell.study.id, of_cell(cell), tuple(scores)].append((cell, scores))
    for own in together.values():
        if len(own) >= FEWEST:
            yield own[0][0].study, _comparable({m: stdev(scores[m] for _, scores in own) for m in own[0][1]})


def varied(cells: Sequence[Cell]) -> Iterator[tuple[Study, str, Spreads]]:
    """Every comparison of spreads, with what was varied."""
    for cell in cells:
        yield cell.study, "seeds", _of_seeds(cell)
        yield cell.study, "configurations", _of_configurations(cell)
    for study, spreads in _of_tasks(cells):
        yield study, "tasks", spreads


def observed(cells: Sequence[Cell]) -> list[Observation]:
    """Comparisons of spreads as observations; those of one study, kind and set of methods are averaged."""
    blocks: dict[tuple[str, str, tuple[str, ...]], list[Spreads]] = defaultdict(list)
    proposes: dict[str, tuple[str, ...]] = {}
    for study, kind, spreads in varied(cells):
        if spreads:
            blocks[study.id, kind, tuple(spreads)].append(spreads)
            proposes[study.id] = study.proposes
    return [
        Observation(
            study=study,
            method=method,
            at=ANYWHERE,
            block=number,
            value=fmean(spreads[method] for spreads in own) - fmean(fmean(each.values()) for each in own),
            cells=len(own),
            proposed=method in proposes[study],
            luck=0.0,
            claimed=bool(proposes[study]),
        )
        for number, ((study, _, names), own) in enumerate(blocks.items())
        for method in names
    ]


def synthesise(methods: Mapping[str, Method], cells: Sequence[Cell]) -> dict[str, object]:
    """Per method the logarithm of its spread against the average method's, with an 80 % interval, and its studies."""
    seen, leaves = observed(cells), classes_of(methods)
    mean, covariance = fit(leaves, seen).effects([imagined(slug) for slug in leaves], STANDING)
    estimates = {
        slug: interval(float(m), float(v)) for slug, m, v in zip(leaves, mean, np.diag(covariance), strict=True)
    }
    studies: dict[str, set[str]] = defaultdict(set)
    for each in seen:
        studies[each.method].add(each.study)
    return {
        "studies": len({each.study for each in seen}),
        "observations": len(seen),
        "classes": {leaf: estimates[leaf] for leaf in untried(leaves)},
        "methods": {slug: {"estimate": estimates[slug], "studies": sorted(studies[slug])} for slug in methods},
    }

"""How well the synthesis foretells a study that it has not seen, beside three simpler rankings.

``python -m synthesis.validation`` leaves out each independent study in turn, prints the comparison and writes
``kb/synthesis/validation.json``.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from kb.comparison import Cell
from kb.files import put
from kb.records import load_methods
from kb.schema import Method
from kb.studies import load_studies
from synthesis.model import STANDING, Fit, classes_of, fit
from synthesis.observation import Observation, all_cells, digest, observations, of_cell, standardised
from synthesis.record import FOLDER, stamp, text

LEAST_METHODS = 3
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
PREDICTIVE = (*STANDING, "study_class", "study_method", "block", "cell")
TARGETS = {"correlation": 0.5, "regret": 0.4, "coverage_low": 0.72, "coverage_high": 0.88}
_DRAWS = 4000

Ranking = Callable[[Cell], Mapping[str, float]]
"""A value for each method of a cell, the more the better."""


@dataclass(frozen=True)
class Verdict:
    """How a ranking did in one cell."""

    study: str
    correlation: float
    """Spearman's, of the ranking's values with the cell's; zero if the ranking sees no difference."""
    first: float
    """What its first choice lacks to the best method, in standard deviations of the cell."""
    three: float | None
    """The same for the best of its first three; ``None`` in a cell of three methods, where it says nothing."""


def judged(cell: Cell, ranking: Ranking) -> Verdict:
    """The verdict on a ranking in a cell."""
    told = ranking(cell)
    methods = list(cell.values)
    foretold, found = [told[method] for method in methods], [cell.values[method] for method in methods]
    correlation = float(spearmanr(foretold, found).statistic) if len(set(foretold)) > 1 else 0.0
    return Verdict(
        cell.study.id,
        correlation,
        _regret(cell, told, 1),
        _regret(cell, told, 3) if len(methods) > LEAST_METHODS else None,
    )


def _regret(cell: Cell, told: Mapping[str, float], count: int) -> float:
    """What the best of ``count`` first choices lacks to the best of the cell; the mean over the orders of equals."""
    bar = sorted(told.values(), reverse=True)[count - 1]
    sure = [method for method in told if told[method] > bar]
    equal = [method for method in told if told[method] == bar]
    picks = [(*sure, *chosen) for chosen in itertools.combinations(equal, count - len(sure))]
    best = max(cell.values.values())
    return fmean((best - max(cell.values[method] for method in pick)) / cell.spread for pick in picks)


def _means(cells: Iterable[tuple[Cell, Mapping[str, float]]]) -> Ranking:
    """Each method's mean distance over all given cells; zero for one that they lack."""
    said: dict[str, list[float]] = defaultdict(list)
    for _, scores in cells:
        for method, score in scores.items():
            said[method].append(score)
    means = {method: fmean(scores) for method, scores in said.items()}
    return lambda cell: {method: means.get(method, 0.0) for method in cell.values}


def _asked(cell: Cell) -> list[Observation]:
    """The cell as observations of a study that is not known."""
    at = of_cell(cell)
    return [
        Observation(cell.study.id, method, at, -1, 0.0, 1, proposed=False, luck=0.0, claimed=False)
        for method in cell.values
    ]


def _ours(fitted: Fit) -> Ranking:
    def ranking(cell: Cell) -> Mapping[str, float]:
        mean, _ = fitted.effects(_asked(cell), STANDING)
        return dict(zip(cell.values, (float(each) for each in mean), strict=True))

    return ranking


def _depths(fitted: Fit, cell: Cell, scores: Mapping[str, float]) -> list[float]:
    """For each method the smallest central interval, as a share, that holds what was found."""
    mean, covariance = fitted.effects(_asked(cell), PREDICTIVE)
    centre = np.eye(len(mean)) - 1 / len(mean)
    error = np.sqrt(np.diag(centre @ covariance @ centre))
    away = (np.array(list(scores.values())) - centre @ mean) / error
    return [2 * NormalDist().cdf(abs(float(each))) - 1 for each in away]


def validate(methods: Mapping[str, Method], cells: Sequence[Cell]) -> dict[str, Any]:
    """The report: every independent study with cells of three methods or more left out in turn."""
    scores = list(zip(cells, standardised(cells), strict=True))
    seen, leaves = observations(cells), classes_of(methods)
    start = fit(leaves, seen).sds  # where each search starts; where it ends, the remaining studies decide
    judgeable = [(cell, own) for cell, own in scores if len(cell.values) >= LEAST_METHODS and not cell.study.proposes]
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    depths: dict[str, list[float]] = defaultdict(list)
    for study in sorted({cell.study.id for cell, _ in judgeable}):
        others = [each for each in scores if each[0].study.id != study]
        fitted = fit(leaves, [each for each in seen if each.study != study], start)
        rankings: dict[str, Ranking] = {
            "synthesis": _ours(fitted),
            "mean": _means(others),
            "claims": _means(each for each in others if each[0].study.proposes),
            "lora": lambda cell: {method: float(method == "lora") for method in cell.values},
        }
        for cell, own in judgeable:
            if cell.study.id == study:
                for name, ranking in rankings.items():
                    verdicts[name].append(judged(cell, ranking))
                depths[study] += _depths(fitted, cell, own)
        sys.stderr.write(f"left out {study}\n")
    return {
        "targets": TARGETS,
        "rankings": {name: _summary(own, verdicts["synthesis"]) for name, own in verdicts.items()},
        "coverage": [{"nominal": level, "reached": _covered(depths, level)} for level in LEVELS],
        "studies": [_line(study, verdicts, depths[study], judgeable) for study in depths],
        "cells": len(judgeable),
    }


def _by_study(verdicts: Iterable[Verdict], of: Callable[[Verdict], float | None]) -> dict[str, float]:
    """The mean of each study's cells: one study is one voice."""
    found: dict[str, list[float]] = defaultdict(list)
    for each in verdicts:
        value = of(each)
        if value is not None:
            found[each.study].append(value)
    return {study: fmean(values) for study, values in found.items()}


_MEASURES: dict[str, Callable[[Verdict], float | None]] = {
    "correlation": lambda each: each.correlation,
    "regret_three": lambda each: each.three,
    "regret_first": lambda each: each.first,
}


def _summary(own: Sequence[Verdict], ours: Sequence[Verdict]) -> dict[str, Any]:
    """Means over studies with 80 % bootstrap intervals over studies, also of the difference from the synthesis."""
    random = np.random.default_rng(0)
    told: dict[str, Any] = {}
    for name, of in _MEASURES.items():
        values, reference = _by_study(own, of), _by_study(ours, of)
        paired = np.array([(values[study], values[study] - reference[study]) for study in values])
        drawn = paired[random.integers(len(paired), size=(_DRAWS, len(paired)))].mean(axis=1)
        low, high = np.quantile(drawn, (0.1, 0.9), axis=0)
        told[name] = {
            "mean": round(float(paired[:, 0].mean()), 3),
            "low": round(float(low[0]), 3),
            "high": round(float(high[0]), 3),
            "studies": len(paired),
            "by_cell": round(fmean(value for each in own if (value := of(each)) is not None), 3),
            "against_synthesis": [round(float(x), 3) for x in (paired[:, 1].mean(), low[1], high[1])],
        }
    return told


def _covered(depths: Mapping[str, Sequence[float]], level: float) -> float:
    return round(fmean(depth <= level for own in depths.values() for depth in own), 3)


def _line(
    study: str,
    verdicts: Mapping[str, Sequence[Verdict]],
    depths: Sequence[float],
    judgeable: Sequence[tuple[Cell, Mapping[str, float]]],
) -> dict[str, Any]:
    """One left-out study."""
    own = [each for each in verdicts["synthesis"] if each.study == study]
    cells = [(cell, scores) for cell, scores in judgeable if cell.study.id == study]
    three = [each.three for each in own if each.three is not None]
    return {
        "study": study,
        "cells": len(own),
        "methods": sorted({method for cell, _ in cells for method in cell.values}),
        "correlation": round(fmean(each.correlation for each in own), 3),
        "regret_three": round(fmean(three), 3) if three else None,
        "regret_first": round(fmean(each.first for each in own), 3),
        "agreement": _agreement(cells),
        "covered": round(fmean(depth <= 0.8 for depth in depths), 3),
    }


def _agreement(cells: Sequence[tuple[Cell, Mapping[str, float]]]) -> float | None:
    """How well the study's other cells foretell each of its cells: what no ranking from outside can be asked to beat."""
    found = []
    for place, (cell, _) in enumerate(cells):
        ranking = _means(other for at, other in enumerate(cells) if at != place)
        if len(cells) > 1:
            found.append(judged(cell, ranking).correlation)
    return round(fmean(found), 3) if found else None


def table(report: Mapping[str, Any]) -> str:
    """The report for the terminal."""
    lines = [f"{'':32}{'rank correlation':>22}{'regret of 3':>20}{'regret of 1st':>20}"]
    for name, measures in report["rankings"].items():
        cells = [f"{m['mean']:.2f} ({m['low']:.2f} to {m['high']:.2f})" for m in measures.values()]
        lines.append(f"{name:32}{cells[0]:>22}{cells[1]:>20}{cells[2]:>20}")
    lines.append("")
    for each in sorted(report["studies"], key=lambda line: line["correlation"]):
        three = "–" if each["regret_three"] is None else f"{each['regret_three']:.2f}"
        agreement = "–" if each["agreement"] is None else f"{each['agreement']:.2f}"
        lines.append(
            f"{each['study']:32}{each['cells']:>5} cells {each['correlation']:>10.2f}{three:>20}"
            f"{each['regret_first']:>20.2f}  own agreement {agreement}, covered {each['covered']:.0%}"
        )
    lines.append("")
    lines += [f"{each['nominal']:.0%} intervals hold {each['reached']:.1%}" for each in report["coverage"]]
    return "\n".join(lines)


def main() -> None:
    """Validate, print and write the report."""
    methods = load_methods()
    cells = all_cells(load_studies(), methods)
    report = {**stamp("python -m synthesis.validation", digest(cells, methods)), **validate(methods, cells)}
    put(FOLDER / "validation.json", text(report))
    sys.stdout.write(table(report) + "\n")


if __name__ == "__main__":
    main()

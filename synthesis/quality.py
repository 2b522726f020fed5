"""The committed result: for every method with a record and every situation an estimate with its interval."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from kb.comparison import Cell
from kb.schema import Method
from kb.situation import ANY, ANYWHERE, DATA, SCALES, Situation
from kb.studies import TASK_GROUPS
from synthesis.model import EIGHTY, STANDING, Fit, classes_of, fit, imagined, untried
from synthesis.observation import Observation, observations

Interval = list[float]
"""Estimate, lower and upper end of an 80 % interval."""
_VOICE = ("study_class", "study_method", "block", "cell")


def situations() -> list[Situation]:
    """Every situation that can be asked for."""
    tasks = [ANY, *(group for group in TASK_GROUPS if group != "other")]
    return [
        Situation(*each)
        for each in itertools.product(tasks, [ANY, *(name for name, _ in DATA)], [ANY, *(name for name, _ in SCALES)])
    ]


def interval(mean: float, variance: float) -> Interval:
    """An 80 % interval of a normal distribution."""
    error = EIGHTY * math.sqrt(max(variance, 0.0))
    return [round(mean, 3), round(mean - error, 3), round(mean + error, 3)]


def synthesise(methods: Mapping[str, Method], cells: Sequence[Cell]) -> dict[str, object]:
    """The fitted model in figures: variances, self-report bias, and per method estimates and studies."""
    seen, leaves = observations(cells), classes_of(methods)
    fitted = fit(leaves, seen)
    meanings = {part.name: part.meaning for part in fitted.parts}
    standings = {at: _standings(fitted, list(leaves), at) for at in situations()}
    effects = _study_effects(fitted, seen)
    return {
        "components": {
            name: {"meaning": meanings[name], "sd": round(sd, 3)} for name, sd in fitted.sds.items() if name != "level"
        },
        "self_report": _self_report(fitted, methods, seen),
        "classes": {leaf: {at.key: standings[at][leaf] for at in situations()} for leaf in untried(leaves)},
        "tasks": {at.task: count for at, count in _counted(seen, "task").items()},
        "methods": {
            slug: {
                "effective_studies": _effective(fitted, standings[ANYWHERE][slug], slug),
                "estimates": {at.key: standings[at][slug] for at in situations()},
                "studies": effects.get(slug, {}),
            }
            for slug in methods
        },
    }


def _counted(seen: Sequence[Observation], part: str) -> dict[Situation, int]:
    """In how many studies each value of a part of the situation occurs."""
    found: dict[str, set[str]] = defaultdict(set)
    for each in seen:
        found[getattr(each.at, part)].add(each.study)
    return {Situation(**{part: value}): len(studies) for value, studies in sorted(found.items())}


def _standings(fitted: Fit, slugs: Sequence[str], at: Situation) -> dict[str, Interval]:
    mean, covariance = fitted.effects([imagined(slug, at) for slug in slugs], STANDING)
    return {slug: interval(float(m), float(v)) for slug, m, v in zip(slugs, mean, np.diag(covariance), strict=True)}


def _effective(fitted: Fit, standing: Interval, slug: str) -> float:
    """How many independent studies of one cell would have told as much about the method as the evidence does."""
    everywhere = ("class", "method")
    weights = {part.name: sum(share**2 for share in part.marks(imagined(slug)).values()) for part in fitted.parts}
    prior = sum(weights[name] * fitted.sds[name] ** 2 for name in everywhere)
    posterior = ((standing[2] - standing[1]) / (2 * EIGHTY)) ** 2
    voice = sum(weights[name] * fitted.sds[name] ** 2 for name in _VOICE)
    return round(max(0.0, voice * (1 / posterior - 1 / prior)), 1)


def _self_report(fitted: Fit, methods: Mapping[str, Method], seen: Sequence[Observation]) -> dict[str, object]:
    """How much better a method looks in the studies of those who propose it, overall and by class."""
    proposed: dict[str, list[Observation]] = defaultdict(list)
    for each in seen:
        if each.proposed:
            for leaf in methods[each.method].taxonomy.classes:
                proposed[leaf].append(each)
    some = next(each for own in proposed.values() for each in own)
    mean, covariance = fitted.effects([some], ("bias",))
    classes = {}
    for leaf, own in sorted(proposed.items()):
        pure = [each for each in own if len(methods[each.method].taxonomy.classes) == 1]
        if pure:
            m, c = fitted.effects(pure[:1], ("bias", "bias_class"))
            classes[leaf] = {
                "bias": interval(float(m[0]), float(c[0, 0])),
                "studies": len({each.study for each in own}),
            }
    return {
        "bias": interval(float(mean[0]), float(covariance[0, 0])),
        "studies": len({each.study for own in proposed.values() for each in own}),
        "classes": classes,
    }


def _study_effects(fitted: Fit, seen: Sequence[Observation]) -> dict[str, dict[str, list[float]]]:
    """Per method and study: the study's own estimate with an 80 % interval of its noise, and its cells.

    Within a block a method's distance from the others counts, and those others' standing is added: to stand at the
    mean of strong methods is to be strong.
    """
    expected, _ = fitted.effects(seen, STANDING)
    blocks: dict[int, list[tuple[Observation, float]]] = defaultdict(list)
    for each, standing in zip(seen, expected, strict=True):
        blocks[each.block].append((each, float(standing)))
    found: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for own in blocks.values():
        for each, _ in own:
            rivals = [other for other in own if other[0].method != each.method]
            level = fmean(other.value - standing for other, standing in rivals)
            found[each.method, each.study].append((each.cells, each.value - level))
    sds = fitted.sds
    effects: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for (method, study), parts in sorted(found.items()):
        cells = sum(count for count, _ in parts)
        mean = sum(count * value for count, value in parts) / cells
        variance = sds["block"] ** 2 * sum((count / cells) ** 2 for count, _ in parts) + sds["cell"] ** 2 / cells
        effects[method][study] = [*interval(mean, variance), cells]
    return effects

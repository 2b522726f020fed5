"""Where to start with the learning rate: what published sweeps found on a model like this, else what the paper used."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kb.schema import LearningRate, Method
from kb.studies import Row, Study
from recommender.answer import Citation, Start
from recommender.citations import Library, computed
from recommender.retention import METRIC as FORGETTING
from recommender.units import show_count

_NEAR = 10.0  # times larger or smaller: a model whose rates say something about this one
_TELLING = 0.05  # of the best score: rates that differ less in what they led to do not tell which is better
_RATE = re.compile(r"\blr[ _=]*(\d+(?:\.\d+)?(?:e-?\d+)?)")
_ADVICE = re.compile(r"\d+(?:\.\d+)?e-\d+")


class Tried(NamedTuple):
    """A learning rate with what it led to, inside one comparison."""

    rate: float
    score: float


class Sweep(NamedTuple):
    """Learning rates of one method on one model and task, in one study."""

    method: str
    kind: str | None
    """Kind of model; ``None`` if the study does not say."""
    model: str
    parameters: float
    task: str
    metric: str
    tried: tuple[Tried, ...]
    source: Citation

    @property
    def telling(self) -> bool:
        """Whether several rates were tried and it mattered."""
        scores = [each.score for each in self.tried]
        several = len({each.rate for each in self.tried}) > 1
        return several and max(scores) - min(scores) > _TELLING * abs(max(scores))

    @property
    def best(self) -> Tried:
        """The rate with the best score, the lowest of equals."""
        return max(self.tried, key=lambda each: (each.score, -each.rate))


def sweeps(
    studies: Mapping[str, tuple[Study, Sequence[Row]]], kinds: Mapping[str, str], library: Library
) -> dict[str, tuple[Sweep, ...]]:
    """Every published set of learning rates by method, one rate or several. ``kinds`` maps models to their kind.

    Only rows whose settings name the rate count, and only models of known size.
    """
    found: dict[str, list[Sweep]] = defaultdict(list)
    for study, rows in studies.values():
        for sweep in _in_rows(study, rows, kinds, library):
            found[sweep.method].append(sweep)
    return {method: tuple(each) for method, each in found.items()}


def _in_rows(study: Study, rows: Sequence[Row], kinds: Mapping[str, str], library: Library) -> Iterable[Sweep]:
    cells: dict[tuple[str, ...], list[tuple[Row, Tried]]] = defaultdict(list)
    for row in rows:
        named = _RATE.search(row.configuration)
        if named is not None and row.model_params is not None and row.metric != FORGETTING:
            score = row.value if row.higher_is_better else -row.value
            cells[row.table, row.model, row.task, row.metric, row.method].append((row, Tried(float(named[1]), score)))
    for runs in cells.values():
        row = runs[0][0]
        source = library.study(study).model_copy(update={"where": row.table})
        name = row.model.rpartition("/")[2].casefold()
        yield Sweep(
            row.method,
            kinds.get(name),
            row.model,
            float(row.model_params or 0),
            row.task_group,
            f"{row.metric} on {row.task}",
            tuple(tried for _, tried in runs),
            source,
        )


def usual_rate(found: Mapping[str, Sequence[Sweep]]) -> tuple[float, Citation]:
    """The rate that most single runs of one comparison have, and the comparison."""
    singles = [
        (sweep.tried[0].rate, sweep.source) for each in found.values() for sweep in each if len(sweep.tried) == 1
    ]
    rate, _ = Counter(rate for rate, _ in singles).most_common(1)[0]
    return rate, next(source for each, source in singles if each == rate)


class Scale(NamedTuple):
    """The model and task for which a rate is wanted."""

    kind: str
    parameters: float
    task: str


def starting_rate(
    method: Method,
    own: Sequence[Sweep],
    at: Scale,
    library: Library,
    usual: tuple[float, Citation],
) -> Start | None:
    """The learning rate to start from, with its source; ``None`` for a method that is not trained.

    In this order: the best of several that were tried on a model of this kind within a factor of ten in size, on this
    kind of task before others, where it mattered; the paper's; one that was used there; the first that our advice names; the rate that most methods of one comparison had.
    """
    guidance = method.mechanism.learning_rate
    if guidance is None:
        return None
    near = [each for each in own if _fits(each, at)]
    swept = [each for each in near if each.telling]
    if swept:
        return _swept(min(swept, key=lambda each: (each.task != at.task, _distance(each, at), -len(each.tried))))
    paper = _paper(guidance, library)
    if paper is not None:
        return paper
    if near:
        return _single(min(near, key=lambda each: (each.task != at.task, _distance(each, at))))
    named = _ADVICE.search(guidance.advice)
    if named is not None:
        source = computed(f"the record of {method.name}, advice on the learning rate")
        return Start(
            name="learning_rate", value=float(named[0]), why=f"Nothing is published. {guidance.advice}", source=source
        )
    rate, found = usual
    why = f"Nothing is published for it; most methods of this comparison had this rate. {guidance.advice}"
    return Start(name="learning_rate", value=rate, why=why, source=found)


def _fits(sweep: Sweep, at: Scale) -> bool:
    return sweep.kind in (None, at.kind) and _distance(sweep, at) <= math.log(_NEAR)


def _distance(sweep: Sweep, at: Scale) -> float:
    return abs(math.log(sweep.parameters / at.parameters))


def _swept(sweep: Sweep) -> Start:
    best = sweep.best
    others = sorted({each.rate for each in sweep.tried} - {best.rate})
    second = max((each for each in sweep.tried if each.rate != best.rate), key=lambda each: each.score)
    why = (
        f"Best of {len(others) + 1} tried on {sweep.model} ({show_count(sweep.parameters)}): {sweep.metric} "
        f"{abs(best.score):.4g}, against {abs(second.score):.4g} at {second.rate:g}."
    )
    return Start(name="learning_rate", value=best.rate, why=why, source=sweep.source)


def _paper(guidance: LearningRate, library: Library) -> Start | None:
    if guidance.paper.value is None or guidance.paper.source is None:
        return None
    source = library.cite(guidance.paper.source)
    return Start(name="learning_rate", value=guidance.paper.value, why=f"The paper's. {guidance.advice}", source=source)


def _single(sweep: Sweep) -> Start:
    tried = sweep.best
    why = f"What was used on {sweep.model} ({show_count(sweep.parameters)}): {sweep.metric} {abs(tried.score):.4g}."
    return Start(name="learning_rate", value=tried.rate, why=why, source=sweep.source)

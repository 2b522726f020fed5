"""From result rows to observations: one method in one block of cells that compare the same methods in one situation."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median

from kb.comparison import Cell, cells
from kb.schema import Method
from kb.situation import Situation, situation
from kb.studies import Row, Study

Studies = Mapping[str, tuple[Study, tuple[Row, ...]]]

FARTHEST = 2.5  # standard deviations: a run that collapsed says "worse", not how much worse
USUAL = 2.0  # the weight, in degrees of freedom, of the usual spread of the study's metric in one cell's spread


@dataclass(frozen=True)
class Observation:
    """A method's mean standing in the cells of a block."""

    study: str
    method: str
    at: Situation
    block: int
    """Observations of one block share an unknown level; only differences inside it count."""
    value: float
    """Distance from the mean of the block's methods, in standard deviations within a cell."""
    cells: int
    proposed: bool
    """Whether the study's authors propose the method."""
    luck: float
    """Expected maximum of as many standard normal draws as configurations were tried, of which the best is taken."""
    claimed: bool
    """Whether the study's authors propose any of the methods: the others are then their baselines."""


def all_cells(studies: Studies, methods: Mapping[str, Method]) -> list[Cell]:
    """The cells that say something: at least two methods with a record, not all equal."""
    found = (cell for study, rows in studies.values() for cell in cells(study, rows, methods))
    return [cell for cell in found if cell.spread > 0]


def standardised(found: Sequence[Cell]) -> list[dict[str, float]]:
    """For each cell the distances of its methods from their mean, in standard deviations, at most ``FARTHEST``.

    A cell of three methods knows its own spread badly, so it is drawn towards the usual variance of the same metric in
    the same study.
    """
    squares = [sum((value - cell.mean) ** 2 for value in cell.values.values()) for cell in found]
    usual: dict[tuple[str, str], list[float]] = defaultdict(list)
    for cell, square in zip(found, squares, strict=True):
        usual[cell.study.id, cell.row.metric].append(square / (len(cell.values) - 1))
    scores = []
    for cell, square in zip(found, squares, strict=True):
        typical = median(usual[cell.study.id, cell.row.metric])
        spread = math.sqrt((USUAL * typical + square) / (USUAL + len(cell.values) - 1))
        bounded = {
            method: min(FARTHEST, max(-FARTHEST, (value - cell.mean) / spread)) for method, value in cell.values.items()
        }
        middle = fmean(bounded.values())
        scores.append({method: value - middle for method, value in bounded.items()})
    return scores


def of_cell(cell: Cell) -> Situation:
    """The situation that a cell was measured in."""
    row = cell.row
    return situation(row.task_group, row.examples, row.model_params)


def expected_maximum(draws: int) -> float:
    """The expected maximum of standard normal draws (Blom's approximation, within 0.03)."""
    return NormalDist().inv_cdf((draws - 0.375) / (draws + 0.25))


def observations(found: Sequence[Cell]) -> list[Observation]:
    """The observations of cells, in their order.

    Cells of one study and situation that compare the same methods are averaged: for a complete design nothing is lost.
    """
    blocks: dict[tuple[object, ...], list[tuple[Cell, dict[str, float]]]] = defaultdict(list)
    for cell, scores in zip(found, standardised(found), strict=True):
        blocks[cell.study.id, of_cell(cell), tuple(cell.values)].append((cell, scores))
    seen = []
    for number, own in enumerate(blocks.values()):
        first = own[0][0]
        for method in first.values:
            seen.append(
                Observation(
                    study=first.study.id,
                    method=method,
                    at=of_cell(first),
                    block=number,
                    value=fmean(scores[method] for _, scores in own),
                    cells=len(own),
                    proposed=method in first.study.proposes,
                    luck=fmean(expected_maximum(len(cell.results[method])) for cell, _ in own),
                    claimed=bool(first.study.proposes),
                )
            )
    return seen


def digest(found: Iterable[Cell], methods: Mapping[str, Method]) -> str:
    """A fingerprint of all that a fit depends on: rows of the cells, who proposes what, classes of the methods."""
    lines = []
    for cell in found:
        lines.append(f"{cell.study.id} {sorted(cell.study.proposes)}")
        for method, rows in cell.results.items():
            lines.append(f"{method} {sorted(methods[method].taxonomy.classes)} {rows}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

"""Cells of published comparisons: results of different methods that may be compared with each other.

A cell is one study, table, model, task, metric and data size. Nothing is compared across cells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, pstdev

from kb.studies import Row, Study


@dataclass(frozen=True)
class Cell:
    """The methods of one cell, each with all its rows; there are at least two."""

    study: Study
    results: Mapping[str, tuple[Row, ...]]

    @property
    def row(self) -> Row:
        """Any row: what the cell is about is the same in all."""
        return next(iter(self.results.values()))[0]

    def best(self, method: str) -> Row:
        """The method's best configuration, which speaks for it."""
        sign = 1 if self.row.higher_is_better else -1
        return max(self.results[method], key=lambda row: sign * row.value)

    @cached_property
    def values(self) -> Mapping[str, float]:
        """Per method the value of its best configuration, turned so that more is better."""
        sign = 1 if self.row.higher_is_better else -1
        return {method: sign * self.best(method).value for method in self.results}

    @cached_property
    def mean(self) -> float:
        """The average method."""
        return fmean(self.values.values())

    @cached_property
    def spread(self) -> float:
        """Standard deviation between the methods; zero if all are equal."""
        return pstdev(self.values.values(), self.mean)

    def distance(self, method: str, other: str | None = None) -> float:
        """How much better a method is than another one, or than the average, in standard deviations of the cell."""
        if self.spread == 0:
            return 0.0
        return (self.values[method] - (self.mean if other is None else self.values[other])) / self.spread


def cells(study: Study, rows: Iterable[Row], methods: Container[str]) -> tuple[Cell, ...]:
    """The cells of a study, in the order of its rows, with those of its methods that are in ``methods``.

    Rows of the group ``other`` make none: speed, or what is kept of old abilities, says nothing of quality.
    """
    found: dict[tuple[object, ...], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.method in methods and row.task_group != "other":
            cell = row.table, row.model, row.task, row.examples, row.metric, row.higher_is_better
            found[cell][row.method].append(row)
    return tuple(
        Cell(study, {method: tuple(own) for method, own in results.items()})
        for results in found.values()
        if len(results) > 1
    )

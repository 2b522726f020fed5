"""Published comparisons: a study is a small YAML file and a CSV of its rows beside it (kb/evidence/)."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, cast, get_args

from pydantic import Field

from kb.loader import KB, Problem, RecordError, load_record, shown
from kb.schema import Grade, Many, Record, Slug, Text

TaskGroup = Literal["understanding", "generation", "reasoning", "vision", "diffusion", "speech", "other"]
TASK_GROUPS: tuple[str, ...] = get_args(TaskGroup)


class Study(Record):
    """Who compared what, and what to beware of."""

    id: Slug = Field(description="file stem; sources refer to it")
    title: Text = Field(description="title of the paper or name of the report")
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")] | None = Field(description="quoted arXiv id, or null")
    url: Text | None = Field(description="where to read it, or null if the arXiv id says so")
    year: int | None = Field(description="year of publication, or null if not known")
    proposes: Many[Slug] = Field(
        description="compared methods that its authors proposed; empty for an independent study"
    )
    hardware: Text | None = Field(description="cards used, or null if not said")
    seeds: int | None = Field(description="runs per row, or null if not said or different from row to row")
    grade: Grade = Field(description="A: numbers read in the source itself; B: in a secondary text")
    cautions: Many[Text] = Field(description="what to beware of, one sentence each")

    @property
    def address(self) -> str | None:
        """Where to read it, or ``None``."""
        return self.url or (f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None)


@dataclass(frozen=True, slots=True)  # thousands are read at every start: the rules check what a model would check
class Row:
    """One reported result."""

    table: Annotated[str, Field(description="table or file of the study")]
    model: Annotated[str, Field(description="model that was adapted")]
    model_params: Annotated[int | None, Field(description="its number of parameters, or null if not known")]
    task: Annotated[
        str,
        Field(description="data set, with its size where it was varied; a mean over several begins with 'average of'"),
    ]
    task_group: Annotated[
        TaskGroup,
        Field(
            description="kind of task, vision with what is said about images; other: no quality of these kinds, such as speed or what is kept of old abilities"
        ),
    ]
    examples: Annotated[int | None, Field(description="training examples, or null if not known")]
    metric: Annotated[str, Field(description="what the value is")]
    higher_is_better: Annotated[bool, Field(description="direction of the metric")]
    method: Annotated[str, Field(description="slug of the method; it need not have a record")]
    configuration: Annotated[str, Field(description="settings as reported")]
    value: Annotated[float, Field(description="as reported")]
    std: Annotated[float | None, Field(description="standard deviation over seeds, or null")]
    seeds: Annotated[int | None, Field(description="runs behind the value, or null if not said")]
    trainable: Annotated[str | None, Field(description="trainable parameters as reported, or null")]
    memory_bytes: Annotated[
        int | None, Field(description="peak memory in bytes (reserved, if the study says nothing else), or null")
    ]
    step_seconds: Annotated[float | None, Field(description="seconds per training step, or null")]


COLUMNS = tuple(field.name for field in fields(Row))
"""The first line of every CSV."""


def _count(name: str, cell: str) -> int | None:
    if not cell:
        return None
    if not cell.isdecimal() or int(cell) == 0:
        raise ValueError(f"{name} is {cell!r}; write a whole number above zero, or nothing")
    return int(cell)


def _number(name: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {cell!r}; write a number, or nothing")
    return number


def _row(cells: Sequence[str]) -> Row:
    if len(cells) != len(COLUMNS):
        raise ValueError(f"has {len(cells)} cells; write {len(COLUMNS)}, one for each column")
    table, model, params, task, group, examples, metric, direction, method, configuration, *numbers = cells
    value, std, seeds, trainable, memory, step = numbers
    number = _number("value", value)
    if number is None:
        raise ValueError("has no value; remove the row")
    if direction not in ("yes", "no"):
        raise ValueError(
            f"higher_is_better is {direction!r}; write yes or no, the direction of {metric or 'the metric'}"
        )
    return Row(
        table,
        model,
        _count("model_params", params),
        task,
        cast(TaskGroup, group),
        _count("examples", examples),
        metric,
        direction == "yes",
        method,
        configuration,
        number,
        _number("std", std),
        _count("seeds", seeds),
        trainable or None,
        _count("memory_bytes", memory),
        _number("step_seconds", step),
    )


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of one study, the first from line 2; ``RecordError`` with file and line of one that is not complete.

    Words (task group, method) are checked by the rules, which know all studies.
    """
    rows: list[Row] = []
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        if tuple(next(reader, ())) != COLUMNS:
            raise RecordError([Problem(shown(path), 1, f"the columns must be {','.join(COLUMNS)}")])
        for line, cells in enumerate(reader, start=2):
            try:
                if reader.line_num != line:
                    raise ValueError("runs over several lines; keep a row on one line")
                rows.append(_row(cells))
            except ValueError as error:
                raise RecordError([Problem(shown(path), line, f"not a result row: {error}")]) from None
    return tuple(rows)


@lru_cache(maxsize=1)
def load_studies() -> Mapping[str, tuple[Study, tuple[Row, ...]]]:
    """Every study with its rows, by id."""
    studies = {}
    for path in sorted((KB / "evidence").glob("*.yaml")):
        study = load_record(path, Study)
        studies[study.id] = (study, read_rows(path.with_suffix(".csv")))
    return MappingProxyType(studies)

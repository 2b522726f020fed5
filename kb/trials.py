"""Published runs with their learning rate and what the model forgot (kb/trials/): what tables of scores leave out."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from pydantic import Field

from kb.loader import KB, Problem, RecordError, load_record, shown
from kb.schema import Architecture, Record, Slug, Text

COLUMNS = ("method", "configuration", "learning_rate", "score", "forgetting")


class Series(Record):
    """Runs of one study on one model and task."""

    study: Slug = Field(description="id of the study in kb/evidence")
    model: Text = Field(description="model that was adapted")
    parameters: float = Field(gt=0, description="its number of parameters")
    kind: Architecture = Field(description="kind of model")
    task_group: Literal["understanding", "generation", "reasoning", "vision", "diffusion"] = Field(
        description="kind of task, as constraints name it"
    )
    metric: Text = Field(description="what the score is; higher is better")
    forgetting: Text = Field(description="what the numbers of forgetting are; lower is better")
    where: Text = Field(description="where in the study the numbers stand")


class Trial(NamedTuple):
    """One run."""

    method: str
    configuration: str
    learning_rate: float
    score: float
    forgetting: float


def read_trials(path: Path) -> tuple[Trial, ...]:
    """The runs of one file; ``RecordError`` with file and line for one that is not complete."""
    trials: list[Trial] = []
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        if tuple(next(reader, ())) != COLUMNS:
            raise RecordError([Problem(shown(path), 1, f"the columns must be {','.join(COLUMNS)}")])
        for method, configuration, *numbers in reader:
            try:
                rate, score, forgetting = map(float, numbers)
            except ValueError as error:
                message = f"not a run: {error}; write learning rate, score and forgetting as numbers"
                raise RecordError([Problem(shown(path), reader.line_num, message)]) from None
            trials.append(Trial(method, configuration, rate, score, forgetting))
    return tuple(trials)


@lru_cache(maxsize=1)
def load_trials() -> Mapping[str, tuple[Series, tuple[Trial, ...]]]:
    """Every series with its runs, by file stem."""
    paths = sorted((KB / "trials").glob("*.yaml"))
    return MappingProxyType(
        {path.stem: (load_record(path, Series), read_trials(path.with_suffix(".csv"))) for path in paths}
    )

"""Published comparisons, what they say together, and how far that can be trusted."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from statistics import fmean
from typing import Any

from pydantic import Field

from kb.records import load_names
from kb.studies import COLUMNS, Row, Study, load_studies
from kb.table import guarded
from recommender.quality import committed
from taxonomy import build
from web.problems import FieldError, ProblemError, near_names
from web.views.base import Stamped, View, stamp
from web.views.trust import Advantages, Calibration, Ranking, Trial, advantages, calibration, rankings, trials

_WORD = re.compile(r"\w[\w+-]*")


class StudyItem(View):
    """A study in the list."""

    id: str = Field(description="name in addresses")
    title: str
    year: int | None = Field(description="year of publication, or null if not known")
    independent: bool = Field(description="whether its authors propose none of the compared methods")
    proposes: tuple[str, ...] = Field(description="compared methods that its authors propose")
    names: tuple[str, ...] = Field(description="their written names, in the same order")
    grade: str = Field(description="A: numbers read in the source itself; B: in a secondary text")
    rows: int = Field(description="results")
    methods: int = Field(description="methods compared")
    tasks: tuple[str, ...] = Field(description="kinds of tasks")


class Spread(View):
    """A variance component of the synthesis."""

    name: str
    meaning: str = Field(description="between what it is the spread")
    sd: float = Field(description="standard deviation, in standard deviations within a cell")


class Figures(View):
    """How much there is."""

    studies: int
    independent: int
    rows: int
    methods: int = Field(description="methods with a record that a study compares")
    cells: int = Field(description="cells of independent studies that are judged in the validation")


class EvidencePage(Stamped):
    """All studies, the synthesis and its validation."""

    figures: Figures
    studies: tuple[StudyItem, ...]
    spreads: tuple[Spread, ...] = Field(description="what the synthesis found to vary, and how much")
    shift: float = Field(description="the largest spread of a method or class between situations")
    between: float = Field(description="the spread between classes")
    advantages: Advantages = Field(description="how much better methods look in the studies of those who propose them")
    rankings: tuple[Ranking, ...] = Field(description="the synthesis beside simpler rankings, on studies left out")
    trials: tuple[Trial, ...] = Field(description="each study left out, hardest first")
    agreement: float = Field(
        description="how well a study's other cells foretell one of its cells, mean of the studies"
    )
    calibration: Calibration = Field(description="how often intervals hold what was found")
    targets: dict[str, float] = Field(description="what was asked of the synthesis")
    reached: dict[str, bool] = Field(description="which of it is reached")
    generators: dict[str, str] = Field(description="the commands that make the figures")
    versions: dict[str, str] = Field(description="libraries that fitted the synthesis")


class TableRows(View):
    """The rows of one table of a study."""

    name: str = Field(description="table or file of the study")
    rows: tuple[Row, ...]


class StudyPage(Stamped):
    """One study with all its rows."""

    study: Study
    address: str | None = Field(description="where to read it")
    independent: bool
    names: dict[str, str] = Field(description="written names of the methods")
    recorded: tuple[str, ...] = Field(description="methods that have a record, and so a page")
    judged: Trial | None = Field(
        description="how the synthesis foretold it without seeing it; null if it was not asked"
    )
    tables: tuple[TableRows, ...]


@lru_cache(maxsize=1)
def evidence_page() -> EvidencePage:
    """All studies and what they say together."""
    studies = load_studies()
    fitted, validated = committed("quality"), committed("validation")
    ranked = rankings(validated["rankings"])
    compared = {row.method for _, rows in studies.values() for row in rows} & build().methods.keys()
    return EvidencePage(
        **stamp(),
        links={"html": "/evidence", "api": "/api/v1/evidence", "csv": "/api/v1/evidence.csv"},
        figures=Figures(
            studies=len(studies),
            independent=sum(not study.proposes for study, _ in studies.values()),
            rows=sum(len(rows) for _, rows in studies.values()),
            methods=len(compared),
            cells=validated["cells"],
        ),
        studies=tuple(_item(study, rows) for study, rows in studies.values()),
        spreads=tuple(Spread(name=name, **each) for name, each in fitted["components"].items() if name != "bias"),
        shift=max(
            each["sd"] for name, each in fitted["components"].items() if name.endswith(("_task", "_data", "_scale"))
        ),
        between=fitted["components"]["class"]["sd"],
        advantages=advantages(fitted, {name: study for name, (study, _) in studies.items()}, _names()),
        rankings=ranked,
        trials=trials(validated["studies"], {name: study.title for name, (study, _) in studies.items()}),
        agreement=fmean(each["agreement"] for each in validated["studies"] if each["agreement"] is not None),
        calibration=calibration(validated["coverage"]),
        targets=validated["targets"],
        reached=_reached(ranked, validated["coverage"], validated["targets"]),
        generators={"synthesis": fitted["generator"], "validation": validated["generator"]},
        versions=fitted["versions"],
    )


def _names() -> dict[str, str]:
    return {leaf: node.name for leaf, node in build().classes.items()}


def _item(study: Study, rows: Iterable[Row]) -> StudyItem:
    every = tuple(rows)
    return StudyItem(
        id=study.id,
        title=study.title,
        year=study.year,
        independent=not study.proposes,
        proposes=study.proposes,
        names=tuple(written(slug, study) for slug in study.proposes),
        grade=study.grade,
        rows=len(every),
        methods=len({row.method for row in every}),
        tasks=tuple(sorted({row.task_group for row in every})),
    )


def written(slug: str, study: Study) -> str:
    """A method's name as its record, ``kb/names.yaml`` or the title of ``study`` writes it; else the words of its slug."""
    known = build().methods.get(slug)
    if known is not None:
        return known.name
    if slug in load_names():
        return load_names()[slug]
    letters = slug.replace("_", "")
    return next(
        (word for word in _WORD.findall(study.title) if _plain_letters(word) == letters), slug.replace("_", " ")
    )


def _plain_letters(word: str) -> str:
    return "".join(filter(str.isalnum, word.casefold()))


def _reached(
    ranked: Iterable[Ranking], coverage: Iterable[Mapping[str, float]], targets: Mapping[str, float]
) -> dict[str, bool]:
    ours, *others = ranked
    eighty = next(each["reached"] for each in coverage if each["nominal"] == 0.8)
    return {
        "correlation": ours.correlation.mean >= targets["correlation"],
        "regret_of_three": ours.regret_three.mean <= targets["regret"],
        "regret_of_first": ours.regret_first.mean <= targets["regret"],
        "coverage": targets["coverage_low"] <= eighty <= targets["coverage_high"],
        "best_in_correlation": all(ours.correlation.mean > each.correlation.mean for each in others),
        "best_in_regret_of_three": all(ours.regret_three.mean < each.regret_three.mean for each in others),
        "best_in_regret_of_first": all(ours.regret_first.mean < each.regret_first.mean for each in others),
    }


@lru_cache(maxsize=128)
def study_page(name: str) -> StudyPage:
    """One study; ``ProblemError`` (404) with near names if there is none of that name."""
    studies = load_studies()
    if name not in studies:
        near = near_names(name, studies)
        message = f"there is no study {name[:80]!r}"
        raise ProblemError(404, message, [FieldError(parameter="study", message=message, near=near)])
    study, rows = studies[name]
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(row.table, []).append(row)
    compared = {row.method for row in rows} | set(study.proposes)
    return StudyPage(
        **stamp(),
        links={"html": f"/evidence/{name}", "api": f"/api/v1/evidence/{name}", "all": "/evidence"},
        study=study,
        address=study.address,
        independent=not study.proposes,
        names={slug: written(slug, study) for slug in sorted(compared)},
        recorded=tuple(sorted(compared & build().methods.keys())),
        judged=next((each for each in evidence_page().trials if each.study == name), None),
        tables=tuple(TableRows(name=table, rows=tuple(own)) for table, own in tables.items()),
    )


@lru_cache(maxsize=1)
def evidence_csv() -> bytes:
    """Every result of every study as one table; no cell can start a formula in a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(("study", "independent", *COLUMNS))
    for study, rows in load_studies().values():
        kind = "no" if study.proposes else "yes"
        for row in rows:
            writer.writerow((study.id, kind, *(_plain(getattr(row, column)) for column in COLUMNS)))
    return stream.getvalue().encode()


def _plain(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return guarded(cell) if isinstance(cell, str) else f"{cell:.15g}"

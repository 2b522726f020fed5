"""Rules about published comparisons: each can be looked up, compares something, and counts no result twice."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from kb.knowledge import KnowledgeBase, near, problem_at
from kb.loader import Problem, shown
from kb.studies import TASK_GROUPS, Row

SLUG = re.compile(r"[a-z][a-z0-9_]*")
BY_CHANCE = 2
"""So many equal cells in two studies may be chance: results are rounded, and tasks have few values."""


def studies_name_what_they_compare(kb: KnowledgeBase) -> Iterator[Problem]:
    """A study's id is its file's name, and what its authors propose is a record or among its rows."""
    for stem, (study, rows) in kb.studies.items():
        path = _record(kb, stem)
        if study.id != stem:
            yield problem_at(path, ("id",), f"the id {study.id!r} differs from the file's name; write {stem}")
        known = kb.slugs | {row.method for row in rows}
        for place, slug in enumerate(study.proposes):
            if slug not in known:
                message = f"{slug!r} is neither a record nor a method of its rows{near(slug, known)}"
                yield problem_at(path, ("proposes", place), message)


def studies_can_be_looked_up(kb: KnowledgeBase) -> Iterator[Problem]:
    """A study has an arXiv id or an address, and every row the table or file that it stands in."""
    for stem, (study, rows) in kb.studies.items():
        if study.arxiv is None and study.url is None:
            message = "has neither arxiv nor url; say where its numbers can be read, or remove the study"
            yield problem_at(_record(kb, stem), ("url",), message)
        for line, row in enumerate(rows, start=2):
            if not row.table.strip():
                yield _at(kb, stem, line, "names no table; say in which table or file of the study the value stands")


def studies_compare(kb: KnowledgeBase) -> Iterator[Problem]:
    """A study has rows of at least two methods: nothing can be learnt from one."""
    for stem, (_, rows) in kb.studies.items():
        methods = {row.method for row in rows}
        if len(methods) < 2:
            what = f"only {methods.pop()}" if methods else "nothing"
            message = f"compares {what}; add the results of other methods, or remove the study"
            yield _at(kb, stem, 1, message)


def results_say_what_they_are(kb: KnowledgeBase) -> Iterator[Problem]:
    """A row names its model, task, metric and method, and its task group is a known one."""
    for stem, (_, rows) in kb.studies.items():
        for line, row in enumerate(rows, start=2):
            for name in ("model", "task", "metric"):
                if not getattr(row, name).strip():
                    yield _at(kb, stem, line, f"{name} is empty; write what the study says")
            if not SLUG.fullmatch(row.method):
                message = f"the method {row.method!r} is no slug; write lower-case letters, digits and _"
                yield _at(kb, stem, line, message)
            if row.task_group not in TASK_GROUPS:
                hint = near(row.task_group, TASK_GROUPS)
                message = f"the task group {row.task_group!r} is none of {', '.join(TASK_GROUPS)}{hint}"
                yield _at(kb, stem, line, message)


def metrics_have_one_direction(kb: KnowledgeBase) -> Iterator[Problem]:
    """A metric is better when higher, or when lower, in all studies alike."""
    first: dict[str, tuple[bool, str]] = {}
    for stem, (_, rows) in kb.studies.items():
        for line, row in enumerate(rows, start=2):
            higher, place = first.setdefault(row.metric, (row.higher_is_better, f"{stem}.csv:{line}"))
            if higher != row.higher_is_better:
                message = (
                    f"{row.metric} is better when {'lower' if higher else 'higher'} here, not in {place}; correct one"
                )
                yield _at(kb, stem, line, message)


def methods_are_called_by_their_slug(kb: KnowledgeBase) -> Iterator[Problem]:
    """A row does not call a method by another name of its record."""
    slugs = {_plain(alias): slug for slug, method in kb.methods.items() for alias in (method.name, *method.aliases)}
    for stem, (study, rows) in kb.studies.items():
        for line, row in enumerate(rows, start=2):
            if row.method not in kb.slugs and _plain(row.method) in slugs:
                message = f"{row.method!r} is another name of a record; write its slug, {slugs[_plain(row.method)]}"
                yield _at(kb, stem, line, message)
        for place, slug in enumerate(study.proposes):
            if slug not in kb.slugs and _plain(slug) in slugs:
                message = f"{slug!r} is another name of a record; write its slug, {slugs[_plain(slug)]}"
                yield problem_at(_record(kb, stem), ("proposes", place), message)


def results_are_written_once(kb: KnowledgeBase) -> Iterator[Problem]:
    """No cell of a table stands twice: with equal settings a method has one value."""
    for stem, (_, rows) in kb.studies.items():
        seen: dict[tuple[object, ...], int] = {}
        for line, row in enumerate(rows, start=2):
            place = (row.table, row.model, row.task, row.examples, row.metric)
            cell = (*place, row.method, row.configuration, row.trainable)
            first = seen.setdefault(cell, line)
            if first != line:
                message = f"repeats the cell of line {first}; keep one, or write what differs into configuration"
                yield _at(kb, stem, line, message)


def baselines_are_counted_once(kb: KnowledgeBase) -> Iterator[Problem]:
    """Where two studies agree to the last digit on a method, one has copied it: it stays in the study that ran it.

    Suspicious are more than ``BY_CHANCE`` equal cells of one model and method, if over two thirds that both studies have
    are equal.
    """
    results = {stem: _by_method(rows) for stem, (_, rows) in kb.studies.items()}
    by_age = sorted(results, key=lambda stem: (kb.studies[stem][0].year or 0, stem))
    for first, later in combinations(by_age, 2):
        for model, method in sorted(results[first].keys() & results[later].keys()):
            one, other = results[first][model, method], results[later][model, method]
            equal = [
                other[task][value] for task in one.keys() & other.keys() for value in one[task].keys() & other[task]
            ]
            shared = sum(min(len(one[task]), len(other[task])) for task in one.keys() & other.keys())
            if len(equal) > BY_CHANCE and 3 * len(equal) > 2 * shared:
                message = (
                    f"{method} has the digits of {first} in {len(equal)} of {shared} cells; keep them in the study "
                    "that ran them, remove the copy and say so in cautions"
                )
                yield _at(kb, later, min(equal), message)


def _by_method(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, dict[float, int]]]:
    """For each model and method its values with their lines, by task; names without case, owner and punctuation."""
    found: dict[tuple[str, str], dict[str, dict[float, int]]] = defaultdict(lambda: defaultdict(dict))
    for line, row in enumerate(rows, start=2):
        model, task = _plain(row.model.rpartition("/")[2]), _plain(row.task.partition(",")[0])
        found[model, row.method][task].setdefault(row.value, line)
    return found


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _record(kb: KnowledgeBase, stem: str) -> Path:
    return kb.root / "kb" / "evidence" / f"{stem}.yaml"


def _at(kb: KnowledgeBase, stem: str, line: int, message: str) -> Problem:
    return Problem(shown(_record(kb, stem).with_suffix(".csv")), line, message)

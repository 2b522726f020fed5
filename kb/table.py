"""Records as rows of one table: the columns that lists, comparisons and the CSV file share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kb.schema import Count, Method, Source, SurveyRow, Value

Cell = str | int | float | bool | None


def _unsourced(_: Method) -> Source | None:
    return None


@dataclass(frozen=True)
class Column:
    """One fact of a record: its name in data, its name for people, how it is read, and its source.

    ``None`` is 'not known'; what a record says of itself, or in our own words, has no source.
    """

    key: str
    label: str
    read: Callable[[Method], Cell]
    source: Callable[[Method], Source | None] = _unsourced


def _joined(words: Iterable[str]) -> str | None:
    return ", ".join(words) or None


def _value(name: str, label: str) -> Column:
    def read(method: Method) -> Cell:
        value: Value[bool] | Value[str] = getattr(method.efficiency, name)
        return value.value

    return Column(name, label, read, lambda method: _sourced(getattr(method.efficiency, name)))


def _sourced(value: Value[Any] | Count | SurveyRow | None) -> Source | None:
    return None if value is None else value.source


def _count(name: str, label: str) -> Column:
    def read(method: Method) -> Cell:
        count: Count = getattr(method.counts, name)
        return None if count.expr is None else f"{count.expr} (per {count.scope})"

    return Column(f"count_{name}", label, read, lambda method: _sourced(getattr(method.counts, name)))


def _survey_row(name: str, label: str) -> Column:
    def read(method: Method) -> Cell:
        row = method.efficiency.survey_table1
        return None if row is None else str(getattr(row, name)).replace("_", " ")

    return Column(f"survey_{name}", label, read, lambda method: _sourced(method.efficiency.survey_table1))


def _scale(name: str, label: str) -> Column:
    def read(method: Method) -> Cell:
        value: Value[float] = getattr(method.applies_to, name)
        return value.value

    return Column(name, label, read, lambda method: _sourced(getattr(method.applies_to, name)))


COLUMNS: tuple[Column, ...] = (
    Column("slug", "Slug", lambda m: m.slug),
    Column("name", "Name", lambda m: m.name),
    Column("full_name", "Full name", lambda m: m.full_name),
    Column("year", "Year", lambda m: m.year),
    Column("status", "Status", lambda m: m.status),
    Column("classes", "Classes", lambda m: _joined(m.taxonomy.classes)),
    Column("summary", "In short", lambda m: m.summary),
    Column("changes", "Changes", lambda m: _joined(m.mechanism.changes)),
    Column("form", "Form", lambda m: _joined(m.mechanism.form)),
    Column("where", "Acts on", lambda m: _joined(m.mechanism.where)),
    _count("trainable", "Trainable parameters"),
    _count("changed", "Changed parameters"),
    _count("rank", "Rank of the change"),
    _count("stored", "Stored per task"),
    _value("mergeable", "Mergeable"),
    _value("identity_at_init", "Starts at the base model"),
    _value("backprop_through_backbone", "Backpropagates through the backbone"),
    _value("quantised_base", "Works on a quantised base"),
    _value("many_adapters_in_one_batch", "Many adapters in one batch"),
    _value("needs_data_first", "Needs data before training"),
    _value("needs_all_gradients", "Needs gradients of all weights"),
    _value("inference_overhead", "Remains at inference"),
    _survey_row("disk", "Disk (survey)"),
    _survey_row("ram", "Memory (survey)"),
    _survey_row("backprop", "Backpropagation (survey)"),
    _survey_row("inference_overhead", "Inference overhead (survey)"),
    Column("architectures", "Architectures", lambda m: _joined(m.applies_to.architectures)),
    Column("needs", "Needs", lambda m: _joined(m.applies_to.needs) or "nothing else"),
    _scale("smallest_scale", "Smallest model shown"),
    _scale("largest_scale", "Largest model shown"),
    Column("libraries", "Libraries", lambda m: _joined(each.name for each in m.code.libraries) or "none"),
    Column("implementation", "Runs here", lambda m: m.reference is not None),
    Column("paper", "Paper", lambda m: m.paper.title if m.paper else None),
    Column("arxiv", "arXiv", lambda m: m.paper.arxiv if m.paper else None),
)
"""Every column, in the order of display."""


def row(method: Method) -> dict[str, Cell]:
    """The cells of a record by column key."""
    return {column.key: column.read(method) for column in COLUMNS}


def shown(cell: Cell) -> str:
    """A cell for people: ``yes``, ``no``, ``not known``, ``125 million``, else its text."""
    if cell is None:
        return "not known"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        for size, word in ((1e9, "billion"), (1e6, "million")):
            if cell >= size:
                return f"{cell / size:.4g} {word}"
        return f"{cell:g}"
    return str(cell)


def differing(methods: Iterable[Method]) -> tuple[Column, ...]:
    """The columns in which not all of ``methods`` agree."""
    rows = [row(method) for method in methods]
    return tuple(column for column in COLUMNS if len({repr(each[column.key]) for each in rows}) > 1)


class Cited(NamedTuple):
    """The sources of a table, each once, and their numbers by method and column."""

    sources: tuple[Source, ...]
    numbers: Mapping[tuple[str, str], int]  # from 1, in the order of reading


def cited(methods: Sequence[Method], columns: Iterable[Column]) -> Cited:
    """Where the values of a comparison come from."""
    places: dict[Source, int] = {}
    numbers = {
        (method.slug, column.key): places.setdefault(source, len(places) + 1)
        for column in columns
        for method in methods
        if (source := column.source(method)) is not None
    }
    return Cited(tuple(places), numbers)


def to_csv(methods: Iterable[Method]) -> str:
    """The table as CSV with a header; an empty cell is 'not known'. No cell can start a formula in a spreadsheet."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(column.key for column in COLUMNS)
    for method in methods:
        cells = row(method).values()
        writer.writerow("" if cell is None else _plain(cell) for cell in cells)
    return stream.getvalue()


def _plain(cell: Cell) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return guarded(cell) if isinstance(cell, str) else f"{cell:.15g}"


def guarded(text: str) -> str:
    """Text that a spreadsheet takes as text: a leading sign that starts a formula gets an apostrophe before it."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text

"""Everything that a folder of the knowledge base holds, read as far as it can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel
from rapidfuzz import process

from kb.catalogue import read_gpus, read_model
from kb.loader import Problem, RecordError, line_of, load_record, shown
from kb.records import read_findings, read_readings
from kb.schema import Classification, Finding, Method, Reading, Source
from kb.studies import Row, Study, read_rows

T = TypeVar("T")
Location = tuple[str | int, ...]


@dataclass(frozen=True)
class KnowledgeBase:
    """Records that could be read, with the folder that they come from (the one that holds ``kb/``)."""

    root: Path
    methods: Mapping[str, Method]
    classification: Classification
    readings: Mapping[str, Reading]
    findings: Mapping[int, Finding]
    studies: Mapping[str, tuple[Study, tuple[Row, ...]]] = field(default_factory=dict)
    """Published comparisons with their rows; sources may refer to them."""
    unread: frozenset[str] = frozenset()
    """Slugs whose file is there and could not be read: no relation to them is 'to nowhere'."""

    @property
    def slugs(self) -> frozenset[str]:
        """Slugs of all records, also of those that could not be read."""
        return self.unread.union(self.methods)

    def file(self, slug: str) -> Path:
        """The file of a record."""
        return self.root / "kb" / "methods" / f"{slug}.yaml"

    def problem(self, slug: str, location: Location, message: str) -> Problem:
        """A complaint about a value of a record, with its line."""
        return problem_at(self.file(slug), location, message)


def problem_at(path: Path, location: Location, message: str) -> Problem:
    """A complaint about the value at ``location`` of a file."""
    return Problem(shown(path), line_of(path, location), message)


def near(word: str, known: Iterable[str]) -> str:
    """The end of a complaint about an unknown word: the known one that it resembles, or nothing."""
    match = process.extractOne(word, sorted(known), score_cutoff=60)
    return f"; did you mean {match[0]!r}?" if match else ""


def sources_in(record: object, location: Location = ()) -> Iterator[tuple[Location, Source]]:
    """Every ``Source`` inside a record with the location at which it stands."""
    for step, value in _parts(record):
        if isinstance(value, Source):
            yield (*location, step), value
        else:
            yield from sources_in(value, (*location, step))


def texts_in(record: object, location: Location = ()) -> Iterator[tuple[Location, str]]:
    """Every text inside a record with the location at which it stands."""
    for step, value in _parts(record):
        if isinstance(value, str):
            yield (*location, step), value
        else:
            yield from texts_in(value, (*location, step))


def _parts(record: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(record, BaseModel):
        yield from ((name, getattr(record, name)) for name in type(record).model_fields)
    elif isinstance(record, dict):
        yield from record.items()
    elif isinstance(record, tuple):
        yield from enumerate(record)


def read(root: Path) -> tuple[KnowledgeBase | None, list[Problem]]:
    """The knowledge base under ``root`` and what could not be read of it; ``None`` if its frame is broken."""
    folder = root / "kb"
    problems: list[Problem] = []
    methods: dict[str, Method] = {}
    unread: set[str] = set()
    for path in sorted((folder / "methods").glob("*.yaml")):
        method = _attempt(path, partial(load_record, kind=Method), problems)
        if method is None:
            unread.add(path.stem)
        else:
            methods[path.stem] = method
    if not methods and not unread:
        problems.append(Problem(shown(folder / "methods"), 1, "holds no record; each method is a file <slug>.yaml"))
    for path in sorted((folder / "models").glob("*.yaml")):
        _attempt(path, read_model, problems)
    _attempt(folder / "gpus.yaml", read_gpus, problems)
    studies = {}
    for path in sorted((folder / "evidence").glob("*.yaml")):
        study = _attempt(path, partial(load_record, kind=Study), problems)
        rows = _attempt(path.with_suffix(".csv"), read_rows, problems)
        if study is not None and rows is not None:
            studies[path.stem] = study, rows
    classification = _attempt(folder / "classes.yaml", partial(load_record, kind=Classification), problems)
    readings = _attempt(folder / "sources.yaml", read_readings, problems)
    findings = _attempt(folder / "findings.yaml", read_findings, problems)
    if classification is None or readings is None or findings is None:
        return None, problems
    kb = KnowledgeBase(root, methods, classification, readings, findings, studies, frozenset(unread))
    return kb, problems


def _attempt(path: Path, reader: Callable[[Path], T], problems: list[Problem]) -> T | None:
    """What ``reader`` makes of a file; where it cannot, why is added to ``problems``."""
    try:
        return reader(path)
    except RecordError as error:
        problems.extend(error.problems)
    except OSError as error:
        problems.append(Problem(shown(path), 1, f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError:
        problems.append(Problem(shown(path), 1, "is not UTF-8; save it in that encoding"))
    except RecursionError:
        problems.append(Problem(shown(path), 1, "is nested too deeply to be read"))
    return None

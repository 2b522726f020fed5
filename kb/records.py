"""The method records and their surroundings, read once per process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType

from kb.loader import KB, Problem, RecordError, line_of, load_record, load_yaml, shown, validated
from kb.schema import Classification, Finding, Method, Reading, Term


def read_methods(folder: Path) -> dict[str, Method]:
    """Every record of ``folder`` by slug, in alphabetical order; ``RecordError`` lists the problems of all files."""
    methods: dict[str, Method] = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            method = load_record(path, Method)
        except RecordError as error:
            problems.extend(error.problems)
            continue
        if method.slug != path.stem:
            problems.append(
                Problem(
                    shown(path), 1, f"slug {method.slug!r} differs from the file's name; name it {method.slug}.yaml"
                )
            )
        methods[path.stem] = method
    if problems:
        raise RecordError(problems)
    return methods


def read_readings(path: Path) -> dict[str, Reading]:
    """The publications and repositories of a file by id; ``RecordError`` if it does not hold such."""
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise RecordError([Problem(shown(path), 1, "expected a mapping of ids to publications")])
    return {str(key): validated(path, item, Reading, [str(key)]) for key, item in content.items()}


def read_findings(path: Path) -> dict[int, Finding]:
    """The findings of a file by number; ``RecordError`` if it does not hold such, or a number twice."""
    content = load_yaml(path)
    if not isinstance(content, list):
        raise RecordError([Problem(shown(path), 1, "expected a list of findings")])
    findings: dict[int, Finding] = {}
    for place, item in enumerate(content):
        finding = validated(path, item, Finding, [place])
        if finding.number in findings:
            message = f"the number {finding.number} is taken; give the finding the next free one"
            raise RecordError([Problem(shown(path), line_of(path, (place, "number")), message)])
        findings[finding.number] = finding
    return findings


def read_glossary(path: Path) -> dict[str, Term]:
    """The words of a file by id; ``RecordError`` if it does not hold such, or an id or a spelling twice."""
    content = load_yaml(path)
    if not isinstance(content, list):
        raise RecordError([Problem(shown(path), 1, "expected a list of terms")])
    terms: dict[str, Term] = {}
    taken: set[str] = set()
    for place, item in enumerate(content):
        term = validated(path, item, Term, [place])
        spellings = {each.casefold() for each in (term.term, *term.forms)}
        twice = sorted(spellings & taken) or ([term.id] if term.id in terms else [])
        if twice:
            raise RecordError([Problem(shown(path), line_of(path, (place,)), f"{twice[0]!r} is taken by another term")])
        terms[term.id] = term
        taken |= spellings
    return terms


def read_names(path: Path) -> dict[str, str]:
    """The written names of a file by slug; ``RecordError`` if it does not hold such."""
    content = load_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(part, str) for pair in content.items() for part in pair):
        raise RecordError([Problem(shown(path), 1, "expected a mapping of slugs to names")])
    return content


@lru_cache(maxsize=1)
def load_names() -> Mapping[str, str]:
    """Written names of methods that comparisons contain and that have no record, by slug."""
    return MappingProxyType(read_names(KB / "names.yaml"))


@lru_cache(maxsize=1)
def load_methods() -> Mapping[str, Method]:
    """The project's method records by slug."""
    return MappingProxyType(read_methods(KB / "methods"))


@cache
def load_method(slug: str) -> Method | None:
    """One of the project's records, without reading the others; ``None`` if there is none of that name."""
    path = KB / "methods" / f"{slug}.yaml"
    return load_record(path, Method) if path.is_file() else None


@lru_cache(maxsize=1)
def load_classification() -> Classification:
    """The survey's classes and the other schemes."""
    return load_record(KB / "classes.yaml", Classification)


@lru_cache(maxsize=1)
def load_readings() -> Mapping[str, Reading]:
    """Publications and repositories that sources refer to, by id."""
    return MappingProxyType(read_readings(KB / "sources.yaml"))


@lru_cache(maxsize=1)
def load_findings() -> Mapping[int, Finding]:
    """The survey's findings by number."""
    return MappingProxyType(read_findings(KB / "findings.yaml"))


@lru_cache(maxsize=1)
def load_glossary() -> Mapping[str, Term]:
    """Words of the trade by id."""
    return MappingProxyType(read_glossary(KB / "glossary.yaml"))

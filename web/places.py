"""The main pages by name, and what an address that does not exist may have meant."""

from __future__ import annotations

from typing import NamedTuple

from rapidfuzz import fuzz, process

from kb.studies import load_studies
from taxonomy import build
from web.problems import Problem


class Place(NamedTuple):
    """A page to go to."""

    href: str
    label: str


MAIN = (
    Place("/recommend", "Recommend"),
    Place("/methods", "Methods"),
    Place("/taxonomy", "Taxonomy"),
    Place("/compare", "Compare"),
    Place("/estimate", "Estimate"),
    Place("/evidence", "Evidence"),
    Place("/models", "Models"),
    Place("/gpus", "Cards"),
)
"""What stands at the top of every page."""
FURTHER = (
    Place("/about", "About"),
    Place("/glossary", "Glossary"),
    Place("/benchmarks", "Benchmarks"),
    Place("/api", "API"),
)
"""What stands at the foot of every page."""
_ALIKE = 75.0  # out of 100; a word of another meaning that shares some letters stays below
_MOST = 3


def meant(path: str, problem: Problem) -> tuple[Place, ...]:
    """The pages that ``path`` resembles: what the problem itself names as near, else main pages, methods and studies."""
    named = _named()
    near = [name for each in problem.errors for name in each.near if name in named]
    if near:
        return tuple(named[name] for name in near)
    word = path.removesuffix(".json").strip("/").rpartition("/")[2][:80].casefold()
    found = process.extract(word, [*named], scorer=fuzz.ratio, score_cutoff=_ALIKE, limit=_MOST)
    return tuple(named[name] for name, _, _ in found)


def _named() -> dict[str, Place]:
    """Every page that has one, by the last part of its address or by its label."""
    studies = {name: Place(f"/evidence/{name}", study.title) for name, (study, _) in load_studies().items()}
    methods = {slug: Place(f"/methods/{slug}", method.name) for slug, method in build().methods.items()}
    pages = {name: each for each in (*MAIN, *FURTHER) for name in (each.href[1:], each.label.casefold())}
    return studies | methods | pages

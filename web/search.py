"""Search that forgives typing errors: methods by name, alias, paper, author and what their equations say; models, cards, studies, words."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA

from kb.catalogue import load_gpus, load_models
from kb.records import load_glossary
from kb.schema import Method
from kb.studies import load_studies
from taxonomy import build

GOOD = 72.0
"""Least similarity of a match, out of 100."""


Group = Literal["methods", "models", "cards", "studies", "terms"]
KINDS = {"name": 0, "alias": 1, "paper": 2, "author": 3, "description": 4}
"""What a text is, the most telling first."""
_EVERY_WORD = 95.0  # least likeness of a text that holds every word as it was written
_DESCRIBED = 74.0  # likeness of a method whose description holds every word: below any good match of a name


class Text(NamedTuple):
    """Something that can be found, by a text without case, accents and punctuation."""

    folded: str
    id: str
    shown: str
    kind: str


@dataclass(frozen=True)
class Match:
    """A thing that was found, how well, and through which text."""

    slug: str
    score: float
    text: str
    kind: str


@lru_cache(maxsize=8)
def index(group: Group) -> tuple[Text, ...]:
    """Everything of a group that can be found by its likeness."""
    rows = []
    if group == "methods":
        for slug, method in build().methods.items():
            rows += [Text(folded(text), slug, text, kind) for kind, text in _texts(method)]
    elif group == "models":
        for model in load_models().values():
            rows += [Text(folded(text), model.id, text, "name") for text in (model.name, model.id, model.hf_id)]
    elif group == "cards":
        for card in load_gpus().values():
            rows += [Text(folded(text), card.id, text, "name") for text in (card.name, card.id)]
    elif group == "studies":
        for study, _ in load_studies().values():
            texts = (study.title, study.id.replace("_", " "), study.arxiv or study.id)
            rows += [Text(folded(text), study.id, text, "name") for text in texts]
    else:
        for term in load_glossary().values():
            rows += [Text(folded(text), term.id, text, "name") for text in (term.term, *term.forms)]
    return tuple(rows)


def _texts(method: Method) -> list[tuple[str, str]]:
    texts = [("name", method.name), ("name", method.slug.replace("_", " ")), ("name", method.full_name)]
    texts += [("alias", alias) for alias in method.aliases]
    if method.paper is not None:
        texts.append(("paper", method.paper.title))
        texts += [("author", author) for author in method.paper.authors]
        if method.paper.arxiv is not None:
            texts.append(("paper", method.paper.arxiv))
    return texts


@lru_cache(maxsize=1)
def descriptions() -> tuple[tuple[str, str, str], ...]:
    """Slug, summary, and the words of a method's description, summary and symbols between blanks."""
    rows = []
    for slug, method in build().methods.items():
        mechanism = method.mechanism
        text = " ".join((method.summary, mechanism.description, *mechanism.symbols.values()))
        rows.append((slug, method.summary, f" {folded(text)} "))
    return tuple(rows)


def folded(text: str) -> str:
    """Text without case, accents and punctuation."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(each if each.isalnum() else " " for each in plain if not unicodedata.combining(each))
    return " ".join(kept.split())


def find(words: str, limit: int = 30, group: Group = "methods") -> tuple[Match, ...]:
    """What matches in a group, best first; each once, through its best text."""
    wanted = folded(words)[:80]
    if not wanted:
        return ()
    rows = index(group)
    best: dict[str, Match] = {}
    for text, score, place in process.extract(
        wanted, [row.folded for row in rows], scorer=_likeness, score_cutoff=GOOD, limit=None
    ):
        row = rows[place]
        same = row.shown.casefold() == words.strip().casefold()
        exact = 3.0 if same else 2.0 if text == wanted else 1.0 if text.startswith(wanted) else 0.0
        kept = Match(row.id, round(float(score) + exact, 2), row.shown, row.kind)
        if row.id not in best or kept.score > best[row.id].score:
            best[row.id] = kept
    if group == "methods":
        for match in _described(wanted):
            best.setdefault(match.slug, match)
    known = standing(group)
    return tuple(sorted(best.values(), key=lambda match: _place(match, known))[:limit])


def _place(match: Match, known: Mapping[str, int]) -> tuple[float, int, int, float, str]:
    """Where a match stands: by likeness, then names before other texts, then what is used or compared more.

    Of things that hold every word, the fraction of the score (how much else their text says) comes last.
    """
    whole = float(int(match.score)) if match.score >= _EVERY_WORD else match.score
    return (-whole, KINDS[match.kind], -known.get(match.slug, 0), -match.score, match.slug)


@lru_cache(maxsize=8)
def standing(group: Group) -> Mapping[str, int]:
    """What of equally like things comes first: libraries that ship and studies that compare a method; else what is newer."""
    if group == "methods":
        found = Counter({slug: len(method.code.libraries) for slug, method in build().methods.items()})
        for _, rows in load_studies().values():
            found.update({row.method for row in rows} & found.keys())
        return found
    if group == "models":
        return {model.id: model.year for model in load_models().values()}
    if group == "cards":
        return {card.id: card.year for card in load_gpus().values()}
    if group == "studies":
        return {study.id: study.year or 0 for study, _ in load_studies().values()}
    return {}


def _described(wanted: str) -> list[Match]:
    """The methods whose description, equation's words included, holds every word or the beginning of one."""
    starts = [f" {word}" for word in wanted.split() if len(word) >= 4]
    if not starts:
        return []
    return [
        Match(slug, _DESCRIBED, summary, "description")
        for slug, summary, text in descriptions()
        if all(start in text for start in starts)
    ]


def _likeness(wanted: str, text: str, *, score_cutoff: float | None = None, processor: object = None) -> float:
    """100 for equal texts; a part of a longer text counts nearly as much, if it is more than a few letters.

    Of equally like texts that one comes first which needs fewer edits, two swapped letters being one.
    """
    whole = float(fuzz.ratio(wanted, text))
    words = float(fuzz.token_set_ratio(wanted, text)) * 0.95
    part = 0.0
    if len(wanted) >= 4 and len(text) > len(wanted):
        part = float(fuzz.partial_ratio(wanted, text)) * 0.9
    elif wanted and text.startswith(wanted):
        part = 90.0
    return max(whole, words, part) + float(OSA.normalized_similarity(wanted, text))


def best_methods(words: str) -> tuple[str, ...]:
    """The slugs that match, best first."""
    return tuple(match.slug for match in find(words, limit=100))

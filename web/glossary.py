"""Words of the trade in running text: each is marked where it first stands, with its meaning one focus away."""

from __future__ import annotations

import re
from functools import lru_cache

from markupsafe import Markup, escape

from kb.records import load_glossary

_TAG = re.compile(r"(<[^>]+>)")


def term(term_id: str, text: str | None = None) -> Markup:
    """A word with its definition; ``text`` is how the page writes it. ``KeyError`` for a word that is not defined."""
    found = load_glossary()[term_id]
    return Markup('<a class="term" href="/glossary#{}">{}<span>: {}</span></a>').format(
        term_id, text or found.term, found.definition
    )


def terms(text: str) -> Markup:
    """Text with each known word marked where it first stands; what is inside of a link stays as it is."""
    parts: list[str] = []
    seen: set[str] = set()
    links = 0
    for part in _TAG.split(str(escape(text))):
        if part.startswith("<"):
            links += part.startswith("<a") - part.startswith("</a")
            parts.append(part)
        else:
            parts.append(part if links else _marked(part, seen))
    return Markup("".join(parts))  # noqa: S704 - the text is escaped above


def _marked(text: str, seen: set[str]) -> str:
    def link(found: re.Match[str]) -> str:
        term_id = _spellings()[found[0].casefold()]
        if term_id in seen:
            return found[0]
        seen.add(term_id)
        return str(term(term_id, Markup(found[0])))  # noqa: S704 - a piece of escaped text

    return _pattern().sub(link, text)


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    return {
        spelling.casefold(): found.id for found in load_glossary().values() for spelling in (found.term, *found.forms)
    }


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    """All spellings, the longest first, as whole words."""
    longest = sorted(_spellings(), key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest))})(?![\w-])", re.IGNORECASE)

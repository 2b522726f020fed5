"""How values look on a page: templates, equations as MathML, highlighted code, numbers with units."""

from __future__ import annotations

import re
from calendar import month_name
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from kb.schema import Source
from recommender.answer import Citation
from recommender.phrase import sentence
from recommender.placement import said
from recommender.service import default_catalogue
from recommender.units import show_bytes, show_count, show_seconds, signed, with_minus
from web import linked_data, places
from web.assets import address
from web.equation import mathml
from web.glossary import term, terms
from web.views.mark import mark, tone
from web.views.wording import FIELDS, asked

_REPOSITORY = re.compile(r"https://github\.com/([^/]+/[^/]+)(?:/(?:tree|blob)/([^/]+)(?:/(.+))?)?/?")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(])")
_STROKE = re.compile(r"([/_])(?=\w)")
_FINDING = re.compile(r"\(survey, finding (\d+)\)")


def render(template: str, **values: Any) -> bytes:
    """A page as UTF-8."""
    return environment().get_template(template).render(**values).encode()


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates, compiled once each; a name that a template misspells is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    made.filters |= {
        "asked": asked,
        "breakable": breakable,
        "bytes": size,
        "calls": calls,
        "cited": cited,
        "count": count,
        "duration": show_seconds,
        "error": error,
        "exact": exact,
        "first_sentence": first_sentence,
        "known": known,
        "letters": letters,
        "mathml": mathml,
        "month": month,
        "numbered": numbered,
        "optimizer": FIELDS["optimizer"].choices.__getitem__,
        "percent": percent,
        "python": python,
        "repository": repository,
        "sentence": sentence,
        "signed": signed,
        "layers": said,
        "terms": terms,
        "thousands": thousands,
        "words": words,
    }
    made.globals |= {
        "linked_data": linked_data,
        "origin": linked_data.origin,
        "places": places,
        "asset": address,
        "cite": cite,
        "mark": mark,
        "term": term,
        "tone": tone,
    }
    return made


def breakable(name: str) -> Markup:
    """A path or a name of a file that a narrow window may break behind its strokes."""
    return Markup(_STROKE.sub(r"\1<wbr>", str(escape(name))))  # noqa: S704 - the text is escaped


def size(value: float | None) -> str:
    """Bytes in the unit that fits their number, or 'not known'."""
    if value is None:
        return "not known"
    if abs(value) < 1024:
        return f"{value:.0f} bytes"
    return f"{value / 1024:.0f} KiB" if abs(value) < 2**20 else show_bytes(value)


def count(value: float | None) -> str:
    """A number of parameters with three digits, or 'not known'."""
    return "not known" if value is None else show_count(value)


def exact(value: float | None) -> str:
    """A number with thousands apart, or 'not known'."""
    if value is None:
        return "not known"
    return f"{value:,}".replace(",", "\u202f")


def percent(value: float) -> str:
    """A share in percent with two digits that mean something."""
    return f"{value:.2g}\u00a0%" if value < 10 else f"{value:.0f}\u00a0%"


def repository(url: str) -> str:
    """The address of code in few words: owner and name on GitHub with the first digits of the commit; others without scheme."""
    found = _REPOSITORY.fullmatch(url)
    if found is None:
        return url.partition("://")[2] or url
    name, commit, path = found.groups()
    return f"{name}{f' at {commit[:7]}' if commit else ''}{f', {path}' if path else ''}"


def error(share: float, digits: int = 1) -> str:
    """A relative error in percent with its sign; what rounds to nothing has none."""
    shown = f"{100 * share:+.{digits}f}"
    return f"{with_minus(shown) if float(shown) else shown[1:]}\u00a0%"


def thousands(text: str) -> str:
    """A reported number with its thousands apart if it is a whole one; other texts stay as they are."""
    return exact(int(text)) if text.isdecimal() else text


def known(value: object) -> str:
    """A fact for people: yes, no, not known, or its text."""
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else words(str(value))


def first_sentence(text: str) -> str:
    """A text up to its first full stop that ends a sentence."""
    return _SENTENCE.split(text, maxsplit=1)[0]


def words(text: str) -> str:
    """A name of the data as words."""
    return text.replace("_", " ")


def calls(operations: float) -> str:
    """Floating-point operations with a unit."""
    for unit, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if operations >= 0.9995 * scale:
            return f"{operations / scale:.3g} {unit}FLOP"
    return f"{operations:.3g} FLOP"


def cited(text: str) -> Markup:
    """Text in which 'survey, finding 5' leads to that finding."""
    linked = _FINDING.sub(r'(<a href="/about#finding-\1">survey, finding \1</a>)', str(escape(text)))
    return Markup(linked)  # noqa: S704 - the text is escaped above


def month(number: int) -> str:
    """The name of a month."""
    return month_name[number]


def letters(text: str) -> Markup:
    """Letters of equations with their indices lowered and raised."""
    shown = str(escape(text))
    shown = re.sub(r"(?<=\w)_(?:\{([^{}]*)\}|(\w+))", lambda found: f"<sub>{found[1] or found[2]}</sub>", shown)
    shown = re.sub(r"\^(?:\{([^{}]*)\}|(\w+))", lambda found: f"<sup>{found[1] or found[2]}</sup>", shown)
    return Markup(shown)  # noqa: S704 - the text is escaped above


def cite(source: Source) -> Citation:
    """The publication behind a value."""
    return default_catalogue().library.cite(source)


def numbered(lines: Markup) -> Markup:
    """Highlighted lines, each with an address of its own (``#L12``)."""
    return Markup("\n").join(
        Markup('<span id="L{}">{}</span>').format(number, Markup(line))  # noqa: S704 - lines of markup stay markup
        for number, line in enumerate(str(lines).removesuffix("\n").split("\n"), 1)
    )


@lru_cache(maxsize=128)
def python(source: str) -> Markup:
    """Python source as highlighted HTML."""
    from pygments import highlight
    from pygments.formatters.html import HtmlFormatter
    from pygments.lexers.python import PythonLexer

    return Markup(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))  # noqa: S704 - the formatter escapes

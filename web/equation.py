"""Equations as MathML. Browsers break no line inside of one, so a long one comes in pieces between which a line may end."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from xml.etree import ElementTree as Xml

from markupsafe import Markup

_SPACE = "http://www.w3.org/1998/Math/MathML"
_TAG = f"{{{_SPACE}}}"
_BESIDE = r", \quad "
"""What stands between two equations of a record."""
_LONG = 24  # letters that fit on a telephone
_BREAKS = frozenset("=+−≈←∈")
_OPEN, _CLOSED = frozenset("([{"), frozenset(")]}")

Xml.register_namespace("", _SPACE)


@lru_cache(maxsize=512)
def mathml(tex: str) -> Markup:
    """The equations of a record, each in a line of its own that may be folded before a relation or a sum."""
    lines = (Markup('<div class="line">{}</div>').format(_folding(each)) for each in tex.split(_BESIDE))
    return Markup("\n").join(lines)


def _folding(tex: str) -> Markup:
    """One equation: as a whole, or in pieces if it is long."""
    from latex2mathml.converter import convert

    whole = Xml.fromstring(convert(tex, display="inline"))  # noqa: S314 - made here from a record
    (row,) = whole
    letters = sum(len(text.strip()) for text in whole.itertext())
    starts = _starts(row) if letters > _LONG else []
    pieces = [list(row)[start:end] for start, end in pairwise([0, *starts, len(row)])]
    return Markup("<wbr>").join(_math(piece) for piece in pieces)


def _starts(row: Xml.Element) -> list[int]:
    """The places of signs outside of brackets, before which a line may end."""
    found, depth = [], 0
    for place, part in enumerate(row):
        sign = (part.text or "").strip() if part.tag == f"{_TAG}mo" else ""
        if depth == 0 and place > 0 and sign in _BREAKS:
            found.append(place)
        outer = [each.text for each in part.iter(f"{_TAG}mo")] if part.tag != f"{_TAG}mrow" else []
        depth += sum(each in _OPEN for each in outer) - sum(each in _CLOSED for each in outer)
    return found


def _math(parts: list[Xml.Element]) -> Markup:
    math = Xml.Element(f"{_TAG}math", displaystyle="true")
    row = Xml.SubElement(math, f"{_TAG}mrow")
    row.extend(parts)
    if parts[0].tag == f"{_TAG}mo" and parts[0].text in _BREAKS:
        parts[0].set("form", "infix")  # at the start of a piece it would lose the space around it
    text = Xml.tostring(math, encoding="unicode").replace(f' xmlns="{_SPACE}"', "")
    return Markup(text)  # noqa: S704 - the converter escapes text; only records are converted

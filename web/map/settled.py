"""Where the cells of the committed records settled: laying them out takes a third of a second, reading it nothing.

A drawing is known by a digest of all that its layout depends on. Other records have another digest and are laid out when
they are asked for, until ``python -m web.map.settled`` writes the file anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from kb.files import put
from web.map.layout import Cell, Class, Layout
from web.map.shape import Point

FILE = Path(__file__).parent / "settled.json"
Centres = Sequence[Point]


def digest(classes: Sequence[Class], cells: Sequence[Cell]) -> str:
    """A name for what is to be laid out."""
    parts = [(sorted(cell.classes), cell.shape) for cell in cells]
    return sha256(repr((classes, parts)).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _known() -> Mapping[str, Centres]:
    found: dict[str, list[list[float]]] = json.loads(FILE.read_bytes())
    return {name: [(x, y) for x, y in centres] for name, centres in found.items()}


def settled(classes: Sequence[Class], cells: Sequence[Cell]) -> Layout:
    """The layout with every cell in its place, worked out only where the file does not say it."""
    layout = Layout(classes, cells)
    known = _known().get(digest(classes, cells))
    if known is None:
        return layout.settle()
    layout.centres = list(known)
    return layout


def text(drawings: Sequence[tuple[Sequence[Class], Sequence[Cell]]]) -> str:
    """The file for these drawings, all laid out anew."""
    found = {digest(*each): Layout(*each).settle().centres for each in drawings}
    return json.dumps(found, indent=1) + "\n"


def write() -> None:
    """Write the committed places anew: ``python -m web.map.settled``."""
    from web.views.map import drawings

    put(FILE, text(drawings()))


if __name__ == "__main__":
    write()

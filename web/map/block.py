"""Names set in rows: how much room the methods of one region need, and where each stands in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from web.map.shape import Box, Point, hull

ROW = 24.0
"""Height of a row: what a finger or a pointer can hit (WCAG 2.2, success criterion 2.5.8)."""
GLYPH = 16.0
"""Room of the mark in front of a name."""
SPACE = 12.0
"""Between two names of a row."""
SIZE = 13.0
"""Size of the letters."""
RATIO = 1.45
"""Width to height of a block, about that of the window it is drawn in."""
_NARROW, _WIDE = frozenset("iljtfrI.,:;()[]'|*-⁺ ³"), frozenset("mwMWQOGN@%&∩")


@dataclass(frozen=True, slots=True)
class Label:
    """Something to be written: a method, or the name of a class."""

    id: str
    text: str
    size: float = SIZE
    glyph: bool = True

    @property
    def width(self) -> float:
        """Room that it needs in a row; widths of letters are estimated with some to spare."""
        ems = sum(0.36 if each in _NARROW else 0.86 if each in _WIDE else 0.63 for each in self.text)
        return ems * self.size + (GLYPH if self.glyph else 0)

    @property
    def height(self) -> float:
        """Height of its row."""
        return ROW * max(1.0, self.size / SIZE / 1.15)


@dataclass(frozen=True, slots=True)
class Block:
    """Labels in rows around the point (0, 0)."""

    places: tuple[tuple[Label, Box], ...]
    width: float
    height: float

    @property
    def shape(self) -> tuple[Point, ...]:
        """The hull of its labels."""
        return tuple(hull(corner for _, box in self.places for corner in box.corners))


def block(title: Label | None, labels: Sequence[Label]) -> Block:
    """The labels in rows of a width that brings the whole nearest to the wanted shape; the title has its own row."""
    widest = max(each.width for each in [*labels, *([title] if title else [])])
    total = sum(each.width + SPACE for each in labels)
    best, cost = None, inf
    for rows in range(1, len(labels) + 2):
        found = _flow(title, labels, max(widest, 1.1 * total / rows), rows)
        off = abs(found.width / found.height / RATIO - 1) + found.width * found.height / 4e5
        if off < cost:
            best, cost = found, off
    assert best is not None  # noqa: S101 - there is always one row
    return best


def _flow(title: Label | None, labels: Sequence[Label], limit: float, expected: int) -> Block:
    """Rows that are widest in the middle, so that the outline of the block is round."""
    rows: list[list[Label]] = [[title]] if title else []
    room = -1.0
    for label in labels:
        if label.width > room:
            rows.append([])
            off = 2 * (len(rows) - 0.5) / (expected + bool(title)) - 1
            room = limit * max(0.55, 1 - 0.45 * off * off)
        rows[-1].append(label)
        room -= label.width + SPACE
    widths = [sum(each.width for each in row) + SPACE * (len(row) - 1) for row in rows]
    heights = [max(each.height for each in row) for row in rows]
    width, height = max(widths), sum(heights)
    places = []
    y = -height / 2
    for row, row_width, row_height in zip(rows, widths, heights, strict=True):
        x = -row_width / 2
        for label in row:
            places.append((label, Box(x, y, label.width, row_height)))
            x += label.width + SPACE
        y += row_height
    return Block(tuple(places), width, height)

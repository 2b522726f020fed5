"""Where the regions of an Euler diagram lie: cells that pull together, and regions that must not touch.

A *cell* holds the labels of one combination of classes. The region of a class is the convex hull of its cells, so the
cell of a hybrid lies in the overlap of its classes by construction. What remains is to keep apart what shares nothing:
two regions without a common cell, a region and a foreign cell, two cells. Cells start around a circle in the order of
the classes, are pulled towards the middle of their classes, and are pushed out of every overlap that says something
wrong. Everything is a function of the input; equal input gives an equal drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import cos, inf, pi, sin

from web.map.shape import Point, along, bounds, gap, hull

STEPS = 200
"""Rounds of pulling and pushing; the pull ends after two thirds of them."""
TURNS = 8
"""Places on the circle at which the first class may start; tried in order until a drawing is right."""
FLATTEN = 0.62
"""Height to width of the circle on which the cells start."""
OUTSIDE, INSIDE = 1.35, 0.55
"""How far from the middle the name of an outer class starts, and a hybrid, against what they belong to."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A combination of classes with the shape of its block; ``classes`` name every region around it."""

    classes: frozenset[str]
    shape: tuple[Point, ...]
    """Hull of its labels around (0, 0)."""

    def at(self, centre: Point) -> list[Point]:
        """Its shape around another point."""
        x, y = centre
        return [(x + px, y + py) for px, py in self.shape]


@dataclass(frozen=True)
class Class:
    """A region to be drawn: how far its border stands from its cells."""

    id: str
    parent: str | None
    margin: float


class Layout:
    """Positions of cells under the rules above."""

    def __init__(self, classes: Sequence[Class], cells: Sequence[Cell], spare: float = 8.0) -> None:
        self.classes = {each.id: each for each in classes}
        self.cells = cells
        self.spare = spare
        inside = {each.id: [at for at, cell in enumerate(cells) if each.id in cell.classes] for each in classes}
        self.members = {name: found for name, found in inside.items() if found}
        self._pairs = self._apart()
        self._ways = {(one, other): (1.0, 0.0) for one, other, _ in self._pairs}
        self.centres = self._start(0.0)

    def _apart(self) -> list[tuple[str | int, str | int, float]]:
        """What must not touch, with the distance to keep: names are regions, numbers are cells.

        A cell needs no word of its own where one of its regions is kept away already. Two cells differ in a class, so
        one of them lies outside of a region that the other is in: no pair of cells is left to be listed.
        """
        margins = {name: self.classes[name].margin for name in self.members}
        pairs: list[tuple[str | int, str | int, float]] = []
        strangers: dict[str, set[str]] = {name: set() for name in self.members}
        for one, other in combinations(self.members, 2):
            if not set(self.members[one]) & set(self.members[other]):
                pairs.append((one, other, margins[one] + margins[other] + self.spare))
                strangers[one].add(other)
                strangers[other].add(one)
        for name, inside in self.members.items():
            for at, cell in enumerate(self.cells):
                if at not in inside and not cell.classes & strangers[name]:
                    pairs.append((name, at, margins[name] + self.spare))
        return pairs

    def _start(self, turn: float) -> list[Point]:
        """Cells of one class around a circle, those of several between them; ``turn`` is where the circle begins."""
        leaves = self._order()
        sizes = [bounds(cell.shape) for cell in self.cells]
        radius = 0.55 * sum((each.width + 60) * (each.height + 60) for each in sizes) ** 0.5
        places = {}
        for number, leaf in enumerate(leaves):
            angle = 2 * pi * (turn + (number + 0.5) / len(leaves))
            places[leaf] = (radius * cos(angle), FLATTEN * radius * sin(angle))
        for name in self.members:
            if name not in places:
                middle = _mean([places[leaf] for leaf in leaves if self.classes[leaf].parent == name])
                places[name] = (OUTSIDE * middle[0], OUTSIDE * middle[1])
        centres = []
        for cell in self.cells:
            own = sorted(name for name in cell.classes if name in leaves) or sorted(cell.classes)
            x, y = _mean([places[name] for name in own])
            pull = INSIDE if len(own) > 1 else 1.0
            centres.append((x * pull, y * pull))
        return centres

    def _order(self) -> list[str]:
        """The innermost classes with those side by side that share a cell, as far as their parents allow."""
        parents = {each.parent for each in self.classes.values()}
        order = [name for name in self.members if name not in parents]
        shared = [[name for name in order if name in cell.classes] for cell in self.cells]
        ties = [pair for names in shared for pair in combinations(names, 2)]
        neighbours = [
            (one, other)
            for one, other in combinations(order, 2)
            if self.classes[one].parent == self.classes[other].parent
        ]
        for _ in order:
            for one, other in neighbours:
                swapped = [other if each == one else one if each == other else each for each in order]
                if _length(swapped, ties) < _length(order, ties):
                    order = swapped
        return order

    def polygon(self, name: str | int) -> list[Point]:
        """The hull of a region, or the corners of a cell, where they are now."""
        if isinstance(name, int):
            return self.cells[name].at(self.centres[name])
        return hull(point for at in self.members[name] for point in self.cells[at].at(self.centres[at]))

    def settle(self) -> Layout:
        """Pull and push from each start in turn until one ends with nothing wrong; else the one with least is kept."""
        least, kept = inf, self.centres
        for turn in range(TURNS):
            self.centres = self._start(turn / TURNS)
            self._relax()
            off = sum(missing for _, _, missing in self.wrong())
            if off < least:
                least, kept = off, self.centres
            if not off:
                break
        self.centres = kept
        return self

    def _relax(self) -> None:
        for step in range(STEPS):
            pull = 0.06 * max(0.0, 1 - 1.5 * step / STEPS)
            if pull:
                self._pull(pull)
            if not self._push(0.6) and not pull:
                return

    def _pull(self, strength: float) -> None:
        middles = {name: _mean([self.centres[at] for at in inside]) for name, inside in self.members.items()}
        for at, (x, y) in enumerate(self.centres):
            names = sorted(self.cells[at].classes)  # the order of a set differs from process to process
            for name in names:
                mx, my = middles[name]
                share = strength / len(names)
                x, y = x + share * (mx - x), y + share * (my - y)
            self.centres[at] = (x * (1 - 0.25 * strength), y * (1 - 0.6 * strength))

    def _push(self, strength: float) -> bool:
        """Move apart what touches; whether anything did."""
        polygons: dict[str | int, list[Point]] = {}
        for name in (*self.members, *range(len(self.cells))):
            polygons[name] = self.polygon(name)
        boxes = {name: _extent(polygon) for name, polygon in polygons.items()}
        moves = [(0.0, 0.0, 0)] * len(self.cells)
        touched = False
        for one, other, wanted in self._pairs:
            if _far(boxes[one], boxes[other], wanted):
                continue
            if along(polygons[one], polygons[other], self._ways[one, other]) >= wanted:
                continue
            apart, way = gap(polygons[one], polygons[other], wanted)
            self._ways[one, other] = nx, ny = way
            missing = wanted - apart
            if missing <= 0.25:
                continue
            touched = True
            mine = [one] if isinstance(one, int) else self.members[one]
            theirs = [other] if isinstance(other, int) else self.members[other]
            share = len(mine) / (len(mine) + len(theirs))
            for cells, length in ((mine, -missing * (1 - share)), (theirs, missing * share)):
                for at in cells:
                    x, y, count = moves[at]
                    moves[at] = (x + length * nx, y + length * ny, count + 1)
        for at, (x, y, count) in enumerate(moves):
            if count:
                factor = strength / count**0.5
                here = self.centres[at]
                self.centres[at] = (here[0] + factor * x, here[1] + factor * y)
        return touched

    def wrong(self) -> list[tuple[str | int, str | int, float]]:
        """Pairs that still touch, with the distance that is missing."""
        found = []
        for one, other, wanted in self._pairs:
            apart, _ = gap(self.polygon(one), self.polygon(other))
            if apart < wanted - self.spare:
                found.append((one, other, wanted - self.spare - apart))
        return found


def _length(order: Sequence[str], ties: Sequence[tuple[str, str]]) -> int:
    """How far around the circle tied classes are from each other, in all."""
    places = {name: at for at, name in enumerate(order)}
    steps = [abs(places[one] - places[other]) for one, other in ties]
    return sum(min(each, len(order) - each) for each in steps)


def _mean(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _extent(polygon: Sequence[Point]) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in polygon], [y for _, y in polygon]
    return min(xs), min(ys), max(xs), max(ys)


def _far(one: tuple[float, ...], other: tuple[float, ...], distance: float) -> bool:
    return (
        one[0] - other[2] > distance
        or other[0] - one[2] > distance
        or one[1] - other[3] > distance
        or other[1] - one[3] > distance
    )

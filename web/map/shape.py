"""Convex shapes in the plane: hulls, how far two of them are apart, and outlines with round corners."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot, inf

Point = tuple[float, float]
Polygon = Sequence[Point]
"""Corners of a convex shape in the order of ``hull``, no two of them equal."""
ROUNDING = 2.6
"""How far from a corner an outline starts to turn, in margins: a right corner then stays half a margin away."""


@dataclass(frozen=True, slots=True)
class Box:
    """An upright rectangle: its left upper corner and its size, in pixels of the drawing."""

    x: float
    y: float
    width: float
    height: float

    @property
    def corners(self) -> tuple[Point, Point, Point, Point]:
        """The four corners."""
        right, bottom = self.x + self.width, self.y + self.height
        return (self.x, self.y), (right, self.y), (right, bottom), (self.x, bottom)

    def moved(self, x: float, y: float) -> Box:
        """The rectangle somewhere else."""
        return Box(self.x + x, self.y + y, self.width, self.height)


def hull(points: Iterable[Point]) -> list[Point]:
    """The smallest convex polygon around the points (Andrew's monotone chain)."""
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered
    return [*_chain(ordered)[:-1], *_chain(reversed(ordered))[:-1]]


def _chain(points: Iterable[Point]) -> list[Point]:
    chain: list[Point] = []
    for x, y in points:
        while len(chain) > 1:
            (ax, ay), (bx, by) = chain[-2], chain[-1]
            if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                break
            chain.pop()
        chain.append((x, y))
    return chain


def bounds(points: Iterable[Point]) -> Box:
    """The upright rectangle around the points."""
    xs, ys = zip(*points, strict=True)
    return Box(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def along(one: Polygon, other: Polygon, way: Point) -> float:
    """How far the second polygon lies beyond the first in a direction; negative where their shadows overlap."""
    wx, wy = way
    return min([x * wx + y * wy for x, y in other]) - max([x * wx + y * wy for x, y in one])


def gap(one: Polygon, other: Polygon, enough: float = inf) -> tuple[float, Point]:
    """How far two convex polygons are apart, and the direction in which the second lies.

    Negative where they overlap: then it is the shortest way out. Between two corners the true distance is larger than
    this one, which only looks along the normals of edges (separating axes). The search ends at the first direction in
    which the distance is ``enough``.
    """
    best, way = -inf, (1.0, 0.0)
    for polygon, sign in ((one, 1.0), (other, -1.0)):
        ax, ay = polygon[-1]
        for bx, by in polygon:
            length = hypot(bx - ax, by - ay)
            normal = (sign * (by - ay) / length, sign * (ax - bx) / length)
            ax, ay = bx, by
            apart = along(one, other, normal)
            if apart > best:
                best, way = apart, normal
                if best >= enough:
                    return best, way
    return best, way


def outline(polygon: Polygon, margin: float) -> str:
    """A line around a convex polygon, ``margin`` away from its edges and round at its corners, as an SVG path."""
    corners = _widened(polygon, margin)
    steps: list[str] = []
    before = corners[-1]
    for at, corner in enumerate(corners):
        after = corners[(at + 1) % len(corners)]
        (ax, ay), (bx, by) = (_towards(corner, other, ROUNDING * margin) for other in (before, after))
        steps.append(f"{'L' if steps else 'M'}{ax:.1f} {ay:.1f}Q{corner[0]:.1f} {corner[1]:.1f} {bx:.1f} {by:.1f}")
        before = corner
    return f"{''.join(steps)}Z"


def _widened(polygon: Polygon, margin: float) -> list[Point]:
    """The corners of the polygon whose edges lie ``margin`` outside of the given one's."""
    found = []
    for at, (x, y) in enumerate(polygon):
        (px, py), (qx, qy) = polygon[at - 1], polygon[(at + 1) % len(polygon)]
        into, out = hypot(x - px, y - py), hypot(qx - x, qy - y)
        mx, my = (y - py) / into, (px - x) / into
        nx, ny = (qy - y) / out, (x - qx) / out
        share = margin / (1 + mx * nx + my * ny)
        found.append((x + share * (mx + nx), y + share * (my + ny)))
    return found


def _towards(start: Point, end: Point, length: float) -> Point:
    """The point that many pixels from ``start``, or half the way if ``end`` is near."""
    share = min(0.5, length / hypot(end[0] - start[0], end[1] - start[1]))
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])

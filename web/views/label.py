"""Names beside the points of a drawing, so that none covers a point or another name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import Field

from web.views.base import View

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge."""
_LETTER, _ABOVE, _BELOW = 7.0, 10.0, 3.0  # width of a letter of 12 px and what it takes above and below its line
_MARK = 6.0  # half of what a point takes


class Label(View):
    """Where a name stands."""

    x: float
    y: float
    anchor: str = Field(description="side of the text that stands at x")


def place_labels(
    names: Sequence[str], places: Sequence[tuple[float, float]], order: Iterable[int], edges: Box
) -> dict[int, Label]:
    """Where the names of points stand, by place in ``names``: in turn, each where there is still room, else not at all."""
    taken = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in places]
    found = {}
    for place in order:
        label = _label(names[place], *places[place], taken, edges)
        if label is not None:
            found[place] = label
    return found


def _label(name: str, x: float, y: float, taken: list[Box], edges: Box) -> Label | None:
    """The first free place beside, above or below a point; the place is then taken."""
    width = _LETTER * len(name)
    candidates = (
        (x + 9, y + 4, "start", x + 9),
        (x - 9, y + 4, "end", x - 9 - width),
        (x, y - 10, "middle", x - width / 2),
        (x, y + 19, "middle", x - width / 2),
        (x + 7, y - 9, "start", x + 7),
        (x + 7, y + 17, "start", x + 7),
        (x - 7, y - 9, "end", x - 7 - width),
        (x - 7, y + 17, "end", x - 7 - width),
    )
    for at, line, anchor, left in candidates:
        box = (left, line - _ABOVE, left + width, line + _BELOW)
        inside = box[0] >= edges[0] and box[1] >= edges[1] and box[2] <= edges[2] and box[3] <= edges[3]
        if inside and not any(_cross(box, other) for other in taken):
            taken.append(box)
            return Label(x=round(at, 1), y=round(line, 1), anchor=anchor)
    return None


def _cross(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

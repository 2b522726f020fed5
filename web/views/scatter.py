"""Expected quality against memory as a drawing: computed here, so that the page needs no script."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from recommender.answer import Ranked
from web.render import signed
from web.views.base import View
from web.views.scale import Scale, Tick

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 360, 56, 44, 14, 14


class Label(View):
    """Where a name stands."""

    x: float
    y: float
    anchor: str = Field(description="side of the text that stands at x")


class Point(View):
    """A method in the drawing."""

    slug: str
    name: str
    x: float
    y: float
    high: float = Field(description="position of the upper end of the interval")
    low: float = Field(description="position of the lower end of the interval")
    pareto: bool
    base: str = Field(description="base class, for colour")
    mark: str = Field(description="sign of the base class")
    memory: str = Field(description="memory in words")
    quality: str = Field(description="quality in words")
    label: Label | None = Field(description="where the name stands; null where it would cover another one")


class Scatter(View):
    """The drawing."""

    width: int
    height: int
    left: int
    bottom: float
    top: int
    right: int
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]


def scatter(ranked: Iterable[Ranked], pareto: Iterable[str], tags: dict[str, tuple[str, str]]) -> Scatter | None:
    """The drawing of ranked methods; ``tags`` give base class and sign of each. ``None`` for fewer than two."""
    shown, best = list(ranked), set(pareto)
    if len(shown) < 2:
        return None
    memories = [each.memory.device_bytes / 2**30 for each in shown]
    lows, highs = [each.quality.low for each in shown], [each.quality.high for each in shown]
    x_scale = Scale(min(memories), max(memories), LEFT, WIDTH - RIGHT)
    y_scale = Scale(min(lows), max(highs), HEIGHT - BOTTOM, TOP)
    places = [(x_scale(memory), y_scale(each.quality.estimate)) for each, memory in zip(shown, memories, strict=True)]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    points: list[Point] = []
    for each, memory, (x, y) in zip(shown, memories, places, strict=True):
        label = _label(each.name, x, y, taken) if each.slug in best else None
        points.append(
            Point(
                slug=each.slug,
                name=each.name,
                x=round(x, 1),
                y=round(y, 1),
                high=round(y_scale(each.quality.high), 1),
                low=round(y_scale(each.quality.low), 1),
                pareto=each.slug in best,
                base=tags[each.slug][0],
                mark=tags[each.slug][1],
                memory=f"{memory:.1f} GiB",
                quality=f"{signed(each.quality.estimate)} ({signed(each.quality.low)} to {signed(each.quality.high)})",
                label=label,
            )
        )
    return Scatter(
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        bottom=HEIGHT - BOTTOM,
        top=TOP,
        right=WIDTH - RIGHT,
        x_ticks=x_scale.ticks("{:g}"),
        y_ticks=y_scale.ticks("{:+g}"),
        points=tuple(sorted(points, key=lambda point: point.pareto)),
    )


def _label(name: str, x: float, y: float, taken: list[tuple[float, float, float, float]]) -> Label | None:
    """The first free place beside, above or below a point; the place is then taken."""
    width = 7.6 * len(name)
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
    for at, base, anchor, left in candidates:
        box = (left, base - 10, left + width, base + 3)
        inside = box[0] >= LEFT and box[2] <= WIDTH - 2 and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
        if inside and not any(_cross(box, other) for other in taken):
            taken.append(box)
            return Label(x=round(at, 1), y=round(base, 1), anchor=anchor)
    return None


def _cross(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

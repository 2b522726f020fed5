"""The whole drawing: from methods with their classes to placed names and outlines of regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from web.map.block import Block, Label, block
from web.map.layout import Cell, Class
from web.map.settled import settled
from web.map.shape import Box, Polygon, bounds

INNER_MARGIN, OUTER_MARGIN = 12.0, 30.0
"""From the names to the border of a class, and of a class around classes."""
INNER_SIZE, OUTER_SIZE = 14.5, 25.0
"""Letters of the names of classes."""
FRAME = 12.0
"""Between the outermost border and the edge of the drawing."""


Methods = Mapping[str, tuple[str, frozenset[str]]]
"""Names and innermost classes by id."""


@dataclass(frozen=True)
class Region:
    """A class as it lies on the map."""

    id: str
    polygon: Polygon
    margin: float


@dataclass(frozen=True)
class Chart:
    """Everything placed: names of methods and classes by id, and the regions, outer ones first."""

    methods: Mapping[str, Box]
    titles: Mapping[str, Box]
    regions: tuple[Region, ...]
    frame: Box


def chart(methods: Methods, classes: Mapping[str, str], parents: Mapping[str, str]) -> Chart:
    """Place every method.

    ``methods`` give the name and the innermost classes of each by its id, ``classes`` the name of each class in the
    order in which they shall lie around the middle, ``parents`` the class around a class. A class without a method is
    left out.
    """
    blocks = _blocks(methods, classes, parents)
    layout = settled(_regions(classes, parents), _cells(blocks))
    places: dict[str, Box] = {}
    titles: dict[str, Box] = {}
    for (_, made), (x, y) in zip(blocks, layout.centres, strict=True):
        for label, box in made.places:
            (places if label.id in methods else titles)[label.id] = box.moved(x, y)
    regions = [Region(name, layout.polygon(name), layout.classes[name].margin) for name in layout.members]
    return Chart(places, titles, tuple(sorted(regions, key=lambda each: -each.margin)), frame(regions))


def drawing(methods: Methods, classes: Mapping[str, str], parents: Mapping[str, str]) -> tuple[list[Class], list[Cell]]:
    """What ``chart`` lays out for the same arguments."""
    return _regions(classes, parents), _cells(_blocks(methods, classes, parents))


def _regions(classes: Mapping[str, str], parents: Mapping[str, str]) -> list[Class]:
    around = frozenset(parents.values())
    return [Class(each, parents.get(each), OUTER_MARGIN if each in around else INNER_MARGIN) for each in classes]


def _cells(blocks: Sequence[tuple[frozenset[str], Block]]) -> list[Cell]:
    return [Cell(inside, made.shape) for inside, made in blocks]


def frame(regions: list[Region]) -> Box:
    """The part of the plane that shows these regions whole."""
    extents = [(bounds(each.polygon), each.margin + FRAME) for each in regions]
    left, top = min(box.x - edge for box, edge in extents), min(box.y - edge for box, edge in extents)
    right = max(box.x + box.width + edge for box, edge in extents)
    bottom = max(box.y + box.height + edge for box, edge in extents)
    return Box(left, top, right - left, bottom - top)


def _blocks(
    methods: Methods, classes: Mapping[str, str], parents: Mapping[str, str]
) -> list[tuple[frozenset[str], Block]]:
    """Combinations of classes with their names in rows; the name of a class stands where least else is around it."""
    rank = {each: at for at, each in enumerate(classes)}
    inside: dict[frozenset[str], list[Label]] = {}
    for slug, (name, own) in methods.items():
        inside.setdefault(own, []).append(Label(slug, name))
    order = sorted(inside, key=lambda own: (len(own), sorted(rank[each] for each in own)))
    titled: dict[frozenset[str], str] = {}
    for each in classes:
        home = next((own for own in order if each in own and own not in titled), None)
        if home is not None:
            titled[home] = each
    made = []
    for own in order:
        title = Label(titled[own], classes[titled[own]], INNER_SIZE) if own in titled else None
        wider = own | {parents[each] for each in own if each in parents}
        made.append((wider, block(title, inside[own])))
    for each in dict.fromkeys(parents.values()):
        if any(each in wider for wider, _ in made):
            made.append((frozenset([each]), block(Label(each, classes[each], OUTER_SIZE), [])))
    return made

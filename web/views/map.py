"""The map of the taxonomy as a page shows it: regions, names that are links, and who builds on whom."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from math import hypot

from pydantic import Field

from kb.studies import load_studies
from taxonomy import Taxonomy, build
from taxonomy.euler import base_of
from web.map.chart import Chart, Methods, chart, drawing, frame
from web.map.layout import Cell, Class
from web.map.shape import Box, outline
from web.views.base import View
from web.views.mark import HYBRID, mark, tone

UNSORTED = "unsorted"
"""The group of what a scheme does not sort; its border is broken."""
BEND = 0.14
"""How far a line of descent bends out of the straight, in shares of its length."""


class MapRegion(View):
    """A class or group."""

    id: str = Field(description="class of the taxonomy, or group of the scheme")
    path: str = Field(description="its border as an SVG path")
    tone: str = Field(description="CSS classes of its colour")
    outer: bool = Field(description="whether it lies around other classes")


class MapTitle(View):
    """The name of a class on the map."""

    id: str = Field(description="the class")
    name: str = Field(description="its name")
    x: float = Field(description="left edge of the mark")
    y: float = Field(description="baseline of the letters")
    outer: bool = Field(description="whether it lies around other classes")
    tone: str = Field(description="CSS classes of its colour")
    mark: str = Field(description="SVG path of its mark")
    href: str | None = Field(description="address of the list of its methods; null for groups of other schemes")


class MapNode(View):
    """A method on the map."""

    slug: str = Field(description="name in addresses")
    name: str = Field(description="name for people")
    line: str = Field(description="what it does, in one line")
    x: float = Field(description="left edge of the mark")
    y: float = Field(description="baseline of the letters")
    width: float = Field(description="room of mark and name")
    tone: str = Field(description="CSS classes of its colour")
    mark: str = Field(description="SVG path of its mark")
    kin: tuple[str, ...] = Field(description="methods that a statement of a record ties to it")
    home: str = Field(description="the first of its classes in the order of reading")
    faded: bool = Field(description="whether the filters leave it out")
    chosen: bool = Field(description="whether the page is about it")
    lit: bool = Field(description="whether it is tied to the chosen method")


class MapEdge(View):
    """A statement of one method about another as a line."""

    method: str = Field(description="who builds")
    other: str = Field(description="on whom")
    path: str = Field(description="the line as an SVG path, from the method to the other one")
    lit: bool = Field(description="whether it is shown from the start")


class AtlasMap(View):
    """The drawing."""

    frame: tuple[float, float, float, float] = Field(
        description="left, top, width and height of the part that is shown"
    )
    whole: tuple[float, float, float, float] = Field(description="the same of the whole drawing")
    regions: tuple[MapRegion, ...] = Field(description="outer regions first")
    titles: tuple[MapTitle, ...] = Field(description="in the order of reading: each class before those inside of it")
    nodes: tuple[MapNode, ...] = Field(description="class by class, in the order of reading")
    edges: tuple[MapEdge, ...]


def measured(slug: str) -> bool:
    """Whether a published comparison of the knowledge base has results of the method."""
    return slug in _measured()


@lru_cache(maxsize=1)
def _measured() -> frozenset[str]:
    return frozenset(row.method for _, rows in load_studies().values() for row in rows)


SURVEY = "survey"
"""The scheme of the survey's own classes."""


@lru_cache(maxsize=8)
def placed(scheme: str) -> Chart:
    """Where everything lies under a way of sorting."""
    return chart(*_sorted_by(scheme))


def drawings() -> list[tuple[list[Class], list[Cell]]]:
    """What has to be laid out for all ways of sorting."""
    return [drawing(*_sorted_by(scheme)) for scheme in (SURVEY, *(each.id for each in build().schemes))]


def _sorted_by(scheme: str) -> tuple[Methods, dict[str, str], dict[str, str]]:
    """Methods, names of classes and classes around classes, as ``chart`` takes them."""
    taxonomy = build()
    if scheme == SURVEY:
        parents = {each: base_of(each) for each in taxonomy.classes if base_of(each) != each}
        methods = {slug: (each.name, frozenset(each.taxonomy.classes)) for slug, each in taxonomy.methods.items()}
        return methods, {each.id: each.name for each in taxonomy.classes.values()}, parents
    view = next(each for each in taxonomy.schemes if each.id == scheme)
    groups = {each.id: each.methods for each in view.groups} | {UNSORTED: view.unsorted}
    names = {each.id: each.name for each in view.groups} | {UNSORTED: "Not sorted"}
    own = {slug: group for group, slugs in groups.items() for slug in slugs}
    return {slug: (taxonomy.methods[slug].name, frozenset([own[slug]])) for slug in own}, names, {}


def atlas_map(
    scheme: str,
    kept: frozenset[str],
    chosen: str | None = None,
    part: Box | None = None,
    lineage: bool = False,
) -> AtlasMap:
    """The drawing: methods outside ``kept`` are faded, the relatives of ``chosen`` and perhaps all lines are lit."""
    taxonomy, where = build(), placed(scheme)
    kin = _kin(taxonomy)
    lit = {chosen, *kin[chosen]} if chosen else set()
    reading, (methods, _, _) = _reading(scheme, where), _sorted_by(scheme)
    outer = {each.id for each in where.regions if each.margin > min(other.margin for other in where.regions)}
    return AtlasMap(
        frame=_numbers(part or where.frame),
        whole=_numbers(where.frame),
        regions=tuple(
            MapRegion(
                id=each.id,
                path=outline(each.polygon, each.margin),
                tone=_tone(each.id),
                outer=each.id in outer,
            )
            for each in where.regions
        ),
        titles=tuple(_title(each, where.titles[each], scheme, outer) for each in reading),
        nodes=tuple(
            MapNode(
                slug=slug,
                name=taxonomy.methods[slug].name,
                line=taxonomy.methods[slug].summary,
                x=round(box.x, 1),
                y=round(_baseline(box), 1),
                width=round(box.width, 1),
                tone=tone(_class_of(taxonomy, slug)),
                mark=mark(_class_of(taxonomy, slug)),
                kin=kin[slug],
                home=min(methods[slug][1], key=reading.index),
                faded=slug not in kept,
                chosen=slug == chosen,
                lit=slug in lit,
            )
            for slug, box in where.methods.items()
        ),
        edges=tuple(
            MapEdge(
                method=each.method,
                other=each.other,
                path=_line(where.methods[each.method], where.methods[each.other]),
                lit=lineage or chosen in (each.method, each.other),
            )
            for each in taxonomy.statements
        ),
    )


def _reading(scheme: str, where: Chart) -> list[str]:
    """The titles in the order in which the list of the taxonomy has them."""
    if scheme != SURVEY:
        return [*where.titles]
    listed = [each.id for base in build().class_tree for each in (base, *base.children)]
    return [each for each in listed if each in where.titles]


def _class_of(taxonomy: Taxonomy, slug: str) -> str:
    """The class whose colour and mark a method has."""
    return HYBRID if taxonomy.is_hybrid(slug) else taxonomy.methods[slug].taxonomy.classes[0]


def _kin(taxonomy: Taxonomy) -> dict[str, tuple[str, ...]]:
    tied: dict[str, dict[str, None]] = {slug: {} for slug in taxonomy.methods}
    for each in taxonomy.statements:
        tied[each.method][each.other] = None
        tied[each.other][each.method] = None
    return {slug: tuple(others) for slug, others in tied.items()}


def _title(class_id: str, box: Box, scheme: str, outer: Iterable[str]) -> MapTitle:
    taxonomy = build()
    if scheme == SURVEY:
        name, href = taxonomy.classes[class_id].name, f"/methods?class={class_id}"
    else:
        groups = next(each for each in taxonomy.schemes if each.id == scheme).groups
        name, href = next((each.name for each in groups if each.id == class_id), "Not sorted"), None
    return MapTitle(
        id=class_id,
        name=name,
        x=round(box.x, 1),
        y=round(_baseline(box), 1),
        outer=class_id in outer,
        tone=_tone(class_id),
        mark=mark(class_id),
        href=href,
    )


def _tone(name: str) -> str:
    return f"{tone(name)} unsorted" if name == UNSORTED else tone(name)


def _baseline(box: Box) -> float:
    return box.y + 0.68 * box.height


def around(scheme: str, class_id: str) -> Box:
    """The part of the drawing that shows a class whole; ``KeyError`` if it is not on this map."""
    found = [each for each in placed(scheme).regions if each.id == class_id]
    if not found:
        raise KeyError(class_id)
    return frame(found)


def _numbers(box: Box) -> tuple[float, float, float, float]:
    return round(box.x, 1), round(box.y, 1), round(box.width, 1), round(box.height, 1)


def _line(start: Box, end: Box) -> str:
    """A bent line from the middle of one name to that of another."""
    ax, ay = start.x + start.width / 2, start.y + start.height / 2
    bx, by = end.x + end.width / 2, end.y + end.height / 2
    length = hypot(bx - ax, by - ay) or 1.0
    stop = max(0.0, 1 - 14 / length)
    mx, my = (ax + bx) / 2 - BEND * (by - ay), (ay + by) / 2 + BEND * (bx - ax)
    return f"M{ax:.0f} {ay:.0f}Q{mx:.0f} {my:.0f} {ax + stop * (bx - ax):.0f} {ay + stop * (by - ay):.0f}"

"""The taxonomy: classes with their methods, overlaps, the other schemes and the timeline."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import Field

from taxonomy import ClassView, Moment, Region, SchemeView, Statement, UnknownMethod, build
from web.map.shape import Box
from web.problems import FieldError, invalid, no_such
from web.query import Query
from web.views.base import Envelope, MethodItem, Stamped, View, stamp
from web.views.map import UNSORTED, AtlasMap, around, atlas_map, measured, placed
from web.views.methods import items, libraries

SchemeId = Literal["survey", "decomposition", "critical_review", "library"]


class TaxonomyQuery(Query):
    """Choices of the page of the taxonomy."""

    scheme: SchemeId = Field("survey", description="which way of sorting the methods to show")
    library: str | None = Field(None, max_length=40, description="fade what this library does not ship")
    mergeable: Literal["yes", "no"] | None = Field(
        None, description="fade what can, or cannot, be merged into the model"
    )
    measured: Literal["yes", "no"] | None = Field(
        None, description="fade what published comparisons here have, or have not, measured"
    )
    until: int | None = Field(None, ge=1990, le=2100, description="fade what appeared after this year")
    method: str | None = Field(None, max_length=60, description="a method whose relatives are lit")
    lineage: Literal["chosen", "all"] = Field("chosen", description="whose lines of descent are drawn")
    zoom: str | None = Field(None, max_length=60, description="a class that fills the map")
    view: str | None = Field(
        None,
        pattern=r"^-?\d{1,5},-?\d{1,5},[1-9]\d{1,4},[1-9]\d{1,4}$",
        description="the part of the map that is shown: left, top, width, height",
    )


class SchemeChoice(View):
    """A way to sort the methods."""

    id: str
    name: str
    href: str
    chosen: bool


class MapOption(View):
    """A value of a filter."""

    value: str
    label: str
    chosen: bool


class MapChoice(View):
    """A filter of the map."""

    name: str = Field(description="parameter")
    label: str = Field(description="name for people")
    options: tuple[MapOption, ...] = Field(description="values; the first one is empty and stands for any")


class Year(View):
    """The methods that appeared in one year."""

    year: int
    moments: tuple[Moment, ...]


class TaxonomyPage(Stamped):
    """How the methods relate."""

    scheme: str = Field(description="the scheme that the page shows")
    map: AtlasMap = Field(description="the drawing")
    chosen: MethodItem | None = Field(description="the method whose relatives are lit")
    kept: int = Field(description="methods that pass the filters")
    form: tuple[MapChoice, ...] = Field(description="filters and what can be chosen in them")
    hidden: dict[str, str] = Field(description="further parameters that the form sends again")
    whole: str = Field(description="address of the map without a filter, a method or a part")
    choices: tuple[SchemeChoice, ...] = Field(description="the schemes")
    classes: tuple[ClassView, ...] = Field(description="the survey's classes as a tree, with the methods of each")
    regions: tuple[Region, ...] = Field(description="regions of the survey's Euler diagram that hold a method")
    schemes: tuple[SchemeView, ...] = Field(description="the other schemes")
    statements: tuple[Statement, ...] = Field(description="relations between methods")
    timeline: tuple[Year, ...] = Field(description="methods by year of their first public version")
    names: dict[str, str] = Field(description="names of the methods by slug")


class ClassItem(View):
    """A class in the list of classes."""

    id: str = Field(description="dotted path")
    name: str = Field(description="how it is written")
    definition: str = Field(description="what belongs to it")
    survey: bool = Field(description="whether the survey's Figure 2 draws it")
    methods: tuple[str, ...] = Field(description="slugs of the methods in it and in the classes inside it")


class ClassList(Envelope):
    """The classes of the taxonomy."""

    items: tuple[ClassItem, ...] = Field(description="parents before children")


def taxonomy_page(query: TaxonomyQuery) -> TaxonomyPage:
    """The taxonomy with one scheme in front; ``ProblemError`` for a name that does not exist."""
    taxonomy = build()
    named = [("survey", "The survey's classes"), *((each.id, each.name) for each in taxonomy.schemes)]
    chosen = _checked(query)
    kept = frozenset(item.slug for item in items() if _passes(item, query))
    years: dict[int, list[Moment]] = {}
    for moment in taxonomy.timeline():
        years.setdefault(moment.year, []).append(moment)
    given = query.model_dump(exclude_defaults=True)
    return TaxonomyPage(
        **stamp(),
        links={
            "html": "/taxonomy",
            "self": "/api/v1/taxonomy",
            "graphml": "/api/v1/export.graphml",
            "mermaid": "/api/v1/export.mmd",
            "json": "/api/v1/export.json",
        },
        scheme=query.scheme,
        map=atlas_map(query.scheme, kept, chosen, _part(query), query.lineage == "all"),
        chosen=next((item for item in items() if item.slug == chosen), None),
        kept=len(kept),
        form=_form(query),
        hidden={key: str(given[key]) for key in ("scheme", "method") if key in given},
        whole=_address({"scheme": query.scheme}),
        choices=tuple(
            SchemeChoice(
                id=scheme,
                name=name,
                href=_address({**given, "scheme": scheme, "zoom": None, "view": None}),
                chosen=scheme == query.scheme,
            )
            for scheme, name in named
        ),
        classes=taxonomy.class_tree,
        regions=taxonomy.regions,
        schemes=taxonomy.schemes,
        statements=taxonomy.statements,
        timeline=tuple(Year(year=year, moments=tuple(moments)) for year, moments in years.items()),
        names={slug: method.name for slug, method in taxonomy.methods.items()},
    )


def _address(given: dict[str, Any]) -> str:
    """The address of the page with these parameters, defaults left out."""
    chosen = TaxonomyQuery.model_validate(given).model_dump(exclude_defaults=True)
    return f"/taxonomy?{urlencode(chosen)}" if chosen else "/taxonomy"


def _part(query: TaxonomyQuery) -> Box | None:
    """The part of the map to show: what the reader moved to comes before the class that was chosen."""
    if query.view is not None:
        return Box(*map(float, query.view.split(",")))
    return around(query.scheme, query.zoom) if query.zoom is not None else None


def _passes(item: MethodItem, query: TaxonomyQuery) -> bool:
    return (
        query.library in (None, *item.libraries)
        and (query.mergeable is None or item.mergeable is (query.mergeable == "yes"))
        and (query.measured is None or measured(item.slug) is (query.measured == "yes"))
        and (query.until is None or item.year <= query.until)
    )


def _checked(query: TaxonomyQuery) -> str | None:
    """The slug of the chosen method; ``ProblemError`` for a method, library or class that does not exist."""
    regions = [each.id for each in placed(query.scheme).regions]
    errors = []
    if query.library is not None and query.library not in libraries():
        errors.append(no_such("library", "library", query.library, libraries()))
    if query.zoom is not None and query.zoom not in regions:
        errors.append(no_such("zoom", "class on this map", query.zoom, regions))
    slug = None
    if query.method is not None:
        try:
            slug = build().method(query.method).slug
        except UnknownMethod as error:
            errors.append(FieldError(parameter="method", message=str(error), near=error.near))
    if errors:
        raise invalid(errors)
    return slug


def _form(query: TaxonomyQuery) -> tuple[MapChoice, ...]:
    """The filters with what is chosen in them."""
    years = sorted({str(item.year) for item in items()}, reverse=True)
    titles = placed(query.scheme).titles
    names = {each.id: each.name for each in build().classes.values()}
    for scheme in build().schemes:
        if scheme.id == query.scheme:
            names = {each.id: each.name for each in scheme.groups} | {UNSORTED: "Not sorted"}
    yes_no = [("yes", "yes"), ("no", "no")]
    offers: list[tuple[str, str, str, list[tuple[str, str]]]] = [
        ("library", "Library", "any", [(each, each) for each in libraries()]),
        ("mergeable", "Mergeable", "any", yes_no),
        ("measured", "Measured", "any", yes_no),
        ("until", "Until year", "today", [(each, each) for each in years[1:]]),
        ("zoom", "Part", "the whole map", [(each, names[each]) for each in names if each in titles]),
        ("lineage", "Lines", "of the chosen", [("all", "all")]),
    ]
    given = {key: str(value) for key, value in query.model_dump(exclude_defaults=True).items()}
    return tuple(
        MapChoice(
            name=name,
            label=label,
            options=tuple(
                MapOption(value=value, label=text, chosen=given.get(name, "") == value)
                for value, text in (("", nothing), *values)
            ),
        )
        for name, label, nothing, values in offers
    )


def class_list() -> ClassList:
    """The classes with their methods."""
    taxonomy = build()
    items = tuple(
        ClassItem(
            id=node.id,
            name=node.name,
            definition=node.definition,
            survey=node.survey,
            methods=taxonomy.members(node.id),
        )
        for node in taxonomy.classification.classes
    )
    links = {"self": "/api/v1/classes", "html": "/taxonomy"}
    return ClassList(**stamp(), total=len(items), items=items, links=links)

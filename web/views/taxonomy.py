"""The taxonomy: classes with their methods, overlaps, the other schemes and the timeline."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from taxonomy import ClassView, Moment, Region, SchemeView, Statement, build
from web.query import Query
from web.views.base import Envelope, Stamped, View, stamp

SchemeId = Literal["survey", "decomposition", "critical_review", "library"]


class TaxonomyQuery(Query):
    """Choices of the page of the taxonomy."""

    scheme: SchemeId = Field("survey", description="which way of sorting the methods to show")


class SchemeChoice(View):
    """A way to sort the methods."""

    id: str
    name: str
    href: str
    chosen: bool


class Year(View):
    """The methods that appeared in one year."""

    year: int
    moments: tuple[Moment, ...]


class TaxonomyPage(Stamped):
    """How the methods relate."""

    scheme: str = Field(description="the scheme that the page shows")
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
    """The taxonomy with one scheme in front."""
    taxonomy = build()
    named = [("survey", "The survey's classes"), *((each.id, each.name) for each in taxonomy.schemes)]
    years: dict[int, list[Moment]] = {}
    for moment in taxonomy.timeline():
        years.setdefault(moment.year, []).append(moment)
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
        choices=tuple(
            SchemeChoice(
                id=scheme,
                name=name,
                href="/taxonomy" if scheme == "survey" else f"/taxonomy?scheme={scheme}",
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

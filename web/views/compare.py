"""Two to six methods side by side."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlencode

from pydantic import Field

from kb.schema import Method
from kb.table import COLUMNS, Cell, cited, row, shown
from recommender.answer import Citation
from recommender.naming import model_id
from recommender.service import default_catalogue
from recommender.variant import meaning
from taxonomy import Taxonomy, UnknownMethod, build
from web.problems import FieldError, invalid, no_model
from web.query import Query
from web.views.base import EXAMPLE_MODEL, ClassTag, Stamped, View, class_tag, method_item, stamp
from web.views.diagram import acts_on
from web.views.mark import HYBRID, tone
from web.views.multiples import Multiples, Subject, multiples

FEWEST, MOST = 2, 6
_LEFT_OUT = {"slug", "name", "classes", "paper", "arxiv"}


class CompareQuery(Query):
    """Which methods to compare, and how."""

    m: Annotated[tuple[str, ...], Field(max_length=24)] = Field((), description="a method; give two to six")
    only: Literal["all", "differences"] = Field("all", description="differences: leave out what all have in common")
    model: str | None = Field(None, max_length=120, description="model of the catalogue to draw memory and time for")


class Compared(View):
    """One method of a comparison."""

    slug: str
    name: str
    summary: str
    equation: str = Field(description="in TeX")
    classes: tuple[ClassTag, ...]
    hybrid: bool = Field(description="whether it lies in more than one boundary of the survey's Figure 2")
    without: str | None = Field(description="address of the comparison without it; null if too few would remain")


class Line(View):
    """One property of all compared methods."""

    key: str = Field(description="name in data")
    label: str = Field(description="name for people")
    values: tuple[Cell, ...] = Field(description="the values; null is 'not known'")
    texts: tuple[str, ...] = Field(description="the values for people")
    cited: tuple[int | None, ...] = Field(
        description="numbers of their sources, from 1; null for what has none: what a record says of itself, or is not known"
    )
    formula: bool = Field(description="whether the values are formulas")
    differs: bool = Field(description="whether the methods differ in it")


class ComparePage(Stamped):
    """The comparison; without methods, what there is to choose from."""

    methods: tuple[Compared, ...]
    only: str
    model: str | None = Field(description="model that memory and time are drawn for; null without methods")
    multiples: Multiples | None = Field(description="memory, time and quality as drawings; null without methods")
    lines: tuple[Line, ...]
    sources: tuple[Citation, ...] = Field(description="where the values come from, in the order of their numbers")
    hidden: int = Field(description="properties that all share and that are not shown")
    common_classes: tuple[ClassTag, ...] = Field(description="the nearest classes around all of them")
    common_methods: tuple[str, ...] = Field(description="the nearest methods that all are or build on")
    names: dict[str, str] = Field(description="names of all methods by slug, in alphabetical order")
    toggle: str | None = Field(description="address of the other view: all properties, or only differences")


def compare_page(query: CompareQuery) -> ComparePage:
    """The comparison; ``ProblemError`` for a method that does not exist, or too few or too many of them."""
    taxonomy = build()
    slugs = _slugs(taxonomy, query.m)
    chosen = [taxonomy.methods[slug] for slug in slugs]
    columns = [column for column in COLUMNS if column.key not in _LEFT_OUT]
    cells = [{**row(method), "implementation": method_item(method.slug).implemented} for method in chosen]
    different = {column.key for column in columns if len({repr(each[column.key]) for each in cells}) > 1}
    kept = [column for column in columns if chosen and (query.only == "all" or column.key in different)]
    sources, numbers = cited(chosen, kept)
    lines = tuple(
        Line(
            key=column.key,
            label=column.label,
            values=tuple(each[column.key] for each in cells),
            texts=tuple(
                _text(column.key, method, each[column.key]) for method, each in zip(chosen, cells, strict=True)
            ),
            cited=tuple(numbers.get((method.slug, column.key)) for method in chosen),
            formula=column.key.startswith("count_"),
            differs=column.key in different,
        )
        for column in kept
    )
    common = taxonomy.common(*slugs) if slugs else None
    model = _model(query.model, chosen) if chosen else None
    other = "differences" if query.only == "all" else "all"
    return ComparePage(
        **stamp(),
        links=_links(slugs, query),
        methods=tuple(
            Compared(
                slug=method.slug,
                name=method.name,
                summary=method.summary,
                equation=method.mechanism.equation,
                classes=tuple(class_tag(taxonomy, each) for each in method.taxonomy.classes),
                hybrid=taxonomy.is_hybrid(method.slug),
                without=address([each for each in slugs if each != method.slug], query.only, query.model)
                if len(slugs) > FEWEST
                else None,
            )
            for method in chosen
        ),
        only=query.only,
        model=model,
        multiples=multiples([_subject(taxonomy, slug) for slug in slugs], model) if model is not None else None,
        lines=lines,
        sources=tuple(map(default_catalogue().library.cite, sources)),
        hidden=len(columns) - len(lines) if chosen else 0,
        common_classes=tuple(class_tag(taxonomy, each) for each in common.classes) if common else (),
        common_methods=common.methods if common else (),
        names={method.slug: method.name for method in sorted(taxonomy.methods.values(), key=_by_name)},
        toggle=address(slugs, other, query.model) if slugs else None,
    )


def _text(key: str, method: Method, cell: Cell) -> str:
    """A value for people."""
    if key == "where":
        return acts_on(method.mechanism.where)
    if key == "architectures":
        return shown(cell).replace("_", "-")
    return "none" if key == "count_rank" and cell is None else shown(cell)


def address(slugs: list[str], only: str, model: str | None = None) -> str:
    """The address of a comparison."""
    pairs = [("m", slug) for slug in slugs]
    pairs += [("only", only)] if only != "all" else []
    pairs += [("model", model)] if model is not None else []
    return f"/compare?{urlencode(pairs)}" if pairs else "/compare"


def _links(slugs: list[str], query: CompareQuery) -> dict[str, str]:
    here = address(slugs, query.only, query.model)
    links = {"html": here, "self": f"/api/v1{here}"}
    if slugs:
        links["bibtex"] = f"/api/v1/compare/bibtex?{urlencode([('m', slug) for slug in slugs])}"
    return links


def _subject(taxonomy: Taxonomy, slug: str) -> Subject:
    method = taxonomy.methods[slug]
    return Subject(slug, method.name, tone(HYBRID if taxonomy.is_hybrid(slug) else method.taxonomy.classes[0]))


def _model(wanted: str | None, methods: list[Method]) -> str:
    """The model to draw for: the wish, or the example of the first architecture that all methods apply to."""
    meant = None if wanted is None else meaning(model_id(wanted))
    if wanted is not None and meant is None:
        raise no_model(wanted)
    shared = set.intersection(*({*method.applies_to.architectures} for method in methods))
    fitting = [model for kind, model in EXAMPLE_MODEL.items() if kind in shared]
    return meant.id if meant is not None else next(iter(fitting), EXAMPLE_MODEL["decoder"])


def _by_name(method: Method) -> str:
    return method.name.casefold()


def _slugs(taxonomy: Taxonomy, given: tuple[str, ...]) -> list[str]:
    found: dict[str, None] = {}
    errors = []
    for word in (each for each in given if each):
        try:
            found[taxonomy.method(word).slug] = None
        except UnknownMethod as error:
            errors.append(FieldError(parameter="m", message=str(error), near=error.near))
    if not errors and given and not FEWEST <= len(found) <= MOST:
        message = f"compares {FEWEST} to {MOST} different methods; {len(found)} were given, as in m=lora&m=dora"
        errors.append(FieldError(parameter="m", message=message, near=()))
    if errors:
        raise invalid(errors)
    return list(found)

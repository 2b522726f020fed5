"""The list of methods: facets with counts, chips that take a filter away, and why a list is empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from urllib.parse import urlencode

from pydantic import Field

from taxonomy import build
from web.problems import invalid, no_such
from web.query import Query
from web.search import best_methods
from web.views.base import Envelope, MethodItem, View, method_item, stamp

YesNo = Literal["yes", "no", "unknown"]


class MethodsQuery(Query):
    """Filters of the list of methods."""

    q: str | None = Field(
        None, max_length=80, description="words of a name, paper or author; typing errors are forgiven"
    )
    class_: str | None = Field(
        None, alias="class", max_length=60, description="class of the taxonomy, with the classes inside it"
    )
    hybrid: Literal["yes", "no"] | None = Field(None, description="in more than one boundary of the survey's Figure 2")
    status: Literal["baseline", "established", "research"] | None = Field(None, description="how settled it is")
    architecture: Literal["decoder", "encoder", "encoder_decoder", "vision", "diffusion"] | None = Field(
        None, description="kind of transformer it applies to"
    )
    library: str | None = Field(None, max_length=40, description="library that ships it")
    mergeable: YesNo | None = Field(None, description="whether it can be merged into one plain model")
    backprop: YesNo | None = Field(None, description="whether gradients flow through the frozen model")
    implemented: Literal["yes", "no"] | None = Field(None, description="whether this project has running code of it")
    year: int | None = Field(None, ge=1990, le=2100, description="year of the first public version")
    sort: Literal["name", "newest", "oldest", "class"] = Field("name", description="order of the list")


class Choice(View):
    """One value of a facet."""

    value: str = Field(description="the value in the address")
    label: str = Field(description="the value for people")
    count: int = Field(description="methods that have it, under the other filters")
    chosen: bool = Field(description="whether the list is filtered by it")
    inner: bool = Field(exclude=True, description="whether it lies inside of the value above it")
    href: str = Field(description="address of the list with this value chosen, or taken away if it is chosen")


class Facet(View):
    """One way to filter."""

    name: str = Field(description="parameter")
    label: str = Field(description="name for people")
    choices: tuple[Choice, ...] = Field(description="its values")


class Chip(View):
    """A filter that is on."""

    label: str = Field(description="what it says")
    without: str = Field(description="address of the list without it")
    found_without: int = Field(description="how many methods there would be without it")


class MethodsPage(Envelope):
    """The methods that pass the filters."""

    items: tuple[MethodItem, ...] = Field(description="the methods")
    of: int = Field(description="methods without any filter")
    facets: tuple[Facet, ...] = Field(description="ways to filter, with counts")
    chips: tuple[Chip, ...] = Field(description="filters that are on")
    sort: str = Field(description="order of the list")
    sorts: tuple[Choice, ...] = Field(description="other orders")
    q: str | None = Field(description="words that were searched")


@dataclass(frozen=True)
class _Facet:
    """How a filter reads a method."""

    name: str
    label: str
    values: Callable[[MethodItem], Iterable[str]]
    word: Callable[[str], str] = lambda value: value.replace("_", "-")


def _yes_no(value: bool | None) -> tuple[str]:
    return ("unknown",) if value is None else ("yes" if value else "no",)


def _around(item: MethodItem) -> Iterable[str]:
    return dict.fromkeys(each for tag in item.classes for each in (tag.base, tag.id))


def _class_name(class_id: str) -> str:
    return build().classes[class_id].name


FACETS = (
    _Facet("class", "Class", _around, _class_name),
    _Facet("hybrid", "Hybrid", lambda item: _yes_no(item.hybrid)),
    _Facet("architecture", "Architecture", lambda item: item.architectures),
    _Facet("library", "Library", lambda item: item.libraries),
    _Facet("mergeable", "Mergeable", lambda item: _yes_no(item.mergeable)),
    _Facet("backprop", "Backpropagation through the backbone", lambda item: _yes_no(item.backprop_through_backbone)),
    _Facet("implemented", "Runs here", lambda item: _yes_no(item.implemented)),
    _Facet("status", "Status", lambda item: (item.status,)),
    _Facet("year", "Year", lambda item: (str(item.year),)),
)
_ORDERS: dict[str, Callable[[MethodItem], object]] = {
    "name": lambda item: (item.name.casefold(), item.slug),
    "newest": lambda item: (-item.year, item.name.casefold()),
    "oldest": lambda item: (item.year, item.name.casefold()),
    "class": lambda item: ([tag.id for tag in item.classes], item.name.casefold()),
}


@lru_cache(maxsize=1)
def items() -> tuple[MethodItem, ...]:
    """Every method as lists show it."""
    return tuple(method_item(slug) for slug in build().methods)


def methods_page(query: MethodsQuery) -> MethodsPage:
    """The list under the filters of ``query``; ``ProblemError`` for a class or library that does not exist."""
    chosen = {key: str(value) for key, value in query.model_dump(by_alias=True, exclude_defaults=True).items()}
    _check(chosen)
    found = _passing(chosen)
    if query.q is None or "sort" in chosen:
        found = sorted(found, key=_ORDERS[query.sort])  # type: ignore[arg-type]  # each order compares with itself
    return MethodsPage(
        **stamp(),
        total=len(found),
        of=len(items()),
        items=tuple(found),
        facets=tuple(_shown(facet, chosen) for facet in FACETS),
        chips=tuple(_chip(name, value, chosen) for name, value in chosen.items() if name != "sort"),
        sort=query.sort,
        sorts=tuple(
            Choice(
                value=order,
                label=order,
                count=len(found),
                chosen=order == query.sort,
                inner=False,
                href=_address({**chosen, "sort": order}),
            )
            for order in _ORDERS
        ),
        q=query.q,
        links={"html": _address(chosen), "self": _address(chosen, "/api/v1/methods"), "csv": "/api/v1/export.csv"},
    )


@lru_cache(maxsize=1)
def libraries() -> tuple[str, ...]:
    """Every library that ships a method, in alphabetical order."""
    return tuple(sorted({library for item in items() for library in item.libraries}))


def _check(chosen: dict[str, str]) -> None:
    for name, known in (("class", list(build().classes)), ("library", libraries())):
        value = chosen.get(name)
        if value is not None and value not in known:
            raise invalid([no_such(name, name, value, known)])


def _passing(chosen: dict[str, str]) -> list[MethodItem]:
    by_slug = {item.slug: item for item in items()}
    start = [by_slug[slug] for slug in best_methods(chosen["q"])] if "q" in chosen else list(items())
    tests = [(facet, chosen[facet.name]) for facet in FACETS if facet.name in chosen]
    return [item for item in start if all(value in facet.values(item) for facet, value in tests)]


def _shown(facet: _Facet, chosen: dict[str, str]) -> Facet:
    others = {name: value for name, value in chosen.items() if name != facet.name}
    counts = Counter(value for item in _passing(others) for value in facet.values(item))
    every = dict.fromkeys(value for item in items() for value in facet.values(item))
    order = [each for each in build().classes if each in every] if facet.name == "class" else sorted(every)
    return Facet(
        name=facet.name,
        label=facet.label,
        choices=tuple(
            Choice(
                value=value,
                label=facet.word(value),
                count=counts[value],
                chosen=chosen.get(facet.name) == value,
                inner=facet.name == "class" and "." in value,
                href=_address(others if chosen.get(facet.name) == value else {**chosen, facet.name: value}),
            )
            for value in order
        ),
    )


def _chip(name: str, value: str, chosen: dict[str, str]) -> Chip:
    others = {key: each for key, each in chosen.items() if key != name}
    facet = next((each for each in FACETS if each.name == name), None)
    label = f"{facet.label}: {facet.word(value)}" if facet else f"Search: {value}"
    return Chip(label=label, without=_address(others), found_without=len(_passing(others)))


def _address(chosen: dict[str, str], path: str = "/methods") -> str:
    return f"{path}?{urlencode(chosen)}" if chosen else path

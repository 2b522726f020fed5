"""Pages to look around: methods, taxonomy, comparison, search, models and cards."""

from __future__ import annotations

from starlette.requests import Request

from web.page import Page
from web.problems import ProblemError
from web.query import Nothing, names_of, pairs, read
from web.views.base import View
from web.views.catalogue import GpusPage, GpusQuery, ModelsPage, ModelsQuery, gpus_page, models_page
from web.views.compare import ComparePage, CompareQuery, compare_page
from web.views.front import (
    AboutPage,
    GlossaryPage,
    HomePage,
    SearchPage,
    SearchQuery,
    about_page,
    glossary_page,
    home_page,
    search_page,
)
from web.views.method import MethodPage, MethodQuery, SourcePage, method_again, method_page, source_page
from web.views.method_evidence import MethodEvidencePage, method_evidence_page
from web.views.methods import MethodsPage, MethodsQuery, methods_page
from web.views.taxonomy import TaxonomyPage, TaxonomyQuery, taxonomy_page

REPEATABLE = frozenset({"m"})


def _home(request: Request) -> View:
    read(request, Nothing)
    return home_page()


def _about(request: Request) -> View:
    read(request, Nothing)
    return about_page()


def _glossary(request: Request) -> View:
    read(request, Nothing)
    return glossary_page()


def _source(request: Request) -> View:
    read(request, Nothing)
    return source_page(request.path_params["slug"])


def _method_evidence(request: Request) -> View:
    read(request, Nothing)
    return method_evidence_page(request.path_params["slug"])


def _method(request: Request) -> View:
    return method_page(request.path_params["slug"], read(request, MethodQuery))


def _method_again(request: Request, error: ProblemError) -> View:
    given = {name: value for name, value in pairs(request) if name in names_of(MethodQuery)}
    return method_again(request.path_params["slug"], given, error.problem.errors)


def _compare(request: Request) -> View:
    return compare_page(read(request, CompareQuery, REPEATABLE))


METHOD = Page(
    "/methods/{slug}", "method.html", _method, MethodPage, "One method: its record, evidence and relatives", MethodQuery,
    negotiated=True, again=_method_again,
)  # fmt: skip
"""First among the routes, because most requests want it."""

PAGES = (
    Page(
        "/methods/{slug}/source", "source.html", _source, SourcePage, "The running code of a method",
    ),
    Page(
        "/methods/{slug}/evidence", "method_evidence.html", _method_evidence, MethodEvidencePage,
        "Every published result of a method",
    ),
    Page(
        "/methods", "methods.html", lambda request: methods_page(read(request, MethodsQuery)), MethodsPage,
        "Methods, filtered", MethodsQuery,
    ),
    Page(
        "/taxonomy", "taxonomy.html", lambda request: taxonomy_page(read(request, TaxonomyQuery)), TaxonomyPage,
        "How the methods relate", TaxonomyQuery,
    ),
    Page("/compare", "compare.html", _compare, ComparePage, "Two to six methods side by side", CompareQuery, REPEATABLE),
    Page(
        "/search", "search.html", lambda request: search_page(read(request, SearchQuery)), SearchPage,
        "Search names, aliases, papers and authors", SearchQuery,
    ),
    Page(
        "/models", "models.html", lambda request: models_page(read(request, ModelsQuery)), ModelsPage,
        "Models that a request can name", ModelsQuery,
    ),
    Page(
        "/gpus", "gpus.html", lambda request: gpus_page(read(request, GpusQuery)), GpusPage,
        "Cards that a request can name", GpusQuery,
    ),
    Page("/glossary", "glossary.html", _glossary, GlossaryPage, "Words of the trade with their sources"),
    Page("/about", "about.html", _about, AboutPage, "What this project is, assumes and rests on", in_api=False),
    Page("/", "home.html", _home, HomePage, "The front page", in_api=False),
)  # fmt: skip

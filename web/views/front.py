"""The pages around the data: the front page, search, and what this project is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import urlencode

from pydantic import Field

from kb.catalogue import load_gpus, load_models
from kb.records import load_findings, load_glossary
from kb.schema import Finding, Term
from kb.studies import load_studies
from recommender.answer import Citation
from recommender.service import assumptions, default_catalogue
from recommender.units import show_count
from taxonomy import ClassView, build
from web.query import Query
from web.search import Group, find
from web.views.base import Envelope, MethodItem, Stamped, View, stamp
from web.views.example import Example, example
from web.views.form import MAIN, PRESETS, Form, Option, form
from web.views.map import AtlasMap, atlas_map
from web.views.methods import items


class Figures(View):
    """How much the knowledge base holds, and how sure it is."""

    methods: int = Field(description="method records")
    implemented: int = Field(description="methods with running code here")
    models: int = Field(description="models of the catalogue")
    gpus: int = Field(description="cards of the catalogue")
    studies: int = Field(description="published comparisons")
    results: int = Field(description="their result rows")
    doubts: int = Field(description="statements of records that could not be verified, each said on its page")
    unverified_models: int = Field(description="models whose published total could not be confirmed")


_FEW = 6
"""Things of a group besides methods that a search shows."""


class HomePage(Stamped):
    """The front page."""

    form: Form
    example: Example | None = Field(description="the answer to one of the presets, in short; null if nothing fits")
    presets: tuple[Option, ...]
    classes: tuple[ClassView, ...]
    map: AtlasMap = Field(description="the map of the taxonomy")
    figures: Figures


class FindingView(View):
    """A finding of the survey with its source."""

    finding: Finding
    source: Citation


class AboutPage(Stamped):
    """What this project is, how it works, what it cannot do."""

    figures: Figures
    assumptions: tuple[str, ...] = Field(description="what every prediction assumes")
    findings: tuple[FindingView, ...] = Field(description="what the survey found, as reasons cite it")
    bibtex: str = Field(description="the survey to cite")


class TermView(View):
    """A word of the trade with its source."""

    term: Term
    source: Citation


class GlossaryPage(Envelope):
    """Words of the trade."""

    items: tuple[TermView, ...] = Field(description="in alphabetical order")


class SearchQuery(Query):
    """What to search for."""

    q: str | None = Field(
        None, max_length=80, description="words of a name, paper or author; typing errors are forgiven"
    )


class Hit(View):
    """A method that was found."""

    method: MethodItem
    through: str = Field(description="the text that matched")
    kind: str = Field(description="what that text is: name, alias, paper, author or description")
    score: float = Field(description="similarity, out of 100 with a bonus for exact matches")


class Other(View):
    """Something else that was found."""

    id: str
    name: str
    text: str = Field(description="what it is, in a few words")
    href: str = Field(description="where it stands")


class SearchPage(Envelope):
    """What was found."""

    q: str | None
    items: tuple[Hit, ...] = Field(description="methods")
    models: tuple[Other, ...]
    cards: tuple[Other, ...]
    studies: tuple[Other, ...] = Field(description="published comparisons")
    terms: tuple[Other, ...] = Field(description="words of the glossary")


def figures() -> Figures:
    """The numbers of the knowledge base, counted from it."""
    methods, models, studies = build().methods, load_models(), load_studies()
    return Figures(
        methods=len(methods),
        implemented=sum(item.implemented for item in items()),
        models=len(models),
        gpus=len(load_gpus()),
        studies=len(studies),
        results=sum(len(rows) for _, rows in studies.values()),
        doubts=sum(len(method.review.doubts) for method in methods.values()),
        unverified_models=sum(model.parameters.status == "unverified-total" for model in models.values()),
    )


def home_page() -> HomePage:
    """The front page."""
    return HomePage(
        **stamp(),
        links={"html": "/", "api": "/api", "openapi": "/openapi.json"},
        form=form("/recommend", MAIN, (), {}),
        example=example(),
        presets=tuple(Option(value=address, label=label) for label, address in PRESETS),
        classes=build().class_tree,
        map=atlas_map("survey", frozenset(build().methods)),
        figures=figures(),
    )


def about_page() -> AboutPage:
    """What this project is."""
    library = default_catalogue().library
    known = load_findings().values()
    return AboutPage(
        **stamp(),
        links={"html": "/about", "survey": "https://arxiv.org/abs/2303.15647"},
        figures=figures(),
        assumptions=assumptions(None),
        findings=tuple(FindingView(finding=each, source=library.finding(each.number)) for each in known),
        bibtex=SURVEY_BIBTEX,
    )


def glossary_page() -> GlossaryPage:
    """What the words of the trade mean."""
    library = default_catalogue().library
    known = sorted(load_glossary().values(), key=lambda each: each.term.casefold())
    return GlossaryPage(
        **stamp(),
        links={"html": "/glossary", "self": "/api/v1/glossary"},
        total=len(known),
        items=tuple(TermView(term=each, source=library.cite(each.source)) for each in known),
    )


SURVEY_BIBTEX = """@misc{lialin2023scaling,
  author = {Vladislav Lialin and Vijeta Deshpande and Xiaowei Yao and Anna Rumshisky},
  title = {Scaling Down to Scale Up: A Guide to Parameter-Efficient Fine-Tuning},
  year = {2023},
  eprint = {2303.15647},
  archiveprefix = {arXiv},
  url = {https://arxiv.org/abs/2303.15647}
}
"""
"""The survey that this project grew from."""


def search_page(query: SearchQuery) -> SearchPage:
    """What matches the words, by group."""
    by_slug, words = {item.slug: item for item in items()}, query.q or ""
    hits = tuple(
        Hit(method=by_slug[match.slug], through=match.text, kind=match.kind, score=match.score) for match in find(words)
    )
    return SearchPage(
        **stamp(),
        links={"html": "/search"},
        total=len(hits),
        q=query.q,
        items=hits,
        models=_others(words, "models"),
        cards=_others(words, "cards"),
        studies=_others(words, "studies"),
        terms=_others(words, "terms"),
    )


def _others(words: str, group: Group) -> tuple[Other, ...]:
    return tuple(SHOWN[group](match.slug) for match in find(words, _FEW, group))


def _method(found: str) -> Other:
    method = build().methods[found]
    return Other(id=found, name=method.name, text=method.summary, href=f"/methods/{found}")


def _model(found: str) -> Other:
    model = load_models()[found]
    text = f"{show_count(model.parameters.computed)} parameters, {model.architecture.kind.replace('_', '-')}"
    return Other(id=found, name=model.name, text=text, href=f"/models?{urlencode({'q': model.id})}")


def _card(found: str) -> Other:
    card = load_gpus()[found]
    return Other(id=found, name=card.name, text=f"{card.memory_gb} GB", href=f"/gpus?{urlencode({'q': card.name})}")


def _study(found: str) -> Other:
    study, rows = load_studies()[found]
    kind = "by authors of a compared method" if study.proposes else "independent"
    text = f"{kind}, {len(rows)} results{f', {study.year}' if study.year else ''}"
    return Other(id=found, name=study.title, text=text, href=f"/evidence/{found}")


def _term(found: str) -> Other:
    term = load_glossary()[found]
    return Other(id=found, name=term.term, text=term.definition, href=f"/glossary#{found}")


SHOWN: Mapping[Group, Callable[[str], Other]] = MappingProxyType(
    {"methods": _method, "models": _model, "cards": _card, "studies": _study, "terms": _term}
)
"""How a thing that was found is shown, by its group; each takes the id."""

"""One method: its record, and what the other rooms know about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field

from kb.architecture import VARIABLES
from kb.bibliography import entry
from kb.catalogue import load_models
from kb.closed_form import WHOSE, Implementation
from kb.expression import variables
from kb.knowledge import sources_in
from kb.measured import CardRun, card_report
from kb.schema import Method
from kb.timeline import timeline
from recommender import ConstraintError, Constraints, Estimate, estimate
from recommender.answer import Citation, Code, Quality, Robustness, Start, StudyEffect
from recommender.naming import model_id
from recommender.quality import studies_of
from recommender.recipe import IMPLEMENTATIONS
from recommender.service import default_catalogue
from recommender.variant import meaning
from taxonomy import Kin, Neighbour, Sibling, build
from web.problems import FieldError, ProblemError, from_constraint, no_model
from web.query import Query
from web.views.base import EXAMPLE_MODEL, ClassTag, Stamped, View, class_tag, stamp
from web.views.diagram import Diagram, diagram
from web.views.forest import Forest, forest
from web.views.form import Form, form
from web.views.listing import CodePart, parts_of
from web.views.method_evidence import StudyCount, counted
from web.views.plan import DOWN
from web.views.recommend import Bar, bar
from web.views.record import record
from web.views.timeline import Course, course

BATCH = 4
"""Examples in a micro-batch where the page says where the memory goes."""
LAYER_VARIABLES = {"d_in": "inputs of the linear layer", "d_out": "outputs of the linear layer"}
"""Names in a formula that is counted per linear layer."""


class MethodQuery(Query):
    """Choices of a method's page."""

    model: str | None = Field(None, max_length=120, description="model of the catalogue to compute the counts for")
    rank: int | None = Field(None, ge=1, le=4096, description="rank instead of the one that we advise")
    gpu: str | None = Field(None, max_length=60, description="card of the catalogue to hold the memory against")


class RelationView(View):
    """A statement about this method and another one."""

    kind: Literal["extends", "combines", "special_case_of", "supersedes"] = Field(description="what is said")
    direction: Literal["to", "from"] = Field(description="to: this method's record says it about the other")
    slug: str = Field(description="the other method")
    name: str = Field(description="its name")
    note: str = Field(description="in which way")


class Place(View):
    """Where the memory goes in one implementation."""

    implementation: Implementation = Field(description="whose code is run")
    estimate: Estimate = Field(description="its prediction, in bf16 without checkpointing")
    bar: Bar = Field(description="the prediction as a drawing")


class MethodPage(Stamped):
    """Everything about one method."""

    slug: str = Field(description="name in addresses")
    method: Method = Field(description="the record")
    classes: tuple[ClassTag, ...] = Field(description="leaf classes")
    hybrid: bool = Field(description="whether it lies in more than one boundary of the survey's Figure 2")
    base_hybrid: bool = Field(description="whether it lies in more than one base class")
    sources: dict[str, Citation] = Field(description="the publications behind the values, by basis and reference")
    diagram: Diagram = Field(description="where it acts in a transformer")
    diagram_slim: Diagram = Field(exclude=True, description="the same drawn for a telephone")
    estimate: Estimate | None = Field(description="counts, memory and time for a model; null if it cannot be computed")
    estimate_problem: str | None = Field(description="why there is no estimate")
    memory: tuple[Place, ...] = Field(description="where the memory goes for that model, by implementation")
    letters: dict[str, str] = Field(exclude=True, description="what the names in the formulas of the counts stand for")
    form: Form = Field(exclude=True, description="model, rank and card that the counts and the memory are shown for")
    measured: tuple[CardRun, ...] = Field(description="what cards measured here, beside the prediction; empty: nothing")
    course: Course | None = Field(description="live memory over one training step; null if no dry run was committed")
    starts: tuple[Start, ...] = Field(description="hyperparameters to start from")
    quality: Quality = Field(description="expected quality from published comparisons")
    robustness: Robustness = Field(description="how much its results vary with seed, configuration and task")
    studies: tuple[StudyEffect, ...] = Field(description="what each study says, independent ones first")
    forest: Forest | None = Field(description="what each study says, as a drawing; null if none contains it")
    evidence: tuple[StudyCount, ...] = Field(
        description="published comparisons that contain it; links.evidence has the results"
    )
    relations: tuple[RelationView, ...] = Field(description="statements about it and others")
    lineage: tuple[Kin, ...] = Field(description="methods that it builds on, nearest first")
    descendants: tuple[Kin, ...] = Field(description="methods that build on it, nearest first")
    siblings: tuple[Sibling, ...] = Field(description="methods of the same leaf class")
    nearest: tuple[Neighbour, ...] = Field(description="most similar methods, with the reasons")
    alike: tuple[str, ...] = Field(exclude=True, description="reasons that all of them share, said once by the page")
    code: Code = Field(description="how to run it")
    parts: tuple[CodePart, ...] = Field(description="what our implementation consists of")
    bibtex: str | None = Field(description="entry of its paper; null without a paper")


class SourcePage(Stamped):
    """The running code of a method."""

    slug: str = Field(description="the method")
    name: str = Field(description="its name")
    file: str = Field(description="path in the repository")
    lines: int = Field(description="its length")
    source: str = Field(description="the Python file")


def implementation(slug: str) -> str | None:
    """The source of our implementation, or ``None``; only slugs of records come here, never a path of a request."""
    path = IMPLEMENTATIONS / f"{record(slug).slug}.py"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def method_page(slug: str, query: MethodQuery) -> MethodPage:
    """Everything about a method, with counts for ``query.model``."""
    page = _page(record(slug).slug)
    asked = query.model_dump(exclude_none=True)
    if not asked:
        return page
    if query.model is None:
        asked["model"] = page.estimate.model.id if page.estimate is not None else None
    return page.model_copy(update=_estimated(page.method, asked))


def method_again(slug: str, given: dict[str, str], errors: tuple[FieldError, ...]) -> MethodPage:
    """Everything about a method, with what was wrong with the wish beside its field in place of the counts."""
    problem = "; ".join(each.message for each in errors)
    page = _page(record(slug).slug)
    again = {"estimate": None, "estimate_problem": problem, "memory": (), "form": _form(page.method, given, errors)}
    return page.model_copy(update=again)


@lru_cache(maxsize=256)
def _page(slug: str) -> MethodPage:
    taxonomy, method, catalogue = build(), record(slug), default_catalogue()
    nearest = taxonomy.nearest(slug, 5)
    known, source = catalogue.known[slug], implementation(slug)
    fitting = (EXAMPLE_MODEL[each] for each in method.applies_to.architectures if each in EXAMPLE_MODEL)
    links = {
        "html": f"/methods/{slug}",
        "self": f"/api/v1/methods/{slug}",
        "bibtex": f"/api/v1/methods/{slug}/bibtex",
        "evidence": f"/methods/{slug}/evidence",
        "nearest": f"/compare?m={slug}" + "".join(f"&m={each.slug}" for each in taxonomy.nearest(slug, 3)),
        "estimate": f"/estimate?method={slug}",
    }
    if known.code.run is not None:
        links["source"] = f"/methods/{slug}/source"
    if method.paper is not None and method.paper.arxiv is not None:
        links["paper"] = f"https://arxiv.org/abs/{method.paper.arxiv}"
    elif method.paper is not None and method.paper.url is not None:
        links["paper"] = method.paper.url
    return MethodPage(
        **stamp(),
        links=links,
        slug=slug,
        method=method,
        classes=tuple(class_tag(taxonomy, each) for each in method.taxonomy.classes),
        hybrid=taxonomy.is_hybrid(slug),
        base_hybrid=taxonomy.is_base_hybrid(slug),
        sources={f"{each.basis}:{each.ref}": catalogue.library.cite(each) for _, each in sources_in(method)},
        diagram=diagram(method.mechanism.where, method.mechanism.form),
        diagram_slim=diagram(method.mechanism.where, method.mechanism.form, DOWN),
        starts=known.starts,
        quality=known.evidence.quality(),
        robustness=known.evidence.robustness(),
        studies=studies_of(slug),
        forest=forest(studies_of(slug), known.evidence.quality()),
        evidence=counted(slug),
        relations=_relations(slug),
        lineage=taxonomy.lineage(slug).methods,
        descendants=taxonomy.descendants(slug),
        siblings=taxonomy.siblings(slug),
        letters=_letters(method),
        nearest=nearest,
        alike=_shared(nearest),
        code=known.code,
        parts=parts_of(source, f"/methods/{slug}/source") if source is not None else (),
        bibtex=entry(method) if method.paper is not None else None,
        course=_course(slug),
        measured=tuple(row for row in card.compared if row.slug == slug) if (card := card_report()) else (),
        **_estimated(method, {"model": next(fitting, None)}),
    )


def _estimated(method: Method, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate for a wish of the reader: model of the catalogue, and perhaps rank and card.

    A name that does not exist is the reader's mistake (``ProblemError``); another gap is said.
    """
    nothing = {"estimate": None, "memory": (), "form": _form(method, {k: str(v) for k, v in asked.items() if v}, ())}
    if asked.get("model") is None:
        problem = f"applies to {', '.join(method.applies_to.architectures)} models, for which nothing is computed yet"
        return {**nothing, "estimate_problem": problem}
    wanted = model_id(asked["model"])
    if meaning(wanted) is None:
        raise no_model(wanted)
    try:
        found = estimate(method.slug, Constraints(**asked))
    except ConstraintError as error:
        if error.field in ("gpu", "rank"):
            raise from_constraint(error, asked) from None
        return {**nothing, "estimate_problem": str(error)}
    return {**nothing, "estimate": found, "estimate_problem": None, "memory": _places(method.slug, asked)}


def _form(method: Method, given: Mapping[str, str], errors: tuple[FieldError, ...]) -> Form:
    """The fields for what the page computes; a rank only where the method has one."""
    ranked = any(each.name == "rank" for each in method.mechanism.hyperparameters)
    names = ("model", "rank", "gpu") if ranked or "rank" in given else ("model", "gpu")
    return form(f"/methods/{method.slug}#counts", names, (), given, errors)


def _places(slug: str, asked: Mapping[str, Any]) -> tuple[Place, ...]:
    """Where the memory goes, in each implementation that there is; none if it cannot run in bf16."""
    found: list[Estimate] = []
    for code in WHOSE:
        wanted = Constraints(**asked, implementation=code, batch=BATCH, quantization="none", checkpointing="off")
        try:
            found.append(estimate(slug, wanted))
        except ConstraintError:
            continue  # it has no such implementation, or none that this model can take
    longest = max((each.peak.high.device_bytes for each in found), default=0)
    return tuple(
        Place(
            implementation=each.plan.implementation,
            estimate=each,
            bar=bar(each.peak, each.card.usable_bytes if each.card is not None else None, longest),
        )
        for each in found
    )


def _course(slug: str) -> Course | None:
    """The committed course of a training step as a drawing."""
    found = timeline(slug)
    if found is None:
        return None
    name = load_models()[found.model].name if found.model in load_models() else found.model
    return course(found, f"One training step of {build().methods[slug].name} on {name}")


def _letters(method: Method) -> dict[str, str]:
    """The variables of the architecture in the formulas of the counts, with their meaning; knobs stand in a table of their own."""
    counts = (method.counts.trainable, method.counts.changed, method.counts.rank, method.counts.stored)
    used = frozenset[str]().union(*(variables(each.expr) for each in counts if each.expr is not None))
    return {name: meaning for name, meaning in (LAYER_VARIABLES | VARIABLES).items() if name in used}


def _shared(neighbours: Sequence[Neighbour]) -> tuple[str, ...]:
    """The reasons that all of several neighbours have, in the order of the first."""
    if len(neighbours) < 2:
        return ()
    return tuple(each for each in neighbours[0].reasons if all(each in other.reasons for other in neighbours))


def _relations(slug: str) -> tuple[RelationView, ...]:
    taxonomy = build()
    views = []
    for each in taxonomy.relations_of(slug):
        other = each.other if each.method == slug else each.method
        views.append(
            RelationView(
                kind=each.kind,
                direction="to" if each.method == slug else "from",
                slug=other,
                name=taxonomy.methods[other].name,
                note=each.note,
            )
        )
    return tuple(views)


def source_page(slug: str) -> SourcePage:
    """The running code of a method; ``ProblemError`` (404) if there is none of ours."""
    method, source = record(slug), implementation(slug)
    if source is None:
        raise ProblemError(
            404, f"there is no implementation of {method.name} here yet; its page says where else it runs"
        )
    return SourcePage(
        **stamp(),
        links={"html": f"/methods/{slug}/source", "method": f"/methods/{slug}"},
        slug=slug,
        name=method.name,
        file=f"reference_impls/{slug}.py",
        lines=source.count("\n"),
        source=source,
    )

"""The recommendation and the estimate: the answer itself is the data, the page adds the form and drawings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args
from urllib.parse import urlencode

from pydantic import Field, ValidationError

from kb.catalogue import load_gpus
from recommender import Answer, ConstraintError, Constraints, Estimate, estimate, from_query, recommend
from recommender.answer import Change, Memory
from recommender.constraints import Objective
from recommender.service import RELATIVE_TIMES
from taxonomy import UnknownMethod, build
from web.problems import FieldError, ProblemError, from_constraint, from_validation, invalid, near_names, short
from web.query import names_of, split
from web.views.base import ClassTag, View, class_tag
from web.views.form import ESTIMATE_MAIN, ESTIMATE_MORE, MAIN, MORE, PRESETS, Form, Option, form
from web.views.scatter import ACROSS, ROOMY, SLIM, UP, Across, Scatter, Sheet, Up, scatter

QUERY_FIELDS = tuple(name for name in names_of(Constraints) if name != "config")
ESTIMATE_FIELDS = ("method", *QUERY_FIELDS)
Pairs = list[tuple[str, str]]
_CARDS, _SAME_MEMORY = 5, 0.1  # cards to offer, and how far theirs may be from the memory that was asked for
PLOT = "plot"
"""A parameter of the page alone: the axes of its drawing, as in plot=memory-quality. Data has every value anyway."""
PLOTS: dict[str, tuple[Across, Up]] = {f"{across}-{up}": (across, up) for across in ACROSS for up in UP}


class Segment(View):
    """A part of the memory in a stacked bar."""

    part: str = Field(description="what it holds")
    value: int = Field(description="bytes")
    x: float = Field(description="left edge, in percent of the bar")
    width: float = Field(description="width, in percent of the bar")


class Bar(View):
    """Memory against the card, as a drawing."""

    segments: tuple[Segment, ...] = Field(description="the parts")
    low: float = Field(description="lower end of the prediction, in percent of the bar")
    high: float = Field(description="upper end of the prediction, in percent of the bar")
    card: float | None = Field(description="end of the card's memory, in percent of the bar; null without a card")


class Suggestion(View):
    """A change with the address that tries it."""

    text: str = Field(description="what to change and what follows")
    short: str = Field(description="what to change")
    href: str | None = Field(description="address of the same request with the change; null if it names none")
    device_bytes: int | None = Field(description="device memory that it would give; null if it is not about one plan")
    fits: bool | None = Field(description="whether it would then fit; null without a card")


class RecommendPage(View):
    """The page of a recommendation."""

    form: Form
    presets: tuple[Option, ...]
    answer: Answer | None = Field(description="null before anything was asked, and after a mistake")
    tags: dict[str, tuple[ClassTag, ...]]
    bars: dict[str, Bar]
    advice: tuple[Suggestion, ...]
    changes: dict[str, tuple[Suggestion, ...]]
    why_changes: tuple[Suggestion, ...] = Field(description="what would let the questioned method in, or put it first")
    objectives: tuple[Option, ...] = Field(description="addresses of the same request for other objectives")
    scatter: Scatter | None = Field(description="the methods that fit on two axes; null for fewer than two")
    scatter_slim: Scatter | None = Field(description="the same for a telephone")
    plots: tuple[Option, ...] = Field(description="addresses of the drawing on other axes")
    cards: tuple[Option, ...] = Field(
        description="addresses of the same request for cards with this memory, which would give tokens per second"
    )
    warnings: tuple[str, ...] = Field(description="what to beware of, without what ``cards`` offers")
    given: tuple[Option, ...] = Field(description="the constraints as given, for a form that adds to them")
    names: dict[str, str]
    compare: str | None = Field(description="address that compares the leading methods")
    json_address: str | None


class EstimatePage(View):
    """The page of an estimate."""

    form: Form
    estimate: Estimate | None
    bar: Bar | None
    changes: tuple[Suggestion, ...] = Field(description="single changes with the memory that each would give")
    remarks: tuple[Suggestion, ...] = Field(description="what else could be different")
    cards: tuple[Option, ...] = Field(description="addresses of the same request for cards with this memory")
    warnings: tuple[str, ...] = Field(description="what to beware of, without what ``cards`` offers")
    json_address: str | None


def _constraints(
    values: Mapping[str, Any], errors: list[FieldError], known: Iterable[str], needs_memory: bool = False
) -> Constraints:
    """``Constraints`` from text values; ``ProblemError`` with everything that is wrong."""
    try:
        found = from_query(values)
    except ValidationError as error:
        said = from_validation(error, known)
        errors = errors + [each for each in said if each.parameter != "params" or not errors or "params" in values]
        if needs_memory and not errors_about(errors, "gpu_mem", "gpu") and not {"gpu_mem", "gpu"} & values.keys():
            message = "say how much memory there is: gpu_mem=24GB, or a card such as gpu=rtx-4090"
            errors.append(FieldError(parameter="gpu_mem", message=message, near=()))
    else:
        if not errors:
            return found
    raise invalid(errors)


def errors_about(errors: Iterable[FieldError], *names: str) -> bool:
    """Whether a complaint concerns one of these parameters."""
    return any(error.parameter in names for error in errors)


def answer_query(given: Pairs) -> Answer:
    """The recommendation that a query string asks for; ``ProblemError`` if it is not right."""
    values, errors = split(given, (*QUERY_FIELDS, PLOT))
    plot = values.pop(PLOT, None)
    if plot is not None and plot not in PLOTS:
        message = f"{short(plot)!r} is none of {', '.join(PLOTS)}"
        errors.append(FieldError(parameter=PLOT, message=message, near=near_names(plot, PLOTS)))
    return _recommended(_constraints(values, errors, QUERY_FIELDS, needs_memory=True), values)


def answer_body(body: Mapping[str, Any]) -> Answer:
    """The recommendation that a JSON body asks for; ``ProblemError`` if it is not right."""
    return _recommended(_from_body(body, names_of(Constraints)), body)


def _recommended(constraints: Constraints, given: Mapping[str, Any]) -> Answer:
    try:
        return recommend(constraints)
    except ConstraintError as error:
        raise from_constraint(error, given) from None


def _from_body(body: Mapping[str, Any], known: Iterable[str]) -> Constraints:
    """``Constraints`` from JSON; a bare number where a size is wanted gets the hint of the size's own reader."""
    sizes = {
        name: str(body[name])
        for name in ("gpu_mem", "params")
        if isinstance(body.get(name), int | float) and not isinstance(body[name], bool)
    }
    try:
        return Constraints.model_validate({**body, **sizes})
    except ValidationError as error:
        raise invalid(from_validation(error, known)) from None


def estimate_query(given: Pairs) -> Estimate:
    """The estimate that a query string asks for; ``ProblemError`` if it is not right."""
    values, errors = split(given, ESTIMATE_FIELDS)
    slug = values.pop("method", None)
    if slug is None and not errors_about(errors, "method"):
        errors.append(_no_method())
    return _estimated(slug or "", _constraints(values, errors, ESTIMATE_FIELDS), values)


def estimate_body(body: Mapping[str, Any]) -> Estimate:
    """The estimate that a JSON body asks for; ``ProblemError`` if it is not right."""
    slug = body.get("method")
    if not isinstance(slug, str):
        raise invalid([_no_method()])
    rest = {name: value for name, value in body.items() if name != "method"}
    return _estimated(slug, _from_body(rest, ("method", *names_of(Constraints))), rest)


def _no_method() -> FieldError:
    return FieldError(parameter="method", message="say which method: method=lora", near=())


def _estimated(slug: str, constraints: Constraints, given: Mapping[str, Any]) -> Estimate:
    try:
        method = build().method(slug)
    except UnknownMethod as error:
        raise invalid([FieldError(parameter="method", message=str(error), near=error.near)]) from None
    try:
        return estimate(method.slug, constraints)
    except ConstraintError as error:
        raise from_constraint(error, given) from None


def recommend_page(given: Pairs) -> RecommendPage:
    """The page for a query string: the empty form without one, else the form with its answer."""
    whole = [
        (name, value) for name, value in given if (name, value) != ("detail", "brief")
    ]  # it shows all that there is
    return _page(given, answer_query(whole) if given else None, ())


def recommend_again(given: Pairs, problem: ProblemError) -> RecommendPage:
    """The form once more, with what was wrong."""
    return _page(given, None, problem.problem.errors)


def _page(given: Pairs, answer: Answer | None, errors: tuple[FieldError, ...]) -> RecommendPage:
    values = _read({name: value for name, value in given if value != ""}, answer)
    plot = values.pop(PLOT, next(iter(PLOTS)))
    asked = [(name, value) for name, value in given if name != PLOT and value != ""]
    ranked = answer.ranked if answer else ()
    usable = answer.card.usable_bytes if answer else None
    first = [each.slug for each in ranked[:3]]
    across, up = PLOTS.get(plot, next(iter(PLOTS.values())))
    return RecommendPage(
        form=form("/recommend", MAIN, MORE, values, errors),
        presets=tuple(Option(value=address, label=label) for label, address in PRESETS),
        answer=answer,
        tags={each.slug: tags_of(each.slug) for each in ranked},
        bars={each.slug: bar(each.memory, usable) for each in ranked},
        advice=suggestions(answer.advice, "/recommend", asked) if answer else (),
        changes={each.slug: suggestions(each.changes, "/recommend", asked) for each in ranked},
        why_changes=suggestions(answer.why.admits, "/recommend", asked) if answer and answer.why else (),
        objectives=_objectives(asked, answer) if answer else (),
        scatter=_scatter(answer, across, up, ROOMY) if answer else None,
        scatter_slim=_scatter(answer, across, up, SLIM) if answer else None,
        plots=tuple(
            Option(
                value=f"{_changed({PLOT: name}, '/recommend', asked)}#plot",
                label=f"{UP[y].short} against {ACROSS[x].short}",
            )
            for name, (x, y) in PLOTS.items()
            if (x, y) != (across, up)
        ),
        cards=_cards("/recommend", asked, answer) if answer else (),
        warnings=_warnings(answer) if answer else (),
        given=tuple(Option(value=value, label=name) for name, value in asked if name != "why"),
        names={slug: method.name for slug, method in build().methods.items()},
        compare="/compare?" + urlencode([("m", slug) for slug in first]) if len(first) > 1 else None,
        json_address=f"/recommend.json?{urlencode(asked)}" if answer else None,
    )


def _objectives(asked: Pairs, answer: Answer) -> tuple[Option, ...]:
    """The same request for each other objective."""
    return tuple(
        Option(value=_changed({"objective": name}, "/recommend", asked) or "", label=name)
        for name in get_args(Objective)
        if name != answer.constraints["objective"]
    )


def _cards(path: str, asked: Pairs, found: Answer | Estimate) -> tuple[Option, ...]:
    """The same request for the newest cards whose memory is about as large and whose rates are known."""
    if RELATIVE_TIMES not in found.warnings or found.card is None:
        return ()
    memory = found.card.usable_bytes / 10**9
    fitting = [
        each
        for each in load_gpus().values()
        if each.devices == 1
        and abs(each.memory_gb - memory) <= _SAME_MEMORY * each.memory_gb
        and each.tensor_tflops.value is not None
        and each.bandwidth_gbs.value is not None
    ]
    newest = sorted(fitting, key=lambda each: (-each.year, each.name))[:_CARDS]
    return tuple(Option(value=_changed({"gpu": each.id}, path, asked) or "", label=each.name) for each in newest)


def _warnings(found: Answer | Estimate) -> tuple[str, ...]:
    return tuple(each for each in found.warnings if each != RELATIVE_TIMES)


def _scatter(answer: Answer, across: Across, up: Up, sheet: Sheet) -> Scatter | None:
    taxonomy = build()
    classes = {each.slug: taxonomy.methods[each.slug].taxonomy.classes[0] for each in answer.standings}
    return scatter(answer.standings, across, up, classes, {each.slug for each in answer.ranked}, sheet)


def estimate_page(given: Pairs) -> EstimatePage:
    """The page for a query string: the empty form without one, else the form with the estimate."""
    found = estimate_query(given) if given else None
    changes = suggestions(found.changes, "/estimate", given) if found else ()
    return EstimatePage(
        form=_estimate_form(given, (), found),
        estimate=found,
        bar=bar(found.peak, found.card.usable_bytes if found.card else None) if found else None,
        changes=tuple(each for each in changes if each.device_bytes is not None),
        remarks=tuple(each for each in changes if each.device_bytes is None),
        cards=_cards("/estimate", given, found) if found else (),
        warnings=_warnings(found) if found else (),
        json_address=f"/estimate.json?{urlencode(given)}" if found else None,
    )


def estimate_again(given: Pairs, problem: ProblemError) -> EstimatePage:
    """The form once more, with what was wrong."""
    return EstimatePage(
        form=_estimate_form(given, problem.problem.errors),
        estimate=None,
        bar=None,
        changes=(),
        remarks=(),
        cards=(),
        warnings=(),
        json_address=None,
    )


def _read(values: dict[str, str], found: Answer | Estimate | None) -> dict[str, Any]:
    """What was given, in the words that the choices of a form have: "classification" was read as understanding."""
    if found is None:
        return dict(values)
    return {name: found.constraints.get(name, value) for name, value in values.items()}


def _estimate_form(given: Pairs, errors: tuple[FieldError, ...], found: Estimate | None = None) -> Form:
    values = _read({name: value for name, value in given if value != ""}, found)
    return form("/estimate", ESTIMATE_MAIN, ESTIMATE_MORE, values, errors)


def tags_of(slug: str) -> tuple[ClassTag, ...]:
    """The class tags of a method."""
    taxonomy = build()
    return tuple(class_tag(taxonomy, each) for each in taxonomy.methods[slug].taxonomy.classes)


def bar(memory: Memory, usable: int | None, beside: int = 0) -> Bar:
    """The stacked bar of a prediction: parts, what the driver and the allocator add, the range, and the card's end.

    ``beside`` is the largest upper end of bars that stand next to it, so that their lengths compare.
    """
    whole = max(memory.high.device_bytes, usable or 0, beside) * 1.02
    parts = [*memory.parts, ("allocator and driver", memory.device_bytes - memory.allocated_bytes)]
    segments, x = [], 0.0
    for part, value in parts:
        width = 100 * value / whole
        segments.append(Segment(part=part, value=value, x=round(x, 3), width=round(width, 3)))
        x += width
    return Bar(
        segments=tuple(segments),
        low=round(100 * memory.low.device_bytes / whole, 3),
        high=round(100 * memory.high.device_bytes / whole, 3),
        card=None if usable is None else round(100 * usable / whole, 3),
    )


def suggestions(changes: Iterable[Change], path: str, given: Pairs) -> tuple[Suggestion, ...]:
    """The changes, each with the address that tries it."""
    return tuple(
        Suggestion(
            text=each.text,
            short=each.text.partition(":")[0],
            href=_changed(each.query, path, given),
            device_bytes=each.device_bytes,
            fits=each.fits,
        )
        for each in changes
    )


def _changed(query: Mapping[str, str], path: str, given: Pairs) -> str | None:
    if not query:
        return None
    drop = set(query) | ({"model", "params"} if {"model", "params"} & query.keys() else set())
    drop |= {"gpu", "gpu_mem"} if {"gpu", "gpu_mem"} & query.keys() else set()
    kept = [(name, value) for name, value in given if name not in drop and value != ""]
    return f"{path}?{urlencode([*kept, *query.items()])}"

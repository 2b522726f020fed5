"""``peft-atlas recommend`` and ``estimate``: their options are the fields of ``Constraints``, and nothing else."""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.terminal import console, near, stop
from kb.collector import resting, set_aside
from recommender import Answer, ConstraintError, Constraints, Estimate
from recommender import estimate as estimated
from recommender import recommend as recommended
from recommender.answer import Code, Plan, WhyNot
from recommender.placement import EVERYWHERE, said
from recommender.units import show_bytes, show_count
from taxonomy import UnknownMethod, build

FIELDS = {name: field for name, field in Constraints.model_fields.items() if name != "config"}
"""Fields that are options. ``config`` is read from the file that ``--model`` names."""

_LARGEST_CONFIG = 64_000  # bytes, as over HTTP
_JSON = Annotated[bool, typer.Option("--json", help="Print the answer as JSON and nothing else, as over HTTP.")]


def _option(name: str) -> str:
    return "--why-not" if name == "why" else f"--{name.replace('_', '-')}"


def _choices(annotation: Any) -> tuple[str, ...]:
    """The words that a field allows, or none if it is free."""
    return tuple(map(str, get_args(annotation))) if get_origin(annotation) is Literal else ()


def _parameter(name: str) -> inspect.Parameter:
    """The option of a field, as text and as often as given: ``Constraints`` reads it, not the parser."""
    field = FIELDS[name]
    choices = _choices(field.annotation)
    metavar = (
        "|".join(choices) if choices else "NUMBER" if field.annotation in (int, int | None, float | None) else "TEXT"
    )
    help_text = field.description or ""
    if name == "model":
        help_text += "; or the path of a config.json"
    if field.default is not None:
        help_text += f" (default: {field.default})"
    names = dict.fromkeys((_option(name), f"--{name.replace('_', '-')}"))
    option = typer.Option(*names, help=escape(help_text), metavar=metavar, show_default=False)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[list[str] | None, option])


def _read(given: dict[str, list[str] | None]) -> Constraints:
    """``Constraints`` from option values; ends the command with the option's name and the repair if one is wrong."""
    values: dict[str, Any] = {}
    for name, texts in given.items():
        if texts and len(texts) > 1:
            stop(f"{_option(name)} is given {len(texts)} times; give it once")
        if texts and texts[0] != "":
            values[name] = texts[0]
    if "model" in values and _is_path(values["model"]):
        values["config"] = _config(Path(values.pop("model")))
    try:
        return Constraints.model_validate(values, strict=False)
    except ValidationError as error:
        stop("\n".join(_complaint(each) for each in error.errors()))


def _is_path(model: str) -> bool:
    return model.endswith(".json") or (("/" in model or "\\" in model) and Path(model).exists())


def _config(path: Path) -> dict[str, Any]:
    """A Hugging Face ``config.json``, or the one in a model's folder."""
    file = path / "config.json" if path.is_dir() else path
    try:
        if file.stat().st_size > _LARGEST_CONFIG:
            stop(f"--model {path}: larger than {_LARGEST_CONFIG:,} bytes, which no config.json is")
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        stop(f"--model {path}: {error.strerror}; name a model of the catalogue or the path of a config.json")
    except (ValueError, RecursionError) as error:
        stop(f"--model {path}: not JSON ({error})")
    if not isinstance(content, dict):
        stop(f"--model {path}: expected a JSON object, as in a Hugging Face config.json")
    return content


def _spoken(text: str) -> str:
    """``gpu_mem=24GB``, as a query string says it, in the words of the command line."""
    return re.sub(r"\b([a-z_]+)=(?=\S)", lambda each: f"{_option(each[1])} " if each[1] in FIELDS else each[0], text)


def _refused(error: ConstraintError) -> NoReturn:
    stop(f"{_option(error.field)}: {_spoken(str(error))}" if error.field in FIELDS else _spoken(str(error)))


def _complaint(error: Any) -> str:
    """One error of pydantic in the words of the command line."""
    message = _spoken(str(error["msg"]).removeprefix("Value error, "))
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    choices = _choices(FIELDS[name].annotation) if name in FIELDS else ()
    if choices:
        return (
            f"{_option(name)} {error['input']!r} is not one of {', '.join(choices)}{near(str(error['input']), choices)}"
        )
    said = f"{error['input']!r} should"
    return f"{_option(name)}: {message.replace('Input should', said)}"


def _signature(*first: inspect.Parameter) -> inspect.Signature:
    as_json = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_JSON)
    return inspect.Signature([*first, *(_parameter(name) for name in FIELDS), as_json])


def recommend(*, as_json: bool, code: str | None, of: str | None, **given: list[str] | None) -> None:
    """Rank the methods that fit your card, model and task, with reasons.

    With --code, print a recipe of the leader (or of the method that --for names) and nothing else, to be kept in a file.
    """
    constraints = _read(given)
    if of is not None and code is None:
        stop("--for says whose recipe --code prints; give --code too")
    if code is not None and code not in _RECIPES:
        stop(f"--code {code!r} is not one of {', '.join(_RECIPES)}{near(code, _RECIPES)}")
    try:
        answer = recommended(constraints if code is None else constraints.model_copy(update={"limit": 500}))
    except ConstraintError as error:
        _refused(error)
    if code is not None:
        sys.stdout.write(_recipe(answer, code, of))
    elif as_json:
        sys.stdout.write(answer.model_dump_json(indent=2) + "\n")
    else:
        _show_answer(console(), answer)


_RECIPES = tuple(Code.model_fields)


def _recipe(answer: Answer, code: str, of: str | None) -> str:
    """The recipe of a ranked method; ends the command if there is none."""
    known = {each.slug: each for each in answer.ranked}
    if of is not None and of not in known:
        left_out = next((each.reason for each in answer.excluded if each.slug == of), None)
        stop(f"--for {of}: {'left out, ' + left_out if left_out else 'there is no such method' + near(of, known)}")
    if not known:
        stop(answer.summary, code=1)
    found = answer.ranked[0] if of is None else known[of]
    text: str | None = getattr(found.code, code)
    if text is None:
        there = [name for name in _RECIPES if getattr(found.code, name) is not None]
        stop(f"there is no {code} of {found.name} with this plan; there is {', '.join(there) or 'nothing'}", code=1)
    return text.rstrip("\n") + "\n"


def estimate(slug: str, *, as_json: bool, exact: bool, plot: Path | None, **given: list[str] | None) -> None:
    """Predict memory and time of one method.

    With a card, the exit status says whether it fits: 0 if it fits or is tight (the prediction fits, the upper end of its
    range may not), 1 if it is too large; 2 for bad input. Without a card it is 0.
    """
    constraints = _read(given)
    if plot is not None and not exact:
        stop("--plot draws what a dry run saw; give --exact too")
    try:
        known = build().method(slug).slug
    except UnknownMethod as error:
        stop(str(error))
    try:
        answer = _exact(known, constraints, plot) if exact else estimated(known, constraints)
    except ConstraintError as error:
        _refused(error)
    if as_json:
        sys.stdout.write(answer.model_dump_json(indent=2) + "\n")
    else:
        _show_estimate(console(), answer)
        if plot is not None:
            console().print(f"[dim]The course of the step is drawn in {escape(str(plot))}.[/]", soft_wrap=True)
    if answer.fits == "too_large":
        raise typer.Exit(1)


def _exact(slug: str, constraints: Constraints, plot: Path | None) -> Estimate:
    """The dry run; torch is imported only here."""
    try:
        with resting():
            from cli import exact
    except ModuleNotFoundError as error:
        stop(f"--exact needs {error.name}; install peft-atlas[torch], or [peft] for --implementation peft")
    with set_aside():
        done = exact.exact(slug, constraints)
    if plot is not None:
        from cli import course

        said = f"One training step of {done.answer.name} on {done.answer.model.name}"
        name = done.answer.model.id or done.answer.model.name
        course.draw(course.sampled(done.report, name, "peft-atlas estimate --exact --plot"), said, plot)
    return done.answer


_SLUG = inspect.Parameter(
    "slug",
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    annotation=Annotated[str, typer.Argument(help="The method, as in `peft-atlas list`.")],
)
_EXACT = inspect.Parameter(
    "exact",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option("--exact", help="Run two training steps on tensors without values; needs torch, takes seconds."),
    ],
)
_PLOT = inspect.Parameter(
    "plot",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option("--plot", help="With --exact: draw live memory over one step into this SVG file."),
    ],
)
_CODE = inspect.Parameter(
    "code",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Option("--code", metavar="|".join(_RECIPES), help="Print only this recipe, ready to be kept in a file."),
    ],
)
_FOR = inspect.Parameter(
    "of",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None, typer.Option("--for", metavar="METHOD", help="With --code: of this method instead of the leader.")
    ],
)
recommend.__signature__ = _signature(_CODE, _FOR)  # type: ignore[attr-defined]  # the options follow the model's fields
estimate.__signature__ = _signature(_SLUG, _EXACT, _PLOT)  # type: ignore[attr-defined]  # as above


def _plan(plan: Plan) -> str:
    code = {"ours": "our implementation", "peft": "PEFT's implementation"}[plan.implementation]
    parts = [
        code,
        *([layers] if (layers := said(plan.targets)) else []),
        plan.storage,
        f"micro-batch {plan.micro_batch}",
    ]
    if plan.accumulation > 1:
        parts.append(f"{plan.accumulation} of them per step")
    if plan.checkpointing:
        parts.append("checkpointing")
    if plan.sharding == "full":
        parts.append(f"sharded over {plan.gpus}")
    return ", ".join(parts)


def _in_short(plan: Plan) -> str:
    """The plan for a column of a table; ``_SHORT`` is its key."""
    code = {"ours": "ours", "peft": "PEFT"}[plan.implementation]
    marks = ("a" if plan.targets == EVERYWHERE else "") + ("c" if plan.checkpointing else "")
    marks += "s" if plan.sharding == "full" else ""
    return f"{code} {plan.storage} {plan.micro_batch}×{plan.accumulation} {marks}".rstrip()


_SHORT = (
    "Plan: whose code, storage of the frozen weights, micro-batch × micro-batches per step; "
    "a all linear layers, c checkpointing, s sharded."
)


def _show_answer(out: Console, answer: Answer) -> None:
    out.print(f"[bold]{escape(answer.model.name)}[/] on {escape(answer.card.name)}. {escape(answer.summary)}")
    if answer.ranked:
        table = Table(show_edge=False, pad_edge=False)
        numbers = ("#", "on card", "time", "trained", "score")
        for heading in ("#", "method", "verdict", "on card", "time", "trained", "score", "plan"):
            table.add_column(heading, justify="right" if heading in numbers else "left")
        for each in answer.ranked:
            trained = "unknown" if each.counts.trainable is None else show_count(each.counts.trainable)
            star = " *" if each.slug in answer.pareto else ""
            table.add_row(
                str(each.rank),
                escape(each.name) + star,
                f"[green]{each.verdict}[/]" if each.verdict == "fits" else f"[yellow]{each.verdict}[/]",
                show_bytes(each.memory.device_bytes),
                f"{each.step_time_relative:.2f}×",
                trained,
                f"{each.score:.3f}",
                _in_short(each.plan),
            )
        out.print(table)
        out.print(
            f"[dim]* no other method beats it in everything. Time per token against LoRA. {answer.total_ranked} fit. {_SHORT}[/]"
        )
        first = answer.ranked[0]
        out.print(f"\n[bold]Why {escape(first.name)}[/]")
        for reason in first.reasons:
            mark = {"for": "+", "against": "−", "note": "·"}[reason.kind]
            points = "" if reason.criterion is None else f"{_points(reason.weight)} for {reason.criterion}; "
            out.print(
                f" {mark} {escape(reason.text)} [dim]({points}{escape(reason.source.title)}, {escape(reason.source.where)})[/]"
            )
        if first.changes:
            out.print(f"\n[bold]{escape(first.name)} with one thing changed[/]")
            for change in first.changes:
                out.print(f"[cyan]→[/] {escape(_spoken(change.text))}")
        if first.code.run:
            out.print(f"\n  {escape(first.code.run)}", soft_wrap=True)
    if answer.why is not None:
        _show_why(out, answer.why)
    if answer.effects:
        out.print("\n[bold]What your constraints do to the ranking[/]")
        for effect in answer.effects:
            out.print(f" · {escape(_spoken(effect.text))} [dim]({escape(effect.source.where)})[/]")
    if answer.excluded:
        out.print(f"\n[bold]Not offered[/] ({len(answer.excluded)})")
        for left_out in answer.excluded:
            out.print(f" · {escape(left_out.name)}: {escape(left_out.reason)}")
    for change in answer.advice:
        out.print(f"[cyan]→[/] {escape(_spoken(change.text))}")
    for warning in answer.warnings:
        out.print(f"[yellow]![/] {escape(_spoken(warning))}")


def _points(weight: float) -> str:
    """Points of 100 by which a criterion moves the score from that of the average method that fits."""
    return f"{100 * weight:+.1f} points".replace("-", "−")


def _show_why(out: Console, why: WhyNot) -> None:
    """Why one method is not the answer."""
    out.print(f"\n[bold]Why not {escape(why.name)}?[/] {escape(why.text)}")
    for sign, differences in (("−", why.losses), ("+", why.gains)):
        for each in differences:
            out.print(
                f" {sign} {abs(100 * each.points):.1f} {escape(each.text)} [dim]({escape(each.source.title)}, {escape(each.source.where)})[/]"
            )
    for change in why.admits:
        out.print(f"[cyan]→[/] {escape(_spoken(change.text))}")


def _show_estimate(out: Console, answer: Estimate) -> None:
    peak = answer.peak
    place = f" on {escape(answer.card.name)}" if answer.card else ""
    verdict = ""
    if answer.fits is not None:
        colour = {"fits": "green", "tight": "yellow", "too_large": "red"}[answer.fits]
        verdict = f": [{colour}]{answer.fits.replace('_', ' ')}[/]"
    out.print(f"[bold]{escape(answer.name)}[/] for {escape(answer.model.name)}{place}{verdict}")
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("at the peak")
    table.add_column("memory", justify="right")
    table.add_column("90 % range", style="dim")
    for name, size in peak.parts.model_dump().items():
        table.add_row(name, show_bytes(size), "")
    for name in ("allocated", "reserved", "device"):
        low, middle, high = (getattr(each, f"{name}_bytes") for each in (peak.low, peak, peak.high))
        table.add_row(f"[bold]{name}[/]", show_bytes(middle), f"{show_bytes(low)} to {show_bytes(high)}")
    out.print(table)
    out.print(
        f"Plan: {_plan(answer.plan)}, {answer.plan.seq} tokens. The peak is {escape(peak.moment)}. Basis: {_words(peak.basis)}."
    )
    if answer.missing_bytes:
        out.print(f"[red]{show_bytes(answer.missing_bytes)} are missing.[/]")
    out.print(_work(answer))
    for line in answer.formula:
        out.print(f"[dim]  {escape(line)}[/]", soft_wrap=True)
    for change in answer.changes:
        out.print(f"[cyan]→[/] {escape(_spoken(change.text))}")
    for warning in answer.warnings:
        out.print(f"[yellow]![/] {escape(_spoken(warning))}")


def _work(answer: Estimate) -> str:
    """Time and work of a step in a line."""
    parts = [f"Time per token: {answer.step_time_relative:.2f} times LoRA's"]
    if answer.step_seconds is not None and answer.tokens_per_second is not None:
        parts.append(f"{answer.step_seconds:.3g} s per step, {answer.tokens_per_second:,.0f} tokens/s")
    if answer.run_seconds is not None:
        parts.append(f"{answer.run_seconds / 3600:.3g} h for the whole run")
    if answer.bytes_moved is not None and answer.kernels is not None:
        moved = show_bytes(answer.bytes_moved)
        parts.append(f"a micro-batch: {answer.flops / 1e12:.3g} TFLOP, {moved} moved, {answer.kernels:,.0f} kernels")
    return "; ".join(parts) + "."


def _words(name: str) -> str:
    return name.replace("_", " ")

"""``peft-atlas recommend`` and ``estimate``: their options are the fields of ``Constraints``, and nothing else."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import typer
from pydantic import ValidationError
from rich.markup import escape

from cli.printed import FIELDS, option, show_answer, show_estimate, spoken
from cli.terminal import console, near, stop
from kb.collector import resting
from recommender import Answer, ConstraintError, Constraints, Estimate
from recommender import estimate as estimated
from recommender import recommend as recommended
from recommender.answer import Code
from taxonomy import UnknownMethod, build

_LARGEST_CONFIG = 64_000  # bytes, as over HTTP
_JSON = Annotated[bool, typer.Option("--json", help="Print the answer as JSON and nothing else, as over HTTP.")]


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
    names = dict.fromkeys((option(name), f"--{name.replace('_', '-')}"))
    read = typer.Option(*names, help=escape(help_text), metavar=metavar, show_default=False)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[list[str] | None, read])


def _read(given: dict[str, list[str] | None]) -> Constraints:
    """``Constraints`` from option values; ends the command with the option's name and the repair if one is wrong."""
    values: dict[str, Any] = {}
    for name, texts in given.items():
        if texts and len(texts) > 1:
            stop(f"{option(name)} is given {len(texts)} times; give it once")
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


def _refused(error: ConstraintError) -> NoReturn:
    stop(f"{option(error.field)}: {spoken(str(error))}" if error.field in FIELDS else spoken(str(error)))


def _complaint(error: Any) -> str:
    """One error of pydantic in the words of the command line."""
    message = spoken(str(error["msg"]).removeprefix("Value error, "))
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    choices = _choices(FIELDS[name].annotation) if name in FIELDS else ()
    if choices:
        return (
            f"{option(name)} {error['input']!r} is not one of {', '.join(choices)}{near(str(error['input']), choices)}"
        )
    said = f"{error['input']!r} should"
    return f"{option(name)}: {message.replace('Input should', said)}"


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
        answer = recommended(
            constraints if code is None else constraints.model_copy(update={"limit": 500, "detail": "full"})
        )
    except ConstraintError as error:
        _refused(error)
    if code is not None:
        sys.stdout.write(_recipe(answer, code, of))
    elif as_json:
        sys.stdout.write(answer.model_dump_json(indent=2) + "\n")
    else:
        show_answer(console(), answer)


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
        answer = _exact(slug, constraints, plot) if exact else estimated(_known(slug), constraints)
    except ConstraintError as error:
        _refused(error)
    if as_json:
        sys.stdout.write(answer.model_dump_json(indent=2) + "\n")
    else:
        show_estimate(console(), answer)
        if plot is not None:
            console().print(f"[dim]The course of the step is drawn in {escape(str(plot))}.[/]", soft_wrap=True)
    if answer.fits == "too_large":
        raise typer.Exit(1)


def _known(slug: str) -> str:
    """The method's name of today; ends the command if there is none."""
    try:
        return build().method(slug).slug
    except UnknownMethod as error:
        stop(str(error))


def _exact(slug: str, constraints: Constraints, plot: Path | None) -> Estimate:
    """The dry run; torch is imported only for it, in a copy of this process while this one reads the records."""
    from cli import exact
    from profiler.fork import ahead

    with resting(), ahead("profiler.dry_run", "profiler.profiles") as call:  # hardly anything read is ever freed
        try:
            done = exact.exact(_known(slug), constraints, call)
        except ModuleNotFoundError as error:
            stop(f"--exact needs {error.name}; install peft-atlas[torch], or [peft] for --implementation peft")
    if plot is not None:
        from cli import course

        said = f"One training step of {done.answer.name} on {done.answer.model.name}"
        name = done.answer.model.id or done.answer.model.name
        course.draw(course.sampled(done.report, name, "peft-atlas estimate --exact --plot"), said, plot)
    return done.answer


def _option(
    name: str, kind: Any, default: object = None, *, flag: str | None = None, **shown: Any
) -> inspect.Parameter:
    """A parameter that is given as ``--name``, or as ``--flag``; ``shown`` is what its help says."""
    kind = Annotated[kind, typer.Option(f"--{flag or name}", **shown)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


_SLUG = inspect.Parameter(
    "slug",
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    annotation=Annotated[str, typer.Argument(help="The method, as in `peft-atlas list`.")],
)
_EXACT = _option(
    "exact", bool, False, help="Run two training steps on tensors without values; needs torch, takes seconds."
)
_PLOT = _option("plot", Path | None, help="With --exact: draw live memory over one step into this SVG file.")
_CODE = _option(
    "code", str | None, metavar="|".join(_RECIPES), help="Print only this recipe, ready to be kept in a file."
)
_FOR = _option(
    "of", str | None, flag="for", metavar="METHOD", help="With --code: of this method instead of the leader."
)
recommend.__signature__ = _signature(_CODE, _FOR)  # type: ignore[attr-defined]  # the options follow the model's fields
estimate.__signature__ = _signature(_SLUG, _EXACT, _PLOT)  # type: ignore[attr-defined]  # as above

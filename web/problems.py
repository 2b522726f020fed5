"""Errors as data: problem details after RFC 9457, and how errors of the other rooms become such."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from rapidfuzz import fuzz, process

from kb.catalogue import load_gpus
from recommender import ConstraintError
from recommender.variant import missing, models_like

TITLES = {
    400: "The request cannot be read",
    404: "There is nothing here",
    405: "This address does not take that method",
    413: "The body is too large",
    414: "The address is too long",
    415: "The body is not JSON",
    422: "A parameter is not right",
    500: "Something went wrong here",
    503: "The service is not ready",
}
"""What each status means, in words; the page of the API explains them under the same names."""


class FieldError(BaseModel):
    """What is wrong with one parameter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameter: str = Field(description="name of the parameter, as it was given")
    message: str = Field(description="what is wrong and what was expected")
    near: tuple[str, ...] = Field(description="right names or values that resemble what was given")


class Problem(BaseModel):
    """An error after RFC 9457."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str = Field(description="address of the explanation")
    title: str = Field(description="kind of the error")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="what happened in this case")
    errors: tuple[FieldError, ...] = Field(description="one entry per wrong parameter; empty where none is to blame")


class ProblemError(Exception):
    """Raised to answer with a problem."""

    def __init__(self, status: int, detail: str, errors: Iterable[FieldError] = ()) -> None:
        super().__init__(detail)
        self.problem = Problem(
            type=f"/api#status-{status}",
            title=TITLES.get(status, "The request failed"),
            status=status,
            detail=detail,
            errors=tuple(errors),
        )


class MovedError(Exception):
    """Raised when a path names a thing by a former name; ``parameters`` are the path's right values."""

    def __init__(self, **parameters: str) -> None:
        super().__init__(str(parameters))
        self.parameters = parameters


def near_names(word: str, known: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """Up to ``limit`` known names that resemble ``word``, nearest first."""
    names, given = list(known), word[:80]
    found = process.extract(given, names, scorer=fuzz.ratio, limit=limit, score_cutoff=65)
    found = found or process.extract(given, names, scorer=fuzz.WRatio, limit=limit, score_cutoff=60)
    return tuple(name for name, _, _ in found)


def no_such(parameter: str, what: str, value: str, known: Iterable[str]) -> FieldError:
    """The complaint that nothing of this name exists, with the nearest names that do."""
    near = near_names(value, list(known))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return FieldError(parameter=parameter, message=f"there is no {what} {value!r}{hint}", near=near)


def invalid(errors: Iterable[FieldError]) -> ProblemError:
    """The problem of wrong parameters."""
    listed = tuple(errors)
    return ProblemError(422, "; ".join(f"{error.parameter}: {error.message}" for error in listed), listed)


def unknown_parameter(name: str, known: Iterable[str]) -> FieldError:
    """The complaint about a parameter that the address does not take."""
    near = near_names(name, known)
    hint = f"; did you mean {near[0]}?" if near else ""
    return FieldError(parameter=short(name), message=f"there is no parameter {short(name)!r}{hint}", near=near)


def short(text: object) -> str:
    """A given value for a message, cut to what a reader needs."""
    shown = str(text)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def from_validation(error: ValidationError, known: Iterable[str], missing: str = "params") -> list[FieldError]:
    """The complaints of pydantic in our words; one that concerns no single field goes to ``missing``."""
    names = list(known)
    return [_said(details, names, missing) for details in error.errors(include_url=False)]


def _said(details: ErrorDetails, known: list[str], missing: str) -> FieldError:
    name = str(details["loc"][0]) if details["loc"] else missing
    if details["type"] == "extra_forbidden":
        return unknown_parameter(name, known)
    context: Mapping[str, Any] = details.get("ctx", {})
    given = short(details["input"])
    if details["type"] == "literal_error":
        allowed = _literals(str(context["expected"]))
        near = near_names(given, allowed)
        return FieldError(parameter=name, message=f"{given!r} is none of {', '.join(allowed)}", near=near)
    messages = {
        "missing": "has to be given",
        "int_parsing": f"{given!r} is not a whole number",
        "int_type": f"{given!r} is not a whole number",
        "int_from_float": f"{given!r} is not a whole number",
        "int_parsing_size": f"{given!r} is too large a number",
        "float_parsing": f"{given!r} is not a number",
        "float_type": f"{given!r} is not a number",
        "finite_number": f"{given} is not a finite number",
        "greater_than": f"{given} is too small; it is more than {context.get('gt')}",
        "greater_than_equal": f"{given} is too small; it is at least {context.get('ge')}",
        "less_than_equal": f"{given} is too large; it is at most {context.get('le')}",
        "string_type": f"{given} is not a text; put it in quotation marks",
        "string_too_long": f"is longer than {context.get('max_length')} characters",
        "string_pattern_mismatch": f"{given!r} is not written as expected",
        "too_short": f"needs at least {context.get('min_length')} values",
        "too_long": f"takes at most {context.get('max_length')} values",
        "dict_type": "is not a JSON object",
        "value_error": str(context.get("error", details["msg"])),
    }
    return FieldError(parameter=name, message=messages.get(details["type"], details["msg"]), near=())


def _literals(expected: str) -> list[str]:
    """The words in pydantic's "'any', 'none' or '4bit'"."""
    return expected.replace(" or ", ", ").replace("'", "").split(", ")


def no_model(name: str) -> ProblemError:
    """The problem of a name that means no model of the catalogue."""
    return invalid([FieldError(parameter="model", message=missing(name), near=models_like(name))])


def from_constraint(error: ConstraintError, given: Mapping[str, Any]) -> ProblemError:
    """The problem of a constraint that names what does not exist, or lacks something."""
    likes: Mapping[str, Callable[[str], tuple[str, ...]]] = {
        "model": models_like,
        "gpu": lambda word: near_names(word, load_gpus()),
    }
    word = given.get(error.field)
    near = likes[error.field](word) if error.field in likes and isinstance(word, str) else ()
    return invalid([FieldError(parameter=error.field, message=str(error), near=near)])

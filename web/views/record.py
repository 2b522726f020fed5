"""The record that an address names."""

from __future__ import annotations

from kb.schema import Method
from taxonomy import UnknownMethod, build
from web.problems import FieldError, MovedError, ProblemError


def record(slug: str) -> Method:
    """The record of a slug; ``MovedError`` for a former name, ``ProblemError`` (404) with near names for no name."""
    try:
        method = build().method(slug)
    except UnknownMethod as error:
        complaint = FieldError(parameter="slug", message=str(error), near=error.near)
        raise ProblemError(404, str(error), [complaint]) from None
    if method.slug != slug:
        raise MovedError(slug=method.slug)
    return method

"""The API as its page documents it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from web.problems import TITLES
from web.views.base import Stamped, View, stamp


class Parameter(View):
    """A parameter of an operation."""

    name: str
    place: str = Field(description="path or query")
    required: bool
    kind: str = Field(description="what it takes")
    default: str | None
    description: str


class Operation(View):
    """One method of one address."""

    id: str
    verb: str
    path: str
    summary: str
    parameters: tuple[Parameter, ...]
    body: str | None = Field(description="media type of the body, or null")
    answers: tuple[tuple[str, str], ...] = Field(description="statuses with their meaning")
    example: str | None = Field(description="an address that can be tried, or null")


class Status(View):
    """An error status with its meaning."""

    status: int
    title: str


class ApiPage(Stamped):
    """The documentation of the API."""

    operations: tuple[Operation, ...]
    statuses: tuple[Status, ...]


_EXAMPLES = {
    "/api/v1/recommend": "/api/v1/recommend?gpu_mem=24GB&params=7B",
    "/api/v1/estimate": "/api/v1/estimate?method=lora&params=7B&gpu_mem=24GB",
    "/api/v1/compare": "/api/v1/compare?m=lora&m=dora",
    "/api/v1/compare/bibtex": "/api/v1/compare/bibtex?m=lora&m=dora",
    "/api/v1/search": "/api/v1/search?q=weight-decomposed",
    "/api/v1/methods": "/api/v1/methods?class=additive",
}


def api_page(description: dict[str, Any]) -> ApiPage:
    """The documentation of a description after OpenAPI."""
    operations = [
        _operation(verb.upper(), path, written)
        for path, verbs in description["paths"].items()
        for verb, written in verbs.items()
    ]
    order = {"recommend": 0, "estimate": 1, "methods": 2, "compare": 3}
    operations.sort(key=lambda each: (order.get(each.path.removeprefix("/api/v1/").partition("/")[0], 9), each.path))
    return ApiPage(
        **stamp(),
        links={"html": "/api", "openapi": "/openapi.json"},
        operations=tuple(operations),
        statuses=tuple(Status(status=status, title=title) for status, title in TITLES.items()),
    )


def _operation(verb: str, path: str, written: dict[str, Any]) -> Operation:
    bodies = written.get("requestBody", {}).get("content", {})
    example = (
        _EXAMPLES.get(path, path.replace("{slug}", "lora").replace("{study}", "llm_adapters_2023"))
        if verb == "GET"
        else None
    )
    return Operation(
        id=written["operationId"],
        verb=verb,
        path=path,
        summary=written["summary"],
        parameters=tuple(_parameter(each) for each in written.get("parameters", ())),
        body=next(iter(bodies), None),
        answers=tuple((status, str(each["description"])) for status, each in written["responses"].items()),
        example=example,
    )


def _parameter(written: dict[str, Any]) -> Parameter:
    schema = written["schema"]
    default = schema.get("default")
    return Parameter(
        name=written["name"],
        place=written["in"],
        required=written["required"],
        kind=_kind(schema),
        default=None if default is None else str(default),
        description=written["description"],
    )


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(dict.fromkeys(str(each).lower() for each in schema["enum"]))
    if schema.get("type") == "array":
        return f"{schema['items'].get('type', 'text')}, may be repeated"
    ends = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([{"string": "text", "integer": "whole number"}.get(schema.get("type", ""), "value"), *ends])

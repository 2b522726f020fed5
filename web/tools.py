"""The same objects as tools of a language model, over the Model Context Protocol (``peft-atlas mcp``)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

from kb.bibliography import entry
from kb.schema import Method
from recommender import Answer, Constraints, Estimate
from web.pages.ask import EstimateConstraints
from web.problems import MovedError, ProblemError, unknown_parameter
from web.views.base import Envelope, Stamped, View, stamp
from web.views.compare import ComparePage, CompareQuery, compare_page
from web.views.methods import MethodsQuery, methods_page
from web.views.recommend import answer_body, estimate_body
from web.views.record import record

INSTRUCTIONS = (
    "PEFT Atlas knows parameter-efficient fine-tuning methods: which one fits a card, a model and a task, how much memory "
    "it takes, how good it is by independent evidence, and code that runs it. Sizes are written with their unit: 24GB is "
    "24·10⁹ bytes, 24GiB is 24·2³⁰, 7B is seven billion parameters. Every figure in an answer carries its source or says "
    "how it was computed; null means not known. Start with recommend; pass slugs from its answer to the other tools."
)
FEW = 3
"""Ranked methods of a recommendation unless more are asked for: a conversation has less room than a page."""
_BODY_ONLY = frozenset({"config"})


class MethodRecord(Stamped):
    """One method's record with its citation."""

    record: Method = Field(description="every fact with its source; null is not known")
    bibtex: str | None = Field(description="entry of its paper, or null if it has none")


class Listed(View):
    """A method in a list."""

    slug: str = Field(description="what the other tools take")
    name: str
    year: int
    classes: tuple[str, ...] = Field(description="leaf classes of the taxonomy")
    summary: str


class MethodList(Envelope):
    """Methods that match."""

    items: tuple[Listed, ...]


class _StrictServer(MCPServer):
    """A server that refuses arguments which no tool knows, so that a typing error never changes an answer silently."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        schemas = {tool.name: tool.input_schema for tool in await self.list_tools()}
        known: dict[str, Any] = schemas.get(name, {}).get("properties", {})
        for given in arguments if name in schemas else ():
            if given not in known:
                raise ToolError(unknown_parameter(given, known).message)
        return await super().call_tool(name, arguments, context)


def server(version: str) -> MCPServer:
    """The server with its tools, ready to run."""
    made = _StrictServer("peft-atlas", title="PEFT Atlas", instructions=INSTRUCTIONS, version=version)
    made.add_tool(
        _with_fields(_told(_recommend), Constraints, Answer, {"limit": FEW, "detail": "brief"}),
        "recommend",
        description="Which fine-tuning methods fit a card, a model and a task, ranked, with memory, reasons and code",
    )
    made.add_tool(
        _with_fields(_told(_estimate), EstimateConstraints, Estimate, {}),
        "estimate",
        description="Predicted memory and time of one method, and what would make it fit",
    )
    made.add_tool(
        _with_fields(_told(_methods), MethodsQuery, MethodList, {}),
        "methods",
        description="Methods by words and filters; typing errors are forgiven",
    )
    made.add_tool(_told(_method), "method", description="Everything about one method: its record and its citation")
    made.add_tool(_told(_compare), "compare", description="Two to six methods side by side")
    return made


def _recommend(**given: Any) -> Answer:
    return answer_body(_said(given))


def _estimate(**given: Any) -> Estimate:
    return estimate_body(_said(given))


def _methods(**given: Any) -> MethodList:
    page = methods_page(MethodsQuery.model_validate(_said(given)))
    items = tuple(
        Listed(
            slug=each.slug,
            name=each.name,
            year=each.year,
            classes=tuple(tag.id for tag in each.classes),
            summary=each.summary,
        )
        for each in page.items
    )
    return MethodList(**stamp(), links=page.links, total=page.total, items=items)


def _method(
    slug: Annotated[str, Field(description="slug of the method, or another name of it", max_length=80)],
) -> MethodRecord:
    found = record(slug)
    return MethodRecord(
        **stamp(), links={"html": f"/methods/{found.slug}"}, record=found, bibtex=entry(found) if found.paper else None
    )


def _compare(
    methods: Annotated[list[str], Field(description="two to six slugs")],
    only: Annotated[Literal["all", "differences"], Field(description="differences: leave out what all share")] = "all",
) -> ComparePage:
    return compare_page(CompareQuery(m=tuple(methods), only=only))


def _said(given: dict[str, Any]) -> dict[str, Any]:
    """What was given, without what was left out."""
    return {name: value for name, value in given.items() if value is not None}


def _told(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, with every mistake said as an error of the tool that names what was expected."""

    def told(*values: Any, **given: Any) -> Any:
        try:
            return call(*values, **given)
        except MovedError as moved:
            raise ToolError(f"it is called {moved.parameters['slug']!r} now") from None
        except ProblemError as error:
            lines = [f"{each.parameter}: {each.message}" for each in error.problem.errors]
            raise ToolError("; ".join(lines) or error.problem.detail) from None

    told.__name__, told.__signature__ = call.__name__.lstrip("_"), inspect.signature(call, eval_str=True)  # type: ignore[attr-defined]
    return told


def _with_fields(
    call: Callable[..., Any], model: type[BaseModel], answer: type[BaseModel], defaults: dict[str, Any]
) -> Callable[..., Any]:
    """``call`` with the fields of ``model`` as its parameters: each knob is written down once."""
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(name, inspect.Parameter.empty if field.is_required() else field.default),
            annotation=Annotated[field.annotation, Field(description=field.description, alias=field.alias)],
        )
        for name, field in model.model_fields.items()
        if name not in _BODY_ONLY
    ]
    call.__signature__ = inspect.Signature(parameters, return_annotation=answer)  # type: ignore[attr-defined]
    return call

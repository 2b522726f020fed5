"""The application: routes, errors, and what has to be loaded before the first request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from kb.collector import resting, seldom
from recommender.service import default_catalogue
from web.access_log import AccessLog, wanted
from web.api import v1
from web.assets import assets
from web.http import Shell, problem_reply, reply, secured
from web.negotiation import HTML, prefers_html
from web.openapi import description
from web.pages.benchmarks import router as benchmarks_data
from web.pages.every import EVERY_PAGE
from web.pages.evidence import router as evidence_data
from web.pages.outside import router as outside
from web.places import meant
from web.problems import ProblemError
from web.render import render
from web.views.form import MAIN, MORE, form
from web.views.map import placed
from web.views.methods import items

FOR_EVER = "public, max-age=31536000, immutable"


def create_app() -> FastAPI:
    """The site and its API."""
    app = FastAPI(
        title="PEFT Atlas",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
    )
    router = APIRouter()
    for page in EVERY_PAGE:
        page.register(router)
    router.add_api_route("/static/{name}", _static, include_in_schema=False, response_model=None)
    app.include_router(router)
    app.include_router(benchmarks_data)
    app.include_router(evidence_data)
    app.include_router(outside)
    app.include_router(v1.router)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_crash)
    app.add_middleware(Shell)
    if wanted():
        app.add_middleware(AccessLog)
    app.openapi = lambda: description(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load what every request needs, and spare the collector from walking through it again and again."""
    load()
    with seldom():
        yield


def load() -> None:
    """Read the knowledge base and prepare lists, forms and the map, none of which the collector has to look through."""
    with resting():
        default_catalogue()
        items()
        form("/recommend", MAIN, MORE, {})
        placed("survey")


async def _static(request: Request) -> Response:
    """A static file; its name changes with its content."""
    found = {asset.name: asset for asset in assets().values()}.get(request.path_params["name"])
    if found is None:
        raise ProblemError(404, "there is no such file")
    return reply(request, found.body, found.media_type, etag=found.etag, cache=FOR_EVER)


async def _on_problem(request: Request, error: Exception) -> Response:
    """A problem as a page for browsers, as data for everyone else."""
    if not isinstance(error, ProblemError):
        raise error
    path = request.scope["path"]
    data_only = path.startswith("/api/") or path.endswith(".json")
    if data_only or not prefers_html(request.headers.get("accept")):
        return problem_reply(error.problem, {} if data_only else {"Vary": "Accept"})
    near = meant(path, error.problem) if error.problem.status == HTTPStatus.NOT_FOUND else ()
    body = render("problem.html", problem=error.problem, near=near, twin=None, path=path)
    return Response(body, error.problem.status, {"Vary": "Accept", "Cache-Control": "no-store"}, HTML)


async def _on_http(request: Request, error: Exception) -> Response:
    """What the framework refuses: unknown addresses and methods."""
    if not isinstance(error, HTTPException):
        raise error
    status = HTTPStatus(error.status_code)
    detail = {
        404: f"there is no address {request.scope['path'][:80]!r}",
        405: f"this address does not take {request.method}",
    }.get(error.status_code, status.phrase)
    response = await _on_problem(request, ProblemError(error.status_code, detail))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def _on_crash(request: Request, error: Exception) -> Response:
    """An error of ours: the log has it, the client learns only that it happened."""
    return secured(await _on_problem(request, ProblemError(500, "the error was logged; it is ours, not yours")))

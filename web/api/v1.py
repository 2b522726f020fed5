"""JSON bodies, exports, BibTeX, classes, and whether the service is well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from kb.bibliography import entry
from kb.catalogue import load_gpus, load_models
from recommender import Answer, Constraints, Estimate
from recommender.service import default_catalogue
from taxonomy import build
from taxonomy.exports import FORMATS
from web.http import reply, tag
from web.negotiation import JSON
from web.openapi import described, description, problems_of
from web.pages.ask import EstimateConstraints
from web.problems import MovedError, ProblemError
from web.query import Nothing, read, read_body
from web.views.base import View, stamp
from web.views.recommend import answer_body, estimate_body
from web.views.record import record
from web.views.taxonomy import ClassList, class_list

router = APIRouter()
Endpoint = Callable[[Request], Awaitable[Response]]


class Health(View):
    """Whether the service is well."""

    status: str = Field(description="ok")
    data_version: str = Field(description="state of the knowledge base")
    methods: int = Field(description="records")
    models: int = Field(description="models of the catalogue")
    gpus: int = Field(description="cards of the catalogue")


def _body(model: type[Any]) -> dict[str, Any]:
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}}


@router.post(
    "/api/v1/recommend",
    operation_id="post_recommend",
    summary="Which methods, for constraints as a JSON body, with a config.json if need be",
    response_model=None,
    responses={200: {"model": Answer, "description": "the answer"}, **problems_of("", 413, 415)},
    openapi_extra=_body(Constraints),
)
async def post_recommend(request: Request) -> Response:
    """Answer a recommendation; the body takes the same fields as the query."""
    read(request, Nothing)
    answer = answer_body(await read_body(request))
    return reply(request, answer.__pydantic_serializer__.to_json(answer), JSON, cache="no-store")


@router.post(
    "/api/v1/estimate",
    operation_id="post_estimate",
    summary="Memory and time of one method, for constraints as a JSON body",
    response_model=None,
    responses={200: {"model": Estimate, "description": "the answer"}, **problems_of("", 413, 415)},
    openapi_extra=_body(EstimateConstraints),
)
async def post_estimate(request: Request) -> Response:
    """Answer an estimate; the body takes the same fields as the query."""
    read(request, Nothing)
    answer = estimate_body(await read_body(request))
    return reply(request, answer.__pydantic_serializer__.to_json(answer), JSON, cache="no-store")


@router.get(
    "/api/v1/methods/{slug}/bibtex",
    operation_id="get_methods_by_slug_bibtex",
    summary="BibTeX of a method's paper",
    response_class=Response,
    response_model=None,
    responses={200: {"content": {"application/x-bibtex": {"schema": {"type": "string"}}}}, **problems_of("{slug}")},
    openapi_extra=described("{slug}", None),
)
async def bibtex(request: Request) -> Response:
    """The entry of a paper."""
    read(request, Nothing)
    try:
        method = record(request.path_params["slug"])
    except MovedError as moved:
        method = build().methods[moved.parameters["slug"]]
    if method.paper is None:
        raise ProblemError(404, f"{method.name} has no paper to cite")
    return reply(request, entry(method).encode(), "application/x-bibtex; charset=utf-8")


@router.get(
    "/api/v1/classes",
    operation_id="get_classes",
    summary="Classes of the taxonomy",
    response_model=None,
    responses={200: {"model": ClassList, "description": "the classes"}, **problems_of("")},
)
async def classes(request: Request) -> Response:
    """The classes with their methods."""
    read(request, Nothing)
    return reply(request, class_list().to_bytes(), JSON)


@lru_cache(maxsize=16)
def _export(name: str) -> tuple[bytes, str]:
    body = FORMATS[name].write(build()).encode()
    return body, tag(body)


def _exporting(name: str) -> Endpoint:
    async def export(request: Request) -> Response:
        read(request, Nothing)
        body, etag = _export(name)
        made = FORMATS[name]
        disposition = {"Content-Disposition": f'inline; filename="peft-atlas.{made.suffix}"'}
        media = made.media_type if made.media_type == JSON else f"{made.media_type}; charset=utf-8"
        return reply(request, body, media, etag=etag, headers=disposition)

    return export


for _name, _format in FORMATS.items():
    router.add_api_route(
        f"/api/v1/export.{_format.suffix}",
        _exporting(_name),
        operation_id=f"get_export_{_format.suffix}",
        summary=f"Everything as {_format.suffix}: {_format.description}",
        response_class=Response,
        response_model=None,
        responses={
            200: {"content": {_format.media_type: {"schema": {} if _name == "json" else {"type": "string"}}}},
            **problems_of(""),
        },
    )


async def healthz(request: Request) -> Response:
    """The process answers."""
    read(request, Nothing)
    return reply(request, b'{"status":"ok"}', JSON, cache="no-store")


async def readyz(request: Request) -> Response:
    """The knowledge base is loaded; 503 with the reason if it cannot be."""
    read(request, Nothing)
    try:
        methods, models, gpus = len(default_catalogue().known), len(load_models()), len(load_gpus())
    except (ValueError, OSError) as error:
        raise ProblemError(503, f"the knowledge base cannot be loaded: {error}") from None
    health = Health(status="ok", data_version=stamp()["data_version"], methods=methods, models=models, gpus=gpus)
    return reply(request, health.to_bytes(), JSON, cache="no-store")


async def openapi(request: Request) -> Response:
    """The description of the API."""
    read(request, Nothing)
    app = request.app
    if not isinstance(app, FastAPI):
        raise TypeError("the description needs the whole application")
    return reply(request, _dumped(app), JSON)


@lru_cache(maxsize=4)
def _dumped(app: FastAPI) -> bytes:
    from pydantic_core import to_json

    return to_json(description(app))


for _path in ("", "/api/v1"):
    router.add_api_route(
        f"{_path}/healthz",
        healthz,
        operation_id="get_healthz",
        summary="The process answers",
        response_model=None,
        responses=problems_of(""),
        include_in_schema=not _path,
    )
    router.add_api_route(
        f"{_path}/readyz",
        readyz,
        operation_id="get_readyz",
        summary="The knowledge base is loaded",
        response_model=None,
        responses={200: {"model": Health}, **problems_of("", 503)},
        include_in_schema=not _path,
    )
    router.add_api_route(f"{_path}/openapi.json", openapi, response_model=None, include_in_schema=False)

"""The page that holds the profiler against measurements, with its rows as a table to download."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from web.http import reply, tag
from web.openapi import problems_of
from web.page import Page
from web.query import Nothing, read
from web.views.base import View
from web.views.benchmarks import BenchmarksPage, benchmarks_csv, benchmarks_page

router = APIRouter()


def _benchmarks(request: Request) -> View:
    read(request, Nothing)
    return benchmarks_page()


BENCHMARKS = Page(
    "/benchmarks", "benchmarks.html", _benchmarks, BenchmarksPage, "Predicted memory and time beside measurements"
)


@router.get(
    "/api/v1/benchmarks.csv",
    operation_id="get_benchmarks_csv",
    summary="Predictions beside measurements as a table",
    response_class=Response,
    response_model=None,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **problems_of("")},
)
async def rows(request: Request) -> Response:
    """Every row of the benchmarks."""
    read(request, Nothing)
    body = benchmarks_csv()
    disposition = {"Content-Disposition": 'inline; filename="peft-atlas-benchmarks.csv"'}
    return reply(request, body, "text/csv; charset=utf-8", etag=tag(body), headers=disposition)

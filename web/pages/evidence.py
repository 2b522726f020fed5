"""The pages of published comparisons, with all results as a table to download."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from web.http import reply, tag
from web.openapi import problems_of
from web.page import Page
from web.query import Nothing, read
from web.views.base import View
from web.views.evidence import EvidencePage, StudyPage, evidence_csv, evidence_page, study_page

router = APIRouter()


def _evidence(request: Request) -> View:
    read(request, Nothing)
    return evidence_page()


def _study(request: Request) -> View:
    read(request, Nothing)
    return study_page(request.path_params["study"])


EVIDENCE = (
    Page("/evidence", "evidence.html", _evidence, EvidencePage, "Published comparisons and what they say together"),
    Page(
        "/evidence/{study}", "evidence_study.html", _study, StudyPage, "One published comparison with all its results"
    ),
)


@router.get(
    "/api/v1/evidence.csv",
    operation_id="get_evidence_csv",
    summary="Every result of every published comparison as a table",
    response_class=Response,
    response_model=None,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **problems_of("")},
)
async def rows(request: Request) -> Response:
    """Every result of the evidence."""
    read(request, Nothing)
    body = evidence_csv()
    disposition = {"Content-Disposition": 'inline; filename="peft-atlas-evidence.csv"'}
    return reply(request, body, "text/csv; charset=utf-8", etag=tag(body), headers=disposition)

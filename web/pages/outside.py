"""What other sites and machines ask for: the map of the site, cards for links, the entries of a comparison."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from xml.sax.saxutils import escape

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from kb.bibliography import bibliography
from kb.studies import load_studies
from taxonomy import build
from web.http import reply, tag
from web.linked_data import origin
from web.openapi import described, problems_of
from web.pages.every import EVERY_PAGE
from web.problems import FieldError, MovedError, invalid
from web.query import read
from web.render import render
from web.views.card import card_page
from web.views.compare import CompareQuery, compare_page
from web.views.methods import items

router = APIRouter()


def addresses() -> tuple[str, ...]:
    """Every page that has an address of its own."""
    places: dict[str, Iterable[str]] = {"{slug}": build().methods, "{study}": load_studies()}
    found = {page.path for page in EVERY_PAGE}
    for place, values in places.items():
        found = {path.replace(place, value) for path in found for value in (values if place in path else [place])}
    without = {f"/methods/{item.slug}/source" for item in items() if not item.implemented}
    return tuple(sorted(found - without))


def _base(request: Request) -> str:
    return origin() or str(request.base_url).rstrip("/")


@router.get("/sitemap.xml", include_in_schema=False, response_model=None)
async def sitemap(request: Request) -> Response:
    """Every page, for search engines."""
    base = escape(_base(request))
    lines = "".join(f"<url><loc>{base}{escape(each)}</loc></url>\n" for each in addresses())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{lines}</urlset>\n'
    return reply(request, body.encode(), "application/xml; charset=utf-8")


@router.get("/robots.txt", include_in_schema=False, response_model=None)
async def robots(request: Request) -> Response:
    """Everything may be read; where the map is."""
    body = f"User-agent: *\nAllow: /\nSitemap: {_base(request)}/sitemap.xml\n"
    return reply(request, body.encode(), "text/plain; charset=utf-8")


@lru_cache(maxsize=512)
def _card(slug: str) -> tuple[bytes, str]:
    body = render("card.svg", page=card_page(slug))
    return body, tag(body)


@router.get("/methods/{slug}/card.svg", include_in_schema=False, response_model=None)
async def card(request: Request) -> Response:
    """The card that a link to a method shows elsewhere."""
    try:
        body, etag = _card(request.path_params["slug"])
    except MovedError as moved:
        body, etag = _card(moved.parameters["slug"])
    return reply(request, body, "image/svg+xml", etag=etag)


@router.get(
    "/api/v1/compare/bibtex",
    operation_id="get_compare_bibtex",
    summary="BibTeX of the compared methods' papers",
    response_class=Response,
    response_model=None,
    responses={200: {"content": {"application/x-bibtex": {"schema": {"type": "string"}}}}, **problems_of("")},
    openapi_extra=described("", CompareQuery, frozenset({"m"})),
)
async def compared(request: Request) -> Response:
    """One entry per paper of a comparison."""
    page = compare_page(read(request, CompareQuery, frozenset({"m"})))
    if not page.methods:
        raise invalid([FieldError(parameter="m", message="name two to six methods, as in m=lora&m=dora", near=())])
    methods = [build().methods[each.slug] for each in page.methods]
    return reply(request, bibliography(methods).encode(), "application/x-bibtex; charset=utf-8")

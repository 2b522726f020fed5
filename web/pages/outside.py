"""What other sites and machines ask for: the map of the site, cards for links, the entries of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from web.raster import png
from web.render import render
from web.views.card import card_page, site_card
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


def card_addresses() -> tuple[str, ...]:
    """The cards that pages name, as crawlers take them."""
    return ("/card.png", *(f"/methods/{slug}/card.png" for slug in build().methods))


@lru_cache(maxsize=512)
def _drawing(slug: str | None) -> tuple[bytes, str]:
    body = render("card.svg", page=site_card() if slug is None else card_page(slug))
    return body, tag(body)


@lru_cache(maxsize=128)
def _picture(slug: str | None) -> tuple[bytes, str]:
    body = png(_drawing(slug)[0])
    return body, tag(body)


def _card(request: Request, made: Callable[[str | None], tuple[bytes, str]], media: str) -> Response:
    try:
        body, etag = made(request.path_params.get("slug"))
    except MovedError as moved:
        body, etag = made(moved.parameters["slug"])
    return reply(request, body, media, etag=etag)


@router.get("/card.svg", include_in_schema=False, response_model=None)
@router.get("/methods/{slug}/card.svg", include_in_schema=False, response_model=None)
async def card(request: Request) -> Response:
    """The card that a link to a method, or to any other page, shows elsewhere."""
    return _card(request, _drawing, "image/svg+xml")


@router.get("/card.png", include_in_schema=False, response_model=None)
@router.get("/methods/{slug}/card.png", include_in_schema=False, response_model=None)
def picture(request: Request) -> Response:
    """The same as a picture of 1200 by 630, since most sites show no SVG; drawn in a thread, for it takes some tens of ms."""
    return _card(request, _picture, "image/png")


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

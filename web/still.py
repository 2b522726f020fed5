"""A still copy of the site: files that any web server can hand out, from any folder.

Every page, its data and the files of the site are asked of the application itself, so a copy says what the site says. A
recommendation needs a server that computes; the copy holds those for common sizes of cards and models, with a table to
choose from in the place of the form. A search needs none: a script looks through the copy's own file of words. A link to an answer that the copy does not hold is no link there.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlencode, urlsplit

from starlette.types import Message

from taxonomy.exports import FORMATS
from web import still_search
from web.app import create_app, load
from web.assets import assets
from web.linked_data import origin
from web.pages.outside import addresses, card_addresses
from web.render import render

CARDS = ("8GB", "12GB", "16GB", "24GB", "32GB", "40GB", "48GB", "80GB", "141GB")
SIZES = ("0.5B", "1B", "3B", "7B", "8B", "13B", "32B", "70B")
MARK = ".peft-atlas-copy"
"""A file that says that a folder is a copy, so that it may be made anew."""
_LINK = re.compile(r'(<(?:a|link|script|image|use)\b[^>]*?\s)(href|src)="(/[^"]*)"([^>]*>)')
_PICTURE = re.compile(r'(<meta property="og:image" content=")(/[^"]*)"')
"""Only where the copy does not know its place on the web; otherwise the address is whole."""
_ADDRESS = re.compile(r'\s(?:href|src)="(/[^"]*)"')
_FORM = re.compile(r'<form\b(?P<search>[^>]*class="search")?.*?</form>', re.DOTALL)
_SUFFIX = {"application/json": ".json", "application/x-bibtex": ".bib"}
_SEARCHES = frozenset({"/search", "/search.json"})
_LONGEST_NAME = 80


@dataclass(frozen=True)
class File:
    """One file of the copy."""

    place: str
    """Its path inside the copy, with slashes."""
    body: bytes
    is_page: bool


class CopyError(ValueError):
    """The copy cannot be made; the message says why and what to do."""


def grid() -> dict[tuple[str, str], str]:
    """The address of the recommendation for every common card and size of model."""
    return {
        (card, size): f"/recommend?{urlencode({'gpu_mem': card, 'params': size})}" for card in CARDS for size in SIZES
    }


def make_copy(folder: Path) -> Iterator[tuple[int, int]]:
    """Write the copy into ``folder``, saying how many addresses are done and how many are known so far.

    The folder appears whole or not at all; an earlier copy is replaced. Raises ``CopyError`` if the folder holds anything
    else, and ``OSError`` if it cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / MARK).is_file())):
        raise CopyError(f"{folder} exists and is no copy of this site; name a new folder")
    if not folder.parent.is_dir():
        raise CopyError(f"{folder.parent} is no folder; make it first, or name another")
    files: dict[str, File] = {}
    yield from _collect(files)
    made = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        for address, file in files.items():
            path = made / file.place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_still(address, file, files) if file.is_page else file.body)
        (made / MARK).touch()
        (made / ".nojekyll").touch()  # some hosts leave out folders that their generator does not know
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _collect(files: dict[str, File]) -> Iterator[tuple[int, int]]:
    """Ask for every address; pages name further ones."""
    load()
    app = create_app()
    first = [*addresses(), *card_addresses(), "/robots.txt", "/openapi.json", *grid().values()]
    first += [f"/api/v1/export.{each.suffix}" for each in FORMATS.values()]
    first += [f"/static/{asset.name}" for asset in assets().values()]
    first += ["/sitemap.xml"] if origin() else []
    waiting, known = deque(first), set(first)
    while waiting:
        address = waiting.popleft()
        status, media, body = asyncio.run(_ask(app, address))
        if status == 200:
            files[address] = _file(address, media, body)
            for found in _further(address, files[address]):
                if found not in known:
                    known.add(found)
                    waiting.append(found)
        elif address in first:
            raise CopyError(f"{address} answers {status}, so the copy would not be whole")
        yield len(known) - len(waiting), len(known)
    files[f"/{still_search.PLACE}"] = File(still_search.PLACE, still_search.words(), is_page=False)


async def _ask(app: object, address: str) -> tuple[int, str, bytes]:
    """Status, media type and body of an address, as a browser gets them from the application."""
    parts = urlsplit(address)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "server": ("localhost", 443),
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "root_path": "",
        "query_string": parts.query.encode(),
        "headers": [(b"host", b"localhost"), (b"accept", b"text/html")],
    }
    told: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        told.append(message)

    await app(scope, receive, send)  # type: ignore[operator]  # an ASGI application
    headers = dict(told[0]["headers"])
    media = headers.get(b"content-type", b"").decode().partition(";")[0]
    return told[0]["status"], media, b"".join(each.get("body", b"") for each in told[1:])


def _file(address: str, media: str, body: bytes) -> File:
    """Where an address lies in the copy: a page in a folder of its own, data under its name."""
    parts = urlsplit(address)
    name = unquote(parts.path).strip("/")
    is_page = media == "text/html"
    query = _name_of(parts.query)
    if is_page:
        place = "/".join(filter(None, (name, query, "index.html")))
    else:
        stem, dot, suffix = name.rpartition(".")
        ending = _SUFFIX.get(media, "")
        if not dot or "/" in suffix:
            stem, suffix = name, ending.lstrip(".")
        place = f"{stem}{f'/{query}' if query else ''}{f'.{suffix}' if suffix else ''}"
    return File(place, body, is_page)


def _name_of(query: str) -> str:
    """A query as a part of a path: readable, and different for different queries."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", unquote(query)).strip("-.")
    if not query or (plain == query.replace("=", "-").replace("&", "-") and len(plain) <= _LONGEST_NAME):
        return plain
    return f"{plain[:_LONGEST_NAME]}-{blake2b(query.encode(), digest_size=4).hexdigest()}"


def _further(address: str, file: File) -> Iterator[str]:
    """The addresses that a page names; one with a query of its own names only pages without one, and its data."""
    if not file.is_page:
        return
    asked = urlsplit(address)
    for link in _ADDRESS.findall(file.body.decode()):
        found = unescape(link).partition("#")[0]
        parts = urlsplit(found)
        own_data = parts.query == asked.query and parts.path == f"{asked.path}.json"
        if own_data or not parts.query or (not asked.query and parts.path not in _SEARCHES):
            yield found


@lru_cache(maxsize=2)
def _chooser(table: bool) -> str:
    """What stands in the place of a form; with the table of answers on the page of recommendations."""
    return render("still.html", cards=CARDS, sizes=SIZES, grid=grid(), table=table).decode()


def _still(address: str, file: File, files: Mapping[str, File]) -> bytes:
    """A page whose links lead to files of the copy, and whose forms say where an answer is."""
    up = "../" * file.place.count("/")
    path = urlsplit(address).path

    def form(found: re.Match[str]) -> str:
        if found["search"]:
            return still_search.header_form(found[0], up)
        return still_search.page_form() if path == "/search" else _chooser(path == "/recommend")

    def link(found: re.Match[str]) -> str:
        before, name, target, after = found.groups()
        wanted, _, fragment = unescape(target).partition("#")
        there = files.get(wanted)
        if there is not None:
            place = there.place.removesuffix("index.html") if there.is_page else there.place
            return f'{before}{name}="{up}{place or "./"}{f"#{fragment}" if fragment else ""}"{after}'
        if found[0].startswith("<a"):
            return f'{before}data-live="{target}" title="Answered by a running site only"{after}'
        return ""

    text = _PICTURE.sub(lambda found: f'{found[1]}{up}{files[found[2]].place}"', file.body.decode())
    return _LINK.sub(link, _FORM.sub(form, text)).encode()

"""Static files under names that change with their content, so that a browser may keep them for ever."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".woff2": "font/woff2",
}
_COMMENT = re.compile(rb"/\*.*?\*/", re.DOTALL)
_SPACE = re.compile(rb"\s*([{};,])\s*|(?<=:)\s+|\n\s*")
_FILE = re.compile(rb"url\(([\w.-]+)\)")


@dataclass(frozen=True)
class Asset:
    """One static file."""

    name: str
    """Its name in the address, with a part of its digest."""
    body: bytes
    media_type: str
    etag: str


@lru_cache(maxsize=1)
def assets() -> Mapping[str, Asset]:
    """Every static file by its own name; sheets come last, because they name the addresses of the others."""
    found: dict[str, Asset] = {}
    for path in sorted(FOLDER.iterdir(), key=lambda path: (path.suffix == ".css", path.name)):
        body = path.read_bytes() if path.suffix != ".css" else _sheet(path.read_bytes(), found)
        digest = blake2b(body, digest_size=6).hexdigest()
        name = f"{path.stem}.{digest}{path.suffix}"
        found[path.name] = Asset(name, body, _TYPES[path.suffix], f'"{digest}"')
    return MappingProxyType(found)


def _sheet(source: bytes, others: Mapping[str, Asset]) -> bytes:
    """A style sheet without comments and needless spaces, with the addresses of the files that it names."""
    body = _SPACE.sub(lambda found: found[1] or b"", _COMMENT.sub(b"", source))
    return _FILE.sub(lambda found: f"url({others[found[1].decode()].name})".encode(), body)


def address(name: str) -> str:
    """The address of a static file; ``KeyError`` if there is none of this name."""
    return f"/static/{assets()[name].name}"

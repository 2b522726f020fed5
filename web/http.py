"""HTTP itself: replies with strong ETags, packed where asked for, HEAD for every GET, security headers, cross-origin reading."""

from __future__ import annotations

import gzip
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.kept import Kept
from web.negotiation import takes_gzip
from web.problems import Problem, ProblemError
from web.query import LONGEST_QUERY

POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'; img-src 'self'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"ETag, Link"),
]
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "Accept, If-None-Match",
    "Access-Control-Max-Age": "86400",
    "Allow": "GET, HEAD, OPTIONS",
}


_WORTH = 1024  # bytes: a smaller body fits into one packet as it is
_DENSE = ("font/", "image/png")  # media types that hold packed data already
_LEVEL = 3  # a third of what level 6 takes for a page, for a quarter more bytes
_PACKED = Kept(1 << 20)
"""Bodies in gzip by their ETag: pages and files that are asked for again are packed once."""


def tag(body: bytes) -> str:
    """A strong ETag: equal bytes, equal tag."""
    return f'"{sha256(body).hexdigest()[:24]}"'


def reply(
    request: Request,
    body: bytes,
    media_type: str,
    *,
    etag: str | None = None,
    headers: dict[str, str] | None = None,
    status: int = 200,
    cache: str = "no-cache",
) -> Response:
    """A response, or 304 if the client has this very body already. ``no-cache`` means: ask again before reuse.

    In gzip for a client that takes it, under an ETag of its own: a strong one names bytes as they are sent.
    """
    plain = etag or tag(body)
    known = {"ETag": plain, "Cache-Control": cache, **(headers or {})}
    packing = False
    if len(body) >= _WORTH and not media_type.startswith(_DENSE):
        known["Vary"] = ", ".join(filter(None, (known.get("Vary"), "Accept-Encoding")))
        packing = takes_gzip(request.headers.get("accept-encoding"))
    if packing:
        known["ETag"] = f'{plain[:-1]}-gzip"'
    if status == 200 and _has(request.headers.get("if-none-match"), known["ETag"]):
        return Response(status_code=304, headers=known)
    if packing:
        known["Content-Encoding"] = "gzip"
        body = _packed(body, plain, lasting=cache != "no-store")
    return Response(body, status_code=status, media_type=media_type, headers=known)


def _packed(body: bytes, etag: str, *, lasting: bool) -> bytes:
    """A body in gzip; kept, if it may be asked for again."""
    found = _PACKED.get(etag)
    if found is not None:
        return found[0]
    packed = gzip.compress(body, _LEVEL, mtime=0)
    if lasting:
        _PACKED.put(etag, (packed, etag))
    return packed


def _has(sent: str | None, etag: str) -> bool:
    """Whether ``If-None-Match`` names the tag; the comparison is weak, as the standard wants it here."""
    if sent is None:
        return False
    return any(each.strip().removeprefix("W/") in (etag, "*") for each in sent.split(","))


def problem_reply(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """A problem as ``application/problem+json``."""
    return Response(
        problem.model_dump_json(),
        status_code=problem.status,
        media_type="application/problem+json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def secured(response: Response) -> Response:
    """The response with the headers that every reply has; for those that do not pass through ``Shell``."""
    response.raw_headers.extend(_HEADERS)
    return response


class Shell:
    """What holds for every request: HEAD answers as GET does, an overlong query is refused, headers are set."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        head = scope["method"] == "HEAD"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            elif head:
                message = {**message, "body": b""}
            await send(message)

        if len(scope["query_string"]) > LONGEST_QUERY:
            error = ProblemError(414, f"the query is longer than {LONGEST_QUERY} bytes; POST a JSON body instead")
            await problem_reply(error.problem)(scope, receive, sending)
        elif scope["method"] == "OPTIONS":
            await Response(status_code=204, headers=_PREFLIGHT)(scope, receive, sending)
        else:
            await self.app({**scope, "method": "GET"} if head else scope, receive, sending)

"""One page, its JSON twin and its place in the API: three addresses that one view object answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from web.http import reply, tag
from web.kept import Kept, Stored
from web.negotiation import HTML, JSON, prefers_html
from web.openapi import described, problems_of
from web.problems import MovedError, ProblemError
from web.render import render
from web.views.base import View

Build = Callable[[Request], View]
_ASKED = Kept(4 * 2**20)
"""Bodies of the last requests with parameters, of all pages: about thirty recommendations."""


@dataclass(frozen=True)
class Page:
    """What a page needs. ``build`` makes its view of a request; ``data`` makes the JSON view where that is another."""

    path: str
    template: str
    build: Build
    shape: type[BaseModel]
    """Model of the JSON."""
    summary: str
    query: type[BaseModel] | None = None
    """Parameters, for the description of the API."""
    repeatable: frozenset[str] = frozenset()
    data: Build | None = None
    negotiated: bool = False
    """Whether the page's own address answers JSON to those who do not ask for HTML."""
    in_api: bool = True
    """Whether the API gives the same JSON under the same path."""
    again: Callable[[Request, ProblemError], View] | None = None
    """Makes the page once more after a mistake, with the message beside the field."""
    needs_query: bool = False
    """Whether the JSON twin needs parameters, so that the bare page has none."""
    stored: dict[tuple[str, ...], Stored] = field(default_factory=dict, compare=False)
    """Bodies of requests without parameters, by rendering and path values; only paths that exist come here."""

    def register(self, router: APIRouter) -> None:
        """Add the page, its twin and the address of the API to the site."""
        twin = "/index.json" if self.path == "/" else f"{self.path}.json"
        router.add_api_route(twin, self.answer_data, include_in_schema=False, response_model=None)
        router.add_api_route(self.path, self.answer, include_in_schema=False, response_model=None)
        if not self.in_api:
            return
        router.add_api_route(
            f"/api/v1{self.path}",
            self.answer_data,
            summary=self.summary,
            description=f"The same object as {self.path}.json.",
            operation_id=_operation("get", self.path),
            response_model=None,
            responses={200: {"model": self.shape, "description": "the answer"}, **problems_of(self.path)},
            openapi_extra=described(self.path, self.query, self.repeatable),
        )

    async def answer(self, request: Request) -> Response:
        """The page, or its data where the client prefers that and the page negotiates."""
        if self.negotiated and not prefers_html(request.headers.get("accept")):
            return self._data(request, {"Vary": "Accept"})
        kept = self._kept(HTML, request)
        if kept is None:
            try:
                kept = self._keep(HTML, request, self._rendered(request, self.build(request), self.twin(request)))
            except MovedError as moved:
                return _moved(request, moved)
            except ProblemError as error:
                if self.again is None or error.problem.status != 422:
                    raise
                return self._repeated(request, error)
        return reply(request, kept[0], HTML, etag=kept[1], headers=self._headers(request))

    def _kept(self, rendering: str, request: Request) -> Stored | None:
        """What was answered to the same request before, if it is kept."""
        key, asked = _key(rendering, request), request.scope["query_string"]
        return _ASKED.get((self.path, key, asked)) if asked else self.stored.get(key)

    def _keep(self, rendering: str, request: Request, body: bytes) -> Stored:
        kept, key, asked = (body, tag(body)), _key(rendering, request), request.scope["query_string"]
        if asked:
            _ASKED.put((self.path, key, asked), kept)
        else:
            self.stored[key] = kept
        return kept

    def _repeated(self, request: Request, error: ProblemError) -> Response:
        if self.again is None:
            raise error
        body = self._rendered(request, self.again(request, error), None)
        headers = {"Vary": "Accept"} if self.negotiated else {}
        return reply(request, body, HTML, status=error.problem.status, headers=headers, cache="no-store")

    def _rendered(self, request: Request, view: View, twin: str | None) -> bytes:
        return render(self.template, page=view, twin=twin, path=request.url.path)

    def twin(self, request: Request) -> str | None:
        """The address of the JSON that says the same, or ``None`` where a bare page has none."""
        query = request.url.query
        if self.needs_query and not query:
            return None
        path = "/index.json" if request.url.path == "/" else f"{quote(request.url.path)}.json"
        return f"{path}?{query}" if query else path

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {"Vary": "Accept"} if self.negotiated else {}
        twin = self.twin(request)
        if twin is not None:
            headers["Link"] = f'<{twin}>; rel="alternate"; type="{JSON}"'
        return headers

    async def answer_data(self, request: Request) -> Response:
        """The view as JSON."""
        return self._data(request, None)

    def _data(self, request: Request, headers: dict[str, str] | None) -> Response:
        kept = self._kept(JSON, request)
        if kept is None:
            try:
                kept = self._keep(JSON, request, (self.data or self.build)(request).to_bytes())
            except MovedError as moved:
                return _moved(request, moved)
        return reply(request, kept[0], JSON, etag=kept[1], headers=headers)


def _key(rendering: str, request: Request) -> tuple[str, ...]:
    return (rendering, *request.path_params.values())


def _operation(method: str, path: str) -> str:
    words = path.replace("{", "by ").replace("}", "").replace("/", " ").replace(".", " ").split()
    return "_".join([method, *words])


def _moved(request: Request, moved: MovedError) -> Response:
    """A redirect from a former name to the right one, with everything else of the address kept."""
    path = request.scope["route"].path_format.format(**{**request.path_params, **moved.parameters})
    query = f"?{request.url.query}" if request.url.query else ""
    return RedirectResponse(f"{path}{query}", status_code=301)

"""HTTP itself: HEAD, conditional requests, headers, static files."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

from web.assets import assets
from web.http import _has
from web.still_search import header_form

ADDRESSES = (
    "/",
    "/index.json",
    "/methods",
    "/methods.json",
    "/methods/lora",
    "/methods/lora.json",
    "/methods/lora/source",
    "/methods/lora/evidence",
    "/api/v1/methods/lora/evidence",
    "/taxonomy",
    "/compare?m=lora&m=dora",
    "/recommend",
    "/recommend?gpu_mem=24GB&params=7B",
    "/recommend.json?gpu_mem=24GB&params=7B",
    "/estimate?method=lora&params=7B",
    "/models",
    "/gpus",
    "/about",
    "/api",
    "/search?q=lora",
    "/openapi.json",
    "/healthz",
    "/readyz",
    "/api/v1/methods",
    "/api/v1/classes",
    "/api/v1/methods/lora/bibtex",
    "/api/v1/export.json",
    "/api/v1/export.graphml",
)


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_head_answers_as_get_without_body(browser: TestClient, path: str, encoding: str) -> None:
    asked = {"accept-encoding": encoding}
    full, head = browser.get(path, headers=asked), browser.head(path, headers=asked)
    assert head.status_code == full.status_code == 200
    assert head.content == b""
    assert dict(head.headers) == dict(full.headers)
    assert int(head.headers["content-length"]) == full.num_bytes_downloaded > 0


def test_head_of_what_is_not_there_is_404(client: TestClient) -> None:
    response = client.head("/methods/loraa")
    assert response.status_code == 404
    assert response.content == b""


@pytest.mark.parametrize("path", ADDRESSES)
def test_a_known_body_is_not_sent_again(browser: TestClient, path: str) -> None:
    first = browser.get(path)
    etag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{12,}(-gzip)?"', etag)
    again = browser.get(path, headers={"if-none-match": f'"other", {etag}'})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == etag
    assert browser.get(path, headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ADDRESSES)
def test_a_body_is_packed_for_those_who_unpack_it(browser: TestClient, path: str) -> None:
    plain, packed = (browser.get(path, headers={"accept-encoding": each}) for each in ("identity", "gzip, br"))
    assert packed.content == plain.content
    assert "content-encoding" not in plain.headers
    assert plain.headers.get("vary") == packed.headers.get("vary")
    if len(plain.content) < 1024:
        assert packed.headers["etag"] == plain.headers["etag"]
        return
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.num_bytes_downloaded < 0.6 * plain.num_bytes_downloaded
    assert "Accept-Encoding" in packed.headers["vary"].split(", ")
    assert packed.headers["etag"] == f'{plain.headers["etag"][:-1]}-gzip"', "a strong tag names bytes as they are sent"


def test_a_body_is_not_sent_again_to_those_who_have_it_packed(browser: TestClient) -> None:
    packing = {"accept-encoding": "gzip"}
    first = browser.get("/methods", headers=packing).headers
    known = {"if-none-match": first["etag"]}
    again = browser.get("/methods", headers={**packing, **known})
    assert (again.status_code, again.content) == (304, b"")
    assert "content-encoding" not in again.headers
    assert (again.headers["etag"], again.headers["vary"]) == (first["etag"], first["vary"])
    assert browser.get("/methods", headers={"accept-encoding": "identity", **known}).status_code == 200


def test_what_is_packed_already_is_sent_as_it_is(client: TestClient) -> None:
    kinds = {name.rpartition(".")[2]: asset for name, asset in assets().items()}
    for kind, asset in kinds.items():
        sent = client.get(f"/static/{asset.name}", headers={"accept-encoding": "gzip"})
        assert ("content-encoding" in sent.headers) is (kind != "woff2" and len(asset.body) >= 1024), asset.name


def test_renderings_have_different_tags(client: TestClient, browser: TestClient) -> None:
    path = "/methods/lora"
    assert client.get(path).headers["etag"] != browser.get(path).headers["etag"]


@pytest.mark.parametrize(
    ("sent", "known"), [(None, False), ('"a"', True), ('W/"a"', True), ("*", True), ('"b"', False), ('"b" , "a"', True)]
)
def test_if_none_match_is_read_as_a_list(sent: str | None, known: bool) -> None:
    assert _has(sent, '"a"') is known


@pytest.mark.parametrize(
    "path", [*ADDRESSES, "/nowhere", "/methods/loraa", "/recommend?gpu_mem=24", f"/?x={'y' * 5000}"]
)
def test_every_reply_is_guarded(browser: TestClient, path: str) -> None:
    headers = browser.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"]
    assert headers["access-control-allow-origin"] == "*"


def test_other_origins_may_ask_before_they_read(client: TestClient) -> None:
    response = client.options(
        "/api/v1/methods", headers={"origin": "https://example.org", "access-control-request-method": "GET"}
    )
    assert response.status_code == 204
    assert "GET" in response.headers["access-control-allow-methods"]


def test_pages_keep_the_promise_of_the_policy(browser: TestClient) -> None:
    for path in ADDRESSES:
        response = browser.get(path)
        if response.headers["content-type"].startswith("text/html"):
            assert not re.search(r"<[^>]+\sstyle=", response.text), path
            assert not re.search(r"<[^>]+\son[a-z]+=", response.text), path
            assert not re.search(r'<script(?! type="application/ld\+json")(?![^>]*\ssrc=)', response.text), path
            assert "<style" not in response.text, path
            assert not re.search(r"""<(?:script|link|img)[^>]+(?:src|href)=["']?(?:https?:)?//""", response.text), path


def test_static_files_may_be_kept_for_ever(client: TestClient, browser: TestClient) -> None:
    pages = (
        "/",
        "/about",
        "/taxonomy",
        "/methods",
        "/methods/lora",
        "/compare",
        "/evidence",
        "/api",
        "/glossary",
        "/search",
    )
    named = "".join(browser.get(page).text for page in pages) + assets()["site.css"].body.decode()
    named += header_form("", "")  # in still copies only
    for asset in assets().values():
        address = f"/static/{asset.name}"
        assert asset.name in named
        response = client.get(address)
        assert response.status_code == 200
        assert "immutable" in response.headers["cache-control"]
        assert response.headers["content-type"].startswith(asset.media_type)
    assert client.get("/static/site.css").status_code == 404
    assert client.get("/static/..%2fapp.py").status_code == 404


def test_sheet_keeps_its_rules_when_its_spaces_go() -> None:
    body = assets()["site.css"].body.decode()
    assert body.count("{") == body.count("}")
    assert "/*" not in body
    assert "\n" not in body
    assert 'content:"✓ "' in body, "spaces inside of strings stay"
    assert "minmax(min(15rem,100%),1fr)" in body


def test_sheet_and_script_stay_small() -> None:
    sizes = {name: len(asset.body) for name, asset in assets().items() if name.endswith(".css")}
    common = sizes.pop("site.css")
    assert all(common + size <= 20_000 for size in sizes.values()), "a page takes the common sheet and one of its own"
    assert len(assets()["site.js"].body) <= 10_000


def test_answers_are_checked_before_they_are_reused(client: TestClient) -> None:
    assert client.get("/methods/lora.json").headers["cache-control"] == "no-cache"
    assert client.get("/nowhere").headers["cache-control"] == "no-store"

"""Who gets a page and who gets data."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from web.negotiation import prefers_html, takes_gzip

CASES = [
    (None, False),
    ("", False),
    ("*/*", False),
    ("application/json", False),
    ("text/html", True),
    ("TEXT/HTML", True),
    ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", True),
    ("text/html;q=0.5, application/json", False),
    ("text/html;q=0.5, application/json;q=0.5", True),
    ("text/html;q=0", False),
    ("text/html;q=0.4, */*;q=0.5", False),
    ("text/html;level=1;q=0.9, application/json;q=0.8", True),
    ("application/*;q=0.9, text/html;q=0.8", False),
    ("text/html;q=nonsense", False),
    ("text/htmlx", False),
    ("image/webp", False),
]


@pytest.mark.parametrize(("accept", "html"), CASES)
def test_html_is_preferred_only_when_named_and_not_below_json(accept: str | None, html: bool) -> None:
    assert prefers_html(accept) is html


@pytest.mark.parametrize(
    ("accept", "packed"),
    [
        (None, False),
        ("", False),
        ("identity", False),
        ("br, deflate", False),
        ("gzip", True),
        ("GZIP;q=0.1", True),
        ("gzip;q=0, *", False),
        ("br;q=1.0, *;q=0.1", True),
        ("*;q=0", False),
        ("gzipped", False),
    ],
)
def test_gzip_is_sent_only_where_it_is_allowed(accept: str | None, packed: bool) -> None:
    assert takes_gzip(accept) is packed


@pytest.mark.parametrize(
    "path", ["/recommend?gpu_mem=24GB&params=7B", "/estimate?method=lora&params=7B", "/methods/lora"]
)
@pytest.mark.parametrize(("accept", "html"), [(accept, html) for accept, html in CASES if accept])
def test_the_three_addresses_negotiate(client: TestClient, path: str, accept: str, html: bool) -> None:
    response = client.get(path, headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html" if html else "application/json")
    assert response.headers["vary"] == "Accept, Accept-Encoding"


def test_json_twin_is_unambiguous(browser: TestClient) -> None:
    for path in ("/recommend.json?gpu_mem=24GB&params=7B", "/methods/lora.json", "/methods.json", "/index.json"):
        assert browser.get(path).headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/methods/nothing_like_it", "/nowhere", "/recommend?gpu_mem=24"])
def test_errors_negotiate_too(client: TestClient, browser: TestClient, path: str) -> None:
    page, data = browser.get(path), client.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert data.headers["content-type"] == "application/problem+json"
    assert page.status_code == data.status_code
    assert all("Accept" in each.headers["vary"].split(", ") for each in (page, data))

"""What other sites and machines read: the map of the site, cards for links, JSON-LD, entries of a comparison."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from starlette.testclient import TestClient

from taxonomy import build
from web.linked_data import ORIGIN_VARIABLE, origin
from web.pages.outside import addresses
from web.raster import png
from web.views.card import WIDTH, card_page

NAMESPACE = "{http://www.sitemaps.org/schemas/sitemap/0.9}loc"
SVG = "{http://www.w3.org/2000/svg}text"
HTML = {"Accept": "text/html"}


def blocks(page: str) -> list[dict[str, object]]:
    """The JSON-LD of a page."""
    return [json.loads(each) for each in re.findall(r'<script type="application/ld\+json">(.*?)</script>', page, re.S)]


def test_the_map_names_every_page_and_each_answers(client: TestClient):
    answer = client.get("/sitemap.xml")
    listed = {
        each.text.removeprefix("http://testserver") for each in ElementTree.fromstring(answer.text).iter(NAMESPACE)
    }
    assert {f"/methods/{slug}" for slug in build().methods} | {"/", "/recommend", "/benchmarks", "/api"} <= listed
    assert listed == set(addresses())
    lost = [page for page in listed if client.get(page, headers=HTML).status_code != 200]
    assert lost == []
    assert "Sitemap: http://testserver/sitemap.xml" in client.get("/robots.txt").text


def test_addresses_are_those_of_the_site_where_it_is_known(client: TestClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ORIGIN_VARIABLE, "https://atlas.example.org/")
    assert "<loc>https://atlas.example.org/methods/lora</loc>" in client.get("/sitemap.xml").text
    monkeypatch.setenv(ORIGIN_VARIABLE, "atlas.example.org")
    with pytest.raises(ValueError, match=r"write an address such as https://"):
        origin()


@pytest.mark.parametrize("slug", sorted(build().methods))
def test_a_card_says_the_name_and_stays_inside_its_edges(client: TestClient, slug: str):
    answer = client.get(f"/methods/{slug}/card.svg")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
    texts = list(ElementTree.fromstring(answer.text).iter(SVG))
    assert build().methods[slug].name in {each.text for each in texts}
    for each in texts:
        if each.get("text-anchor") is None:  # letters are about half as wide as they are high
            assert float(each.get("x", 0)) + 0.52 * float(each.get("font-size", 0)) * len(each.text or "") < WIDTH - 20


def test_a_card_of_a_former_name_is_that_of_the_method_and_of_no_name_none(client: TestClient):
    assert (
        client.get("/methods/Low-Rank Adaptation of Large Language Models/card.svg").text
        == client.get("/methods/lora/card.svg").text
    )
    assert client.get("/methods/lorra/card.svg").status_code == 404


def picture_size(body: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its first chunk."""
    assert body[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(body[16:20]), int.from_bytes(body[20:24])


@pytest.mark.parametrize("path", ["/", "/about", "/methods/lora", "/methods/rslora"])
def test_the_picture_that_a_page_names_is_one(client: TestClient, path: str):
    page = client.get(path, headers=HTML).text
    (named,) = re.findall(r'property="og:image" content="([^"]*)"', page)
    answer = client.get(named)
    assert answer.headers["content-type"] == "image/png"
    assert picture_size(answer.content) == (1200, 630)
    assert len(answer.content) < 80_000
    assert '<meta name="twitter:card" content="summary_large_image">' in page


@pytest.mark.parametrize("letter", ["A", "α", "√", "²"])
@pytest.mark.parametrize("family", ["'Public Sans', sans-serif", "Newsreader, serif"])
def test_letters_are_drawn_without_fonts_of_the_system(family: str, letter: str):
    def drawn(text: str) -> bytes:
        return png(f'<svg xmlns="http://www.w3.org/2000/svg" width="60" height="60"><text y="50" font-size="40" font-family="{family}">{text}</text></svg>'.encode())  # fmt: skip

    assert drawn(letter) != drawn(" ")


def test_cards_use_only_letters_that_their_fonts_have():
    allowed = {chr(each) for each in range(32, 127)} | set("αβγ√²³·–’“”…×")
    said = {slug: card_page(slug).model_dump_json() for slug in build().methods}
    assert {slug: set(text) - allowed for slug, text in said.items() if set(text) - allowed} == {}


def test_a_method_page_tells_machines_its_paper_and_shows_its_card(client: TestClient):
    page = client.get("/methods/dora", headers=HTML).text
    (block,) = blocks(page)
    assert block["citation"]["url"] == "https://arxiv.org/abs/2402.09353"
    assert block["license"] == "https://creativecommons.org/licenses/by/4.0/"
    assert '<meta property="og:image" content="/methods/dora/card.png">' in page
    (whole,) = blocks(client.get("/", headers=HTML).text)
    assert all(client.get(each["contentUrl"]).status_code == 200 for each in whole["distribution"])


@pytest.mark.parametrize("slug", sorted(build().methods))
def test_json_ld_cannot_end_its_block(client: TestClient, slug: str):
    (block,) = blocks(client.get(f"/methods/{slug}", headers=HTML).text)
    assert block["abstract"] == build().methods[slug].summary


def test_a_comparison_can_be_cited(client: TestClient):
    text = client.get("/api/v1/compare/bibtex?m=lora&m=dora&m=rslora").text
    assert re.findall(r"@misc{(\w+),", text) == ["hu2021lora", "kalajdzievski2023rank", "liu2024dora"]
    refused = client.get("/api/v1/compare/bibtex")
    assert (refused.status_code, refused.json()["errors"][0]["parameter"]) == (422, "m")

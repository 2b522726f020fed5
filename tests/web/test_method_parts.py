"""What a method's page adds to the record: a wish for model, rank and card, studies as a forest, parts of the code."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

from kb.records import load_methods
from recommender import Constraints, estimate
from recommender.quality import quality, studies_of
from web.views.forest import forest
from web.views.listing import parts_of
from web.views.method import implementation


def test_counts_and_memory_follow_rank_and_card(browser: TestClient) -> None:
    data = browser.get("/methods/lora.json?model=llama-3.1-8b&rank=64&gpu=rtx-4090").json()
    expected = estimate("lora", Constraints(model="llama-3.1-8b", rank=64, gpu="rtx-4090"))
    assert data["estimate"]["counts"] == expected.counts.model_dump(mode="json")
    assert data["estimate"]["card"]["usable_bytes"] == expected.card.usable_bytes
    assert all(place["bar"]["card"] is not None for place in data["memory"])
    text = browser.get("/methods/lora?rank=64").text
    assert 'name="rank" value="64"' in text


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("gpu=rtx-409", "did you mean"),
        ("rank=0", "at least 1"),
        ("rank=many", "not a whole number"),
        ("model=llama-3.1-8", "did you mean"),
    ],
)
def test_a_wrong_wish_is_said_beside_its_field(browser: TestClient, query: str, said: str) -> None:
    response = browser.get(f"/methods/lora?{query}")
    assert response.status_code == 422
    name, _, value = query.partition("=")
    error = re.search(rf'id="e-{name}">(.*?)</p>', response.text, re.S)
    assert error is not None
    assert said in error[1]
    assert f'name="{name}" value="{value}"' in response.text


def test_a_method_without_a_rank_offers_none(browser: TestClient) -> None:
    assert 'id="f-rank"' not in browser.get("/methods/bitfit").text
    response = browser.get("/methods/bitfit?rank=4&model=t5-large")
    assert response.status_code == 422
    assert "has no rank" in response.text


def test_forest_draws_the_largest_studies_and_every_self_report() -> None:
    effects = studies_of("lora")
    drawn = forest(effects, quality("lora"))
    assert drawn is not None
    assert len(drawn.lines) + drawn.left_out == len(effects)
    own = [each.title for each in effects if each.relation == "own"]
    assert set(own) <= {line.title for line in drawn.lines}
    smallest_drawn = min(
        each.n for each in effects if each.relation != "own" and each.title in {line.title for line in drawn.lines}
    )
    assert all(each.n <= smallest_drawn or each.title in {line.title for line in drawn.lines} for each in effects)


@pytest.mark.parametrize("slug", load_methods())
def test_forest_keeps_every_interval_within_its_axis(slug: str) -> None:
    drawn = forest(studies_of(slug), quality(slug))
    if drawn is None:
        assert studies_of(slug) == ()
        return
    for line in drawn.lines:
        assert 0 <= line.low <= line.x <= line.high <= 100
    low, middle, high = drawn.whole
    assert 0 <= low < middle < high <= 100
    marks = [tick.at for tick in drawn.ticks]
    assert marks == sorted(set(marks))
    assert (marks[0], marks[-1]) == (0, 100)


def test_every_study_is_in_the_table(browser: TestClient) -> None:
    text = browser.get("/methods/dora").text
    part = text[text.index('<h2 id="evidence">') : text.index('<h2 id="relatives">')]
    for each in studies_of("dora"):
        assert each.title.replace("&", "&amp;").replace("'", "&#39;") in part


@pytest.mark.parametrize("slug", ["lora", "dora", "bitfit", "prefix_tuning"])
def test_parts_of_the_code_lead_to_their_lines(browser: TestClient, slug: str) -> None:
    source = implementation(slug)
    assert source is not None
    parts = parts_of(source, f"/methods/{slug}/source")
    assert "attach" in {part.name for part in parts}
    lines = source.split("\n")
    page, shown = browser.get(f"/methods/{slug}").text, browser.get(f"/methods/{slug}/source").text
    for part in parts:
        assert part.name in lines[part.line - 1] or lines[part.line - 1].startswith("@")
        assert f'href="{part.href}"' in page
        assert f'id="{part.href.partition("#")[2]}"' in shown


def test_listing_has_one_address_per_line(browser: TestClient) -> None:
    source = implementation("lora")
    assert source is not None
    shown = browser.get("/methods/lora/source").text
    assert shown.count('<span id="L') == source.count("\n")

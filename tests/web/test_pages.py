"""Every page: its twin, its first sentence, its sections."""

from __future__ import annotations

import gzip
import json
import re
from html import unescape
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from kb.records import load_methods
from recommender import Constraints, estimate, recommend
from recommender.units import show_bytes
from taxonomy import build
from web.equation import mathml
from web.problems import ProblemError
from web.views.method import source_page

PAGES = {
    "/": "/index.json",
    "/methods": "/methods.json",
    "/methods?class=additive&mergeable=yes&sort=newest": "/methods.json?class=additive&mergeable=yes&sort=newest",
    "/methods/dora": "/methods/dora.json",
    "/methods/dora?model=t5-large": "/methods/dora.json?model=t5-large",
    "/methods/lora/source": "/methods/lora/source.json",
    "/methods/lora/evidence": "/methods/lora/evidence.json",
    "/taxonomy": "/taxonomy.json",
    "/taxonomy?scheme=library": "/taxonomy.json?scheme=library",
    "/compare": "/compare.json",
    "/compare?m=lora&m=dora&only=differences": "/compare.json?m=lora&m=dora&only=differences",
    "/recommend?gpu_mem=24GB&params=7B": "/recommend.json?gpu_mem=24GB&params=7B",
    "/estimate?method=lora&params=7B": "/estimate.json?method=lora&params=7B",
    "/models": "/models.json",
    "/gpus?sort=memory": "/gpus.json?sort=memory",
    "/search?q=dorra": "/search.json?q=dorra",
    "/about": "/about.json",
    "/glossary": "/glossary.json",
    "/api": "/api.json",
}
BARE = ("/recommend", "/estimate")
NOT_IN_API = ("/", "/about", "/api")


@pytest.mark.parametrize(("page", "twin"), PAGES.items())
def test_page_names_its_twin(browser: TestClient, page: str, twin: str) -> None:
    response = browser.get(page)
    assert response.status_code == 200
    assert response.headers["link"] == f'<{twin}>; rel="alternate"; type="application/json"'
    escaped = twin.replace("&", "&amp;")
    assert f'<link rel="alternate" type="application/json" href="{escaped}">' in response.text
    assert browser.get(twin).headers["content-type"] == "application/json"


@pytest.mark.parametrize("page", [page for page in PAGES if page.partition("?")[0] not in NOT_IN_API])
def test_twin_is_the_object_of_the_api(client: TestClient, page: str) -> None:
    path, _, query = page.partition("?")
    tail = f"?{query}" if query else ""
    assert client.get(f"{path}.json{tail}").content == client.get(f"/api/v1{path}{tail}").content


@pytest.mark.parametrize("page", [*PAGES, *BARE, "/search"])
def test_page_says_first_what_it_is(browser: TestClient, page: str) -> None:
    text = browser.get(page).text
    assert text.count("<h1") == 1
    after = text[text.index("</h1>") :]
    lead = re.search(r'<p class="lead">(.+?)</p>', after, re.S)
    assert lead is not None
    assert len(re.sub(r"<[^>]+>", "", lead[1]).strip()) > 20
    assert re.search(r"<title>[^<]+ · PEFT Atlas</title>", text)


@pytest.mark.parametrize("page", BARE)
def test_bare_form_has_no_twin(browser: TestClient, client: TestClient, page: str) -> None:
    response = browser.get(page)
    assert response.status_code == 200
    assert "link" not in response.headers
    assert client.get(f"{page}.json").status_code == 422


@pytest.mark.parametrize("page", [*PAGES, *BARE])
def test_ids_are_unique_and_fragments_lead_somewhere(browser: TestClient, page: str) -> None:
    text = browser.get(page).text
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), sorted({each for each in ids if ids.count(each) > 1})
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    for kind in ("aria-labelledby", "aria-describedby", "for", "list"):
        for value in re.findall(rf'\s{kind}="([^"]+)"', text):
            assert set(value.split()) <= set(ids), (kind, value)


@pytest.mark.parametrize("page", [*PAGES, *BARE])
def test_page_is_small(browser: TestClient, page: str) -> None:
    assert len(gzip.compress(browser.get(page).content)) <= 60_000


@pytest.mark.parametrize("slug", load_methods())
def test_equation_has_no_command_left(slug: str) -> None:
    shown = mathml(load_methods()[slug].mechanism.equation)
    assert shown.startswith('<div class="line"><math')
    assert "\\" not in shown
    assert not re.search(r"<mi>[A-Za-z]{2,}</mi>\s*<mi>[A-Za-z]{2,}</mi>", shown)


@pytest.mark.parametrize("slug", load_methods())
def test_every_method_has_its_sections_in_order(browser: TestClient, slug: str) -> None:
    text = browser.get(f"/methods/{slug}").text
    sections = re.findall(r'<h2 id="(\w+)"', text)
    assert sections == [
        "equation", "where", "counts", "costs", "advice", "knobs", "predicted", "evidence", "relatives", "code", "cite",
        "doubts",
    ]  # fmt: skip
    assert "None<" not in text
    assert "Undefined" not in text
    data = json.loads(browser.get(f"/methods/{slug}.json").text)
    assert data["method"] == load_methods()[slug].model_dump(mode="json")
    assert 'class="acts' in text


def test_what_is_not_known_is_said(browser: TestClient) -> None:
    unknown = next(
        slug for slug, method in load_methods().items() if method.efficiency.many_adapters_in_one_batch.value is None
    )
    assert "not known" in browser.get(f"/methods/{unknown}").text
    assert "not measured" in browser.get(f"/methods/{unknown}").text


def test_counts_follow_the_chosen_model(client: TestClient) -> None:
    for model in ("t5-large", "llama-3.1-8b"):
        data = client.get(f"/methods/lora.json?model={model}").json()
        expected = estimate("lora", Constraints(model=model))
        assert data["estimate"]["counts"] == expected.counts.model_dump(mode="json")


def test_a_model_that_the_method_cannot_serve_is_said_and_no_error(client: TestClient) -> None:
    response = client.get("/methods/bitfit.json?model=llama-3.1-8b")
    assert response.status_code == 200
    data = response.json()
    assert data["estimate_problem"] or data["estimate"]["warnings"]


def test_former_names_redirect(client: TestClient) -> None:
    taxonomy = build()
    alias, slug = next(
        (alias, slug)
        for slug, method in taxonomy.methods.items()
        for alias in method.aliases
        if alias.isalnum() and alias not in taxonomy.methods and taxonomy.method(alias).slug == slug
    )
    for path in ("/methods/{}", "/methods/{}.json", "/api/v1/methods/{}", "/methods/{}?model=t5-large"):
        response = client.get(path.format(alias))
        assert response.status_code == 301
        assert response.headers["location"] == path.format(slug)


def test_source_is_shown_only_where_there_is_one(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = browser.get("/methods/lora/source").text
    assert "reference_impls/lora.py" in text
    assert 'class="k"' in text or 'class="kn"' in text
    monkeypatch.setattr("web.views.method.IMPLEMENTATIONS", tmp_path)
    with pytest.raises(ProblemError) as missing:
        source_page("lora")
    assert missing.value.problem.status == 404


def test_recommendation_is_the_python_answer(client: TestClient) -> None:
    answer = recommend(Constraints(gpu_mem="24GB", params="7B"))
    assert client.get("/recommend?gpu_mem=24GB&params=7B").json() == answer.model_dump(mode="json")


def test_front_page_shows_an_answer_that_the_recommender_gives(browser: TestClient) -> None:
    page, shown = browser.get("/").text, browser.get("/index.json").json()["example"]
    answer = browser.get(shown["href"].replace("/recommend", "/recommend.json")).json()
    first = answer["ranked"][0]
    assert (shown["slug"], shown["plan"]) == (first["slug"], first["plan"])
    assert (shown["device_bytes"], shown["headroom_bytes"]) == (
        first["memory"]["device_bytes"],
        first["headroom_bytes"],
    )
    assert (shown["fitting"], len(shown["next"])) == (answer["total_ranked"], 2)
    section = page[page.index('aria-labelledby="example"') : page.index("</section>")]
    assert f'href="{shown["href"].replace("&", "&amp;")}"' in section
    for value in (shown["device_bytes"], shown["headroom_bytes"], shown["card"]["usable_bytes"]):
        assert show_bytes(value) in section


def test_recommendation_page_shows_what_the_answer_holds(browser: TestClient) -> None:
    query = "?gpu=rtx-4090&model=llama-3.1-8b&limit=5"
    answer, text = browser.get(f"/recommend.json{query}").json(), browser.get(f"/recommend{query}").text
    assert 'value="rtx-4090"' in text
    for ranked in answer["ranked"]:
        card = text[text.index(f'id="{ranked["slug"]}"') :]
        assert ranked["name"] in card
        assert f'<span class="verdict {ranked["verdict"]}">{ranked["verdict"]}</span>' in card
        assert card.count('<rect class="p') >= 8
    for slug in answer["pareto"]:
        assert f'href="/methods/{slug}"' in text
    for excluded in answer["excluded"]:
        assert f'href="/methods/{excluded["slug"]}"' in text
    read = unescape(re.sub(r"<span>: .*?</span>|<[^>]+>", "", text))  # as a reader sees it, definitions out of sight
    for each in (*answer["assumptions"], *answer["warnings"]):
        assert each in read
    assert '<svg class="plot roomy"' in text


def test_when_nothing_fits_the_page_says_what_would(browser: TestClient) -> None:
    query = "?gpu_mem=24GB&params=70B&quantization=none"
    answer = browser.get(f"/recommend.json{query}").json()
    assert answer["ranked"] == []
    text = browser.get(f"/recommend{query}").text
    assert "Change one thing" in text
    assert '<svg class="plot roomy"' not in text


def test_memory_bar_adds_up_to_the_device(browser: TestClient) -> None:
    from web.views.recommend import bar

    for ranked in recommend(Constraints(gpu="rtx-4090", model="llama-3.1-8b")).ranked:
        shown = bar(ranked.memory, 24 * 2**30)
        assert sum(segment.value for segment in shown.segments) == ranked.memory.device_bytes
        assert all(segment.x >= 0 and segment.x + segment.width <= 100 for segment in shown.segments)
        assert shown.low < shown.high <= 100
        assert shown.card is not None
        assert shown.card <= 100


def test_a_model_that_does_not_exist_is_said_beside_the_counts(browser: TestClient) -> None:
    response = browser.get("/methods/lora?model=t5-larg")
    assert response.status_code == 422
    assert "did you mean t5-large" in response.text
    assert '<h2 id="evidence">' in response.text


def test_a_long_equation_is_folded_before_its_signs_and_a_short_one_is_whole() -> None:
    folded = mathml(r"a = f\left( b + c \right) + g(d + e) + h + i + j + k + l + m + n + o + p")
    assert [piece[:60].count("<mo") for piece in folded.split("<wbr>")] == [0, *[1] * 11]
    assert folded.count('form="infix"') == 11
    assert "<wbr>" not in mathml("y = x + b")

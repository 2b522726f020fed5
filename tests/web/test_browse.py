"""Lists, filters, comparison and search."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from kb.catalogue import load_gpus, load_models
from kb.records import load_methods
from taxonomy import build
from web.search import find


def test_every_count_of_a_facet_is_what_its_link_gives(client: TestClient) -> None:
    for query in ("", "?class=reparameterization", "?mergeable=yes&library=peft", "?q=adapter"):
        page = client.get(f"/methods.json{query}").json()
        for facet in page["facets"]:
            for choice in facet["choices"]:
                if not choice["chosen"] and facet["name"] in ("class", "mergeable", "status"):
                    found = client.get(choice["href"].replace("/methods", "/methods.json", 1)).json()
                    assert found["total"] == choice["count"], choice["href"]


def test_chips_take_one_filter_away(client: TestClient) -> None:
    page = client.get("/methods.json?class=selective&mergeable=yes&sort=newest").json()
    assert [chip["label"] for chip in page["chips"]] == ["Class: Selective", "Mergeable: yes"]
    for chip in page["chips"]:
        found = client.get(chip["without"].replace("/methods", "/methods.json", 1)).json()
        assert found["total"] == chip["found_without"]
        assert len(found["chips"]) == 1
        assert found["sort"] == "newest"


def test_an_empty_list_says_which_filter_to_drop(browser: TestClient) -> None:
    query = "?class=additive.soft_prompt&mergeable=yes&status=baseline"
    assert browser.get(f"/methods.json{query}").json()["total"] == 0
    text = browser.get(f"/methods{query}").text
    assert "Why is this empty?" in text
    part = text[text.index("Why is this empty?") :]
    for chip in browser.get(f"/methods.json{query}").json()["chips"]:
        assert f'<a href="{chip["without"].replace("&", "&amp;")}">without {chip["label"]}</a>' in part


def test_list_without_filter_holds_every_record(client: TestClient) -> None:
    page = client.get("/methods.json").json()
    assert {item["slug"] for item in page["items"]} == set(load_methods())
    assert page["total"] == page["of"] == len(load_methods())
    assert {"schema_version", "data_version", "total", "items", "links"} <= set(page)


def test_class_filter_agrees_with_the_taxonomy(client: TestClient) -> None:
    for class_id in build().classes:
        found = client.get(f"/methods.json?class={class_id}").json()
        assert {item["slug"] for item in found["items"]} == set(build().members(class_id))


@pytest.mark.parametrize("sort", ["name", "newest", "oldest", "class"])
def test_orders(client: TestClient, sort: str) -> None:
    items = client.get(f"/methods.json?sort={sort}").json()["items"]
    years = [item["year"] for item in items]
    expected = {
        "name": sorted(items, key=lambda item: item["name"].casefold()) == items,
        "newest": years == sorted(years, reverse=True),
        "oldest": years == sorted(years),
        "class": [item["classes"][0]["base"] for item in items] == sorted(item["classes"][0]["base"] for item in items),
    }
    assert expected[sort]


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        ("lora", "lora"),
        ("LoRA+", "lora_plus"),
        ("dorra", "dora"),
        ("prefx tunning", "prefix_tuning"),
        ("compactr", "compacter"),
        ("weight decomposed", "dora"),
        ("(IA)³", "ia3"),
        ("ia3", "ia3"),
        ("2106.09685", "lora"),
        ("Houlsby", "houlsby_adapter"),
        ("parameter-efficient transfer learning with diff pruning", "diff_pruning"),
        ("walsh hadamard", "intrinsic_said"),
        ("zero-gated attention", "llama_adapter"),
    ],
)
def test_search_forgives(words: str, slug: str) -> None:
    assert find(words)[0].slug == slug


@pytest.mark.parametrize(
    ("words", "group", "href"),
    [
        ("lama 3.1 8b", "models", "/models?q=llama-3.1-8b"),
        ("HuggingFaceTB/SmolLM2-135M", "models", "/models?q=smollm2-135m"),
        ("rtx 4090", "cards", "/gpus?q=GeForce+RTX+4090"),
        ("h100", "cards", "/gpus?q=H100"),
        ("LLM-Adaptors", "studies", "/evidence/llm_adapters_2023"),
        ("gradient chekpointing", "terms", "/glossary#checkpointing"),
    ],
)
def test_search_finds_models_cards_and_words(client: TestClient, words: str, group: str, href: str) -> None:
    found = client.get("/search.json", params={"q": words}).json()[group]
    assert found[0]["href"].startswith(href)
    assert client.get(found[0]["href"].partition("#")[0]).status_code == 200


def test_a_name_comes_before_a_description(client: TestClient) -> None:
    kinds = [each["kind"] for each in client.get("/search.json?q=prefix").json()["items"]]
    assert kinds == sorted(kinds, key=lambda kind: kind == "description")
    assert kinds[-1] == "description"


@pytest.mark.parametrize("words", ["", "   ", "zzzzqq", "!!!"])
def test_search_finds_nothing_where_there_is_nothing(client: TestClient, words: str) -> None:
    assert client.get("/search.json", params={"q": words}).json()["items"] == []


def test_search_finds_every_method_by_its_name() -> None:
    for slug, method in load_methods().items():
        assert find(method.name)[0].slug == slug or slug in {match.slug for match in find(method.name)[:3]}


def test_search_box_is_on_every_page(browser: TestClient) -> None:
    for path in ("/", "/methods/lora", "/nowhere", "/recommend?gpu_mem=24"):
        assert '<form class="search" action="/search" role="search">' in browser.get(path).text


def _resolved(page: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    """A line of a comparison with its sources in the place of their numbers."""
    return line | {"cited": [None if number is None else page["sources"][number - 1] for number in line["cited"]]}


def test_only_differences_hides_what_is_equal(client: TestClient) -> None:
    every = client.get("/compare.json?m=lora&m=dora").json()
    different = client.get("/compare.json?m=lora&m=dora&only=differences").json()
    kept, fewer = ([_resolved(page, line) for line in page["lines"] if line["differs"]] for page in (every, different))
    assert kept == fewer
    assert len(different["lines"]) == len(fewer)
    assert {number for line in different["lines"] for number in line["cited"] if number} == {
        *range(1, len(different["sources"]) + 1)
    }
    assert different["hidden"] == len(every["lines"]) - len(different["lines"]) > 0
    for line in every["lines"]:
        assert line["differs"] == (len({repr(value) for value in line["values"]}) > 1)


def test_comparison_takes_former_names_and_repeats(client: TestClient) -> None:
    page = client.get("/compare.json?m=LoRA&m=dora&m=lora").json()
    assert [method["slug"] for method in page["methods"]] == ["lora", "dora"]


def test_comparison_names_what_is_common(client: TestClient) -> None:
    page = client.get("/compare.json?m=pissa&m=dora").json()
    common = build().common("pissa", "dora")
    assert [tag["id"] for tag in page["common_classes"]] == list(common.classes)
    assert page["common_methods"] == list(common.methods)


def test_catalogue_lists_hold_everything(client: TestClient) -> None:
    models, gpus = client.get("/models.json").json(), client.get("/gpus.json").json()
    assert {item["id"] for item in models["items"]} == set(load_models())
    assert {item["card"]["id"] for item in gpus["items"]} == set(load_gpus())
    for item in models["items"]:
        assert item["parameters"] == load_models()[item["id"]].parameters.computed


def test_catalogue_filters(client: TestClient) -> None:
    named = client.get("/models.json?q=Qwen/Qwen2.5-Coder-7B-Instruct").json()["items"]
    assert [each["id"] for each in named] == ["qwen2.5-7b"]
    models = client.get("/models.json?q=llama 3.1&sort=size").json()["items"]
    assert [item["id"] for item in models] == ["llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"]
    assert {item["card"]["vendor"] for item in client.get("/gpus.json?vendor=AMD").json()["items"]} == {"AMD"}
    sizes = [item["usable_bytes"] for item in client.get("/gpus.json?sort=memory").json()["items"]]
    assert sizes == sorted(sizes, reverse=True)


def test_taxonomy_page_holds_every_method(browser: TestClient) -> None:
    for scheme in ("survey", "decomposition", "critical_review", "library"):
        text = browser.get(f"/taxonomy?scheme={scheme}").text
        part = text[: text.index('id="lineage"')]
        for slug in load_methods():
            assert f'href="/methods/{slug}"' in part, (scheme, slug)


@pytest.mark.parametrize("address", ["/methods/lora?", "/compare?m=lora&m=dora&"])
def test_a_page_that_takes_a_model_alone_offers_models_and_no_size(client: TestClient, address: str) -> None:
    problem = client.get(f"{address}model=Qwen/Qwen3.5-9B", headers={"accept": "application/json"}).json()
    assert problem["errors"][0]["near"][0] == "qwen3-8b"
    assert problem["detail"].endswith("?")
    known = client.get(f"{address}model=Qwen/Qwen2.5-7B-Instruct")
    assert known.status_code == 200

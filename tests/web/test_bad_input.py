"""Bad input gets a clear answer of the 400s: what was wrong, where, and what was meant."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

BAD_QUERIES = {
    "no unit": ("gpu_mem=24&params=7B", "gpu_mem", "write 24GB"),
    "comma": ("gpu_mem=24,5GB&params=7B", "gpu_mem", "24.5GB"),
    "misspelt name": ("gpu_men=24GB&params=7B", "gpu_men", "did you mean gpu_mem"),
    "no parameters at all": ("gpu_mem=24GB&params=0B", "params", "between 1M and 2T"),
    "twice": ("gpu_mem=24GB&params=7B&params=8B", "params", "more than once"),
    "twice the same": ("gpu_mem=24GB&gpu_mem=24GB&params=7B", "gpu_mem", "more than once"),
    "unknown model": ("gpu_mem=24GB&model=lama-3.1-8b", "model", "did you mean llama-3.1-8b"),
    "unknown card": ("gpu=rtx-4091&params=7B", "gpu", "rtx-4090"),
    "no model": ("gpu_mem=24GB", "params", "say which model"),
    "no memory": ("params=7B", "gpu_mem", "say how much memory"),
    "two models": ("gpu_mem=24GB&params=7B&model=llama-3.1-8b", "params", "both describe the model"),
    "no number": ("gpu_mem=24GB&params=7B&seq=long", "seq", "whole number"),
    "too small": ("gpu_mem=24GB&params=7B&seq=1", "seq", "at least 16"),
    "too large": ("gpu_mem=24GB&params=7B&batch=5000", "batch", "at most 4096"),
    "no such word": ("gpu_mem=24GB&params=7B&quantization=8bits", "quantization", "8bit"),
    "unknown library": ("gpu_mem=24GB&params=7B&library=pefd", "library", "did you mean peft"),
    "unknown class": ("gpu_mem=24GB&params=7B&family=additiv", "family", "additive"),
    "a body's field": ("gpu_mem=24GB&config=x", "config", "no parameter"),
    "digits of another script": ("gpu_mem=٢٤GB&params=7B", "gpu_mem", "not a memory size"),
    "long text": (f"gpu_mem=24GB&params={'7' * 200}B", "params", "longer than 40"),
}


@pytest.mark.parametrize(("query", "parameter", "said"), BAD_QUERIES.values(), ids=BAD_QUERIES)
@pytest.mark.parametrize("path", ["/recommend", "/recommend.json", "/api/v1/recommend"])
def test_recommend_names_the_parameter_and_the_repair(
    client: TestClient, path: str, query: str, parameter: str, said: str
) -> None:
    response = client.get(f"{path}?{query}")
    problem = response.json()
    assert response.status_code == problem["status"] == 422
    assert response.headers["content-type"] == "application/problem+json"
    errors = {error["parameter"]: error for error in problem["errors"]}
    assert said in errors[parameter]["message"]
    assert set(problem) == {"type", "title", "status", "detail", "errors"}
    assert said in problem["detail"]


@pytest.mark.parametrize(("query", "parameter", "said"), BAD_QUERIES.values(), ids=BAD_QUERIES)
def test_the_form_comes_back_with_values_and_message(
    browser: TestClient, query: str, parameter: str, said: str
) -> None:
    response = browser.get(f"/recommend?{query}")
    assert response.status_code == 422
    assert '<form class="ask" action="/recommend"' in response.text
    assert "Traceback" not in response.text
    assert f'<a href="#f-{parameter}">' in response.text or f"<code>{parameter}</code>" in response.text


def test_the_message_stands_beside_its_field(browser: TestClient) -> None:
    page = browser.get("/recommend?gpu_mem=24&params=7B").text
    field = page[page.index('id="f-gpu_mem"') : page.index('id="h-gpu_mem"')]
    assert 'value="24"' in field
    assert 'aria-invalid="true"' in field
    assert 'id="e-gpu_mem"' in field
    assert 'value="7B"' in page


def test_near_names_are_data(client: TestClient) -> None:
    problem = client.get("/recommend?gpu_men=24GB&params=7B").json()
    assert problem["errors"][0]["near"][0] == "gpu_mem"
    problem = client.get("/recommend?gpu_mem=24GB&model=lama-3.1-8b").json()
    assert problem["errors"][0]["near"][0] == "llama-3.1-8b"


def test_every_mistake_is_named_at_once(client: TestClient) -> None:
    problem = client.get("/recommend?gpu_men=24GB&params=0B&seq=1&seq=2&batch=x").json()
    assert {error["parameter"] for error in problem["errors"]} == {"gpu_men", "params", "seq", "batch", "gpu_mem"}


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("/methods.json?clas=additive", "clas"),
        ("/methods.json?class=additiv", "class"),
        ("/methods.json?class=additive&class=selective", "class"),
        ("/methods.json?library=pefd", "library"),
        ("/methods.json?year=soon", "year"),
        ("/methods/lora.json?modle=t5-large", "modle"),
        ("/methods/lora.json?model=t5-larg", "model"),
        ("/taxonomy.json?scheme=mine", "scheme"),
        ("/compare.json?m=lora", "m"),
        ("/compare.json?m=lora&m=loraa", "m"),
        ("/compare.json?m=lora&m=dora&only=same", "only"),
        (
            "/compare.json?"
            + "&".join(f"m={slug}" for slug in ["lora", "dora", "vera", "loha", "lokr", "oft", "boft"]),
            "m",
        ),
        ("/compare.json?" + "&".join("m=lora" for _ in range(30)), "m"),
        ("/models.json?sort=colour", "sort"),
        ("/gpus.json?vendor=nvidia", "vendor"),
        ("/search.json?query=lora", "query"),
        ("/about.json?x=1", "x"),
        ("/index.json?x=1", "x"),
        ("/api.json?x=1", "x"),
        ("/methods/lora/source.json?x=1", "x"),
        ("/methods/lora/evidence.json?x=1", "x"),
        ("/api/v1/classes?x=1", "x"),
        ("/api/v1/export.csv?x=1", "x"),
        ("/healthz?x=1", "x"),
        ("/estimate.json?params=7B", "method"),
        ("/estimate.json?method=loraa&params=7B", "method"),
        ("/estimate.json?method=lora", "params"),
        ("/estimate.json?method=lora&params=7B&gpu=rtx-4091", "gpu"),
    ],
)
def test_every_address_is_strict(client: TestClient, path: str, parameter: str) -> None:
    response = client.get(path)
    assert response.status_code == 422, response.text
    assert parameter in {error["parameter"] for error in response.json()["errors"]}


def test_unknown_methods_are_404_with_near_names(client: TestClient, browser: TestClient) -> None:
    problem = client.get("/methods/loraa.json").json()
    assert problem["status"] == 404
    assert "lora" in problem["errors"][0]["near"]
    page = browser.get("/methods/loraa")
    assert page.status_code == 404
    assert 'href="/methods/lora"' in page.text


@pytest.mark.parametrize(
    ("path", "offered"),
    [
        ("/recomend", ["/recommend"]),
        ("/card", ["/gpus"]),
        ("/lora", ["/methods/lora"]),
        ("/methods/loraa", ["/methods/lora"]),
        ("/evidence/llm_adapter", ["/evidence/llm_adapters_2023"]),
        ("/nothere", []),
        ("/x", []),
        ("/wp-admin.php", []),
    ],
)
def test_a_lost_reader_is_offered_the_nearest_pages_or_none(browser: TestClient, path: str, offered: list[str]) -> None:
    response = browser.get(path)
    assert response.status_code == 404
    links = re.findall(r'<a class="chip" href="([^"]+)"', response.text)
    assert links[: len(offered)] == offered
    assert bool(links) == bool(offered)
    assert all(browser.get(link).status_code == 200 for link in links)


def test_overlong_query_is_414(client: TestClient) -> None:
    response = client.get(f"/recommend?gpu_mem=24GB&params=7B&model={'x' * 10_000}")
    assert response.status_code == 414
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/recommend?gpu_mem=%ff", "/methods?q=%c3%28"])
def test_a_query_that_is_no_text_is_400(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 400


def test_plus_is_a_space(client: TestClient) -> None:
    answer = client.get("/recommend.json?gpu_mem=24+GB&params=7B").json()
    assert answer["card"]["usable_bytes"] == 24 * 10**9


BODIES: dict[str, tuple[Any, int, str]] = {
    "a list": ([], 422, "not a JSON object"),
    "no unit": ({"gpu_mem": 24, "params": "7B"}, 422, "write 24GB"),
    "misspelt": ({"gpu_men": "24GB", "params": "7B"}, 422, "did you mean gpu_mem"),
    "empty config": ({"gpu_mem": "24GB", "config": {}}, 422, "config"),
    "config without sizes": ({"gpu_mem": "24GB", "config": {"model_type": "llama"}}, 422, "config"),
    "config is text": ({"gpu_mem": "24GB", "config": "llama"}, 422, "not a JSON object"),
    "config with text for a size": (
        {"gpu_mem": "24GB", "config": {"model_type": "llama", "hidden_size": "wide"}},
        422,
        "hidden_size",
    ),
    "nothing": ({}, 422, "say which model"),
    "deep": (
        {"config": {"a": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}},
        422,
        "nested",
    ),
}


@pytest.mark.parametrize(("body", "status", "said"), BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("path", ["/api/v1/recommend", "/api/v1/estimate"])
def test_bad_bodies_are_explained(client: TestClient, path: str, body: Any, status: int, said: str) -> None:
    if path.endswith("estimate") and isinstance(body, dict):
        body = {"method": "lora", **body}
    response = client.post(path, json=body)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert said in response.json()["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"gpu_mem": ', "application/json", 400),
        (b'{"seq": NaN}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 50_000, "application/json", 400),
        (b'{"params": "7B", "params": "8B"}', "application/json", 422),
        (b'{"params": "7B"}', "text/plain", 415),
        (b"gpu_mem=24GB", "application/x-www-form-urlencoded", 415),
        (b'{"params": "' + b"7" * 70_000 + b'"}', "application/json", 413),
    ],
    ids=["cut off", "NaN", "no text", "only brackets", "twice", "plain text", "a form", "too large"],
)
def test_what_is_no_json_is_refused(client: TestClient, content: bytes, kind: str, status: int) -> None:
    response = client.post("/api/v1/recommend", content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert response.json()["status"] == status


def test_a_body_without_length_is_counted_as_it_comes(client: TestClient) -> None:
    def chunks() -> Any:
        yield b'{"params": "'
        for _ in range(100):
            yield b"7" * 1000

    response = client.post("/api/v1/recommend", content=chunks(), headers={"content-type": "application/json"})
    assert response.status_code == 413


@pytest.mark.parametrize("verb", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_405_and_say_which_are_taken(client: TestClient, verb: str) -> None:
    response = client.request(verb, "/methods")
    assert response.status_code == 405
    assert "GET" in response.headers["allow"]
    assert response.headers["content-type"] == "application/problem+json"


def test_hostile_text_is_shown_and_not_run(browser: TestClient) -> None:
    attack = '"><script>alert(1)</script>'
    for path in ("/search?q=", "/methods?q=", "/recommend?params=", "/recommend?", "/methods/", "/models?q="):
        page = browser.get(path + attack.replace("<", "%3C").replace(">", "%3E").replace('"', "%22")).text
        assert "<script>alert" not in page


@pytest.mark.parametrize("slug", ["..%2f..%2fetc%2fpasswd", "_surgery", "__init__", "..", "lora%00", "%2e%2e"])
def test_source_is_given_for_records_only(client: TestClient, slug: str) -> None:
    assert client.get(f"/methods/{slug}/source.json").status_code == 404


def test_errors_of_ours_give_no_trace(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(given: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("web.views.recommend.recommend", broken)
    client = TestClient(app, raise_server_exceptions=False)
    for accept in ("application/json", "text/html"):
        response = client.get("/recommend?gpu_mem=23.5GB&params=7B", headers={"accept": accept})  # never asked before
        assert response.status_code == 500
        assert "secret" not in response.text
        assert "content-security-policy" in response.headers
    assert json.loads(client.get("/recommend.json?gpu_mem=23.5GB&params=7B").text)["status"] == 500


SIZES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)
KEYS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "head_dim",
    "max_position_embeddings",
    "tie_word_embeddings",
    "num_local_experts",
    "num_experts_per_tok",
    "text_config",
    "d_model",
    "layer_types",
)
CONFIGS = st.builds(
    lambda kind, sizes: {"model_type": kind, **sizes},
    st.sampled_from(
        ["llama", "bert", "t5", "gpt2", "qwen3_moe", "vit", "whisper", "mamba", "no such model", "", None, 3]
    ),
    st.dictionaries(st.sampled_from(KEYS), st.one_of(st.integers(1, 8192), SIZES), max_size=len(KEYS)),
)


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=CONFIGS)
def test_any_configuration_gets_an_answer_or_a_reason(client: TestClient, config: dict[str, Any]) -> None:
    response = client.post("/api/v1/estimate", json={"method": "lora", "config": config})
    assert response.status_code in (200, 422), response.text
    if response.status_code == 422:
        assert {error["parameter"] for error in response.json()["errors"]} == {"config"}


@pytest.mark.parametrize("path", ["/methods/", "/recommend/?gpu_mem=24GB&params=7B", "/api/v1/models/"])
def test_a_trailing_slash_is_forgiven(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 307
    assert response.headers["location"].endswith(path.replace("/?", "?").rstrip("/"))


def test_a_trailing_slash_leads_to_no_other_host(client: TestClient) -> None:
    assert client.get("http://testserver//example.org/").status_code == 404

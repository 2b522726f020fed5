"""The estimate over HTTP: every knob by its name, what would make it fit, and where the memory of a method goes."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from starlette.testclient import TestClient

from kb.catalogue import load_models
from kb.timeline import Timeline
from recommender.units import show_bytes
from web.views.form import ESTIMATE_MAIN, ESTIMATE_MORE
from web.views.recommend import QUERY_FIELDS
from web.views.timeline import course
from web.views.wording import ESTIMATE

ASKED = (
    "method=lora&model=llama-3.2-3b&batch=4&seq=768&rank=32&targets=q_proj,v_proj&implementation=peft"
    "&quantization=none&checkpointing=false"
)
PUBLISHED = 20.76 * 2**30  # reserved maximum that Hugging Face measured for this run


def _get(client: TestClient, query: str, path: str = "/estimate") -> Any:
    response = client.get(f"{path}?{query}")
    assert response.status_code == 200, response.text
    return response.json()


def test_the_published_run_is_predicted(client: TestClient) -> None:
    peak = _get(client, ASKED)["peak"]
    assert abs(peak["reserved_bytes"] / PUBLISHED - 1) <= 0.03
    assert peak["low"]["reserved_bytes"] < PUBLISHED < peak["high"]["reserved_bytes"]


def test_every_way_of_asking_gives_the_same(client: TestClient) -> None:
    answer = _get(client, ASKED)
    assert _get(client, ASKED, "/api/v1/estimate") == answer
    body: dict[str, Any] = dict(parse_qsl(ASKED)) | {"batch": 4, "seq": 768, "rank": 32, "checkpointing": False}
    assert client.post("/api/v1/estimate", json=body).json() == answer
    del body["model"]
    own = client.post("/api/v1/estimate", json=body | {"config": load_models()["llama-3.2-3b"].config}).json()
    assert own["peak"] == answer["peak"]


@pytest.mark.parametrize(("word", "meaning"), [("true", "on"), ("false", "off")])
@pytest.mark.parametrize("switch", ["checkpointing", "autocast"])
def test_switches_are_also_true_or_false(client: TestClient, switch: str, word: str, meaning: str) -> None:
    query = f"method=lora&model=llama-3.2-3b&{switch}="
    assert _get(client, query + word) == _get(client, query + meaning)
    page = client.get(f"/estimate?{query}{word}", headers={"accept": "text/html"}).text
    assert f'<option value="{meaning}" selected>' in page


def test_scripts_that_take_more_than_predicted_are_warned_of(client: TestClient) -> None:
    query = "method=lora&model=t5-base&seq=512&implementation=peft&checkpointing=on&quantization=none"
    plain, cast = _get(client, query), _get(client, f"{query}&autocast=on")
    assert cast["peak"]["device_bytes"] > 1.02 * plain["peak"]["device_bytes"]
    (warning,) = (said for said in plain["warnings"] if "autocast" in said)
    assert show_bytes(cast["peak"]["device_bytes"]) in warning
    assert not any("autocast" in said for said in cast["warnings"])


@pytest.mark.parametrize(
    ("knob", "lower"),
    [
        ("rank=64", False),
        ("quantization=4bit", True),
        ("checkpointing=true", True),
        ("autocast=on", True),
        ("optimizer=adamw_8bit", True),
        ("head_chunks=8", True),
        ("seq=384", True),
        ("batch=2", True),
        ("implementation=ours", True),
    ],
)
def test_every_knob_moves_the_peak(client: TestClient, knob: str, lower: bool) -> None:
    name = knob.partition("=")[0]
    kept = "&".join(each for each in ASKED.split("&") if not each.startswith(f"{name}="))
    before, after = _get(client, ASKED)["peak"], _get(client, f"{kept}&{knob}")["peak"]
    assert (after["allocated_bytes"] < before["allocated_bytes"]) is lower


def test_the_form_has_every_knob_of_an_estimate(browser: TestClient) -> None:
    about_ranking = {"task", "merge", "adapters", "backprop", "library", "family", "objective", "limit", "detail"}
    about_ranking |= {"budget", "forgetting", "latency", "why"}
    assert {*ESTIMATE_MAIN, *ESTIMATE_MORE} == {"method", *QUERY_FIELDS} - about_ranking
    assert {*ESTIMATE} >= {"method", *QUERY_FIELDS} - {"detail"}
    text = browser.get(f"/estimate?{ASKED}").text
    for name, value in parse_qsl(ASKED):
        if name not in ("quantization", "checkpointing", "implementation"):
            assert re.search(rf'name="{name}" value="{value}"', text), name


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("rank=0", "at least 1"),
        ("rank=x", "not a whole number"),
        ("targets=q_prj", "did you mean q_proj"),
        ("implementation=hf", "none of any, ours, peft"),
        ("epochs=0", "more than 0"),
        ("epochs=few", "not a number"),
        ("head_chunks=0", "at least 1"),
        ("checkpointing=maybe", "none of any, on, off"),
    ],
)
def test_a_mistake_stands_beside_its_field(browser: TestClient, wrong: str, says: str) -> None:
    response = browser.get(f"/estimate?method=lora&model=gpt2&{wrong}")
    assert response.status_code == 422
    name = wrong.partition("=")[0]
    beside = re.search(rf'<p class="error" id="e-{name}">(.*?)</p>', response.text, re.S)
    assert beside is not None
    assert says in beside[1]


def test_the_page_says_what_where_when_and_how(client: TestClient, browser: TestClient) -> None:
    query = f"{ASKED}&gpu=rtx-4090&data=10000&epochs=3"
    answer, text = _get(client, query), browser.get(f"/estimate?{query}").text
    for end in (answer["peak"], answer["peak"]["low"], answer["peak"]["high"]):
        for name in ("allocated_bytes", "reserved_bytes", "device_bytes"):
            assert show_bytes(end[name]) in text
    assert answer["peak"]["moment"] in text
    assert "Basis: closed form" in text
    assert answer["formula"]
    for line in answer["formula"]:
        assert f"<li>{line}</li>" in text
    assert 'class="limit"' in text, "the card's line"
    assert "Whole run" in text


def test_what_would_make_it_fit_can_be_applied(client: TestClient, browser: TestClient) -> None:
    query = f"{ASKED}&gpu_mem=8GB"
    answer, text = _get(client, query), browser.get(f"/estimate?{query}").text
    assert answer["fits"] == "too_large"
    assert "What would make it fit" in text
    rows = re.findall(r'<tr><th scope="row">([^<]+)</th>(.*?)</tr>', text, re.S)
    singles = [change for change in answer["changes"] if change["device_bytes"] is not None]
    assert {name for name, _ in rows} >= {change["text"].partition(":")[0] for change in singles}
    assert any(change["fits"] for change in singles)
    links = [link.replace("&amp;", "&") for link in re.findall(r'<a href="(/estimate\?[^"]+)">Apply<', text)]
    assert len(links) == len(singles)
    for link, change in zip(links, singles, strict=True):
        assert dict(parse_qsl(urlsplit(link).query)).items() >= change["query"].items()
        if change["fits"]:
            assert _get(client, urlsplit(link).query)["fits"] == "fits", link


# The page of a method


def test_a_method_says_where_its_memory_goes_in_both_implementations(client: TestClient, browser: TestClient) -> None:
    places = client.get("/methods/lora.json").json()["memory"]
    assert [each["implementation"] for each in places] == ["ours", "peft"]
    assert [each["estimate"]["plan"]["implementation"] for each in places] == ["ours", "peft"]
    text = browser.get("/methods/lora").text
    section = text[text.index('id="predicted"') : text.index('id="evidence"')]
    assert "activations, per token and block:" in section
    for each in places:
        assert show_bytes(each["estimate"]["peak"]["device_bytes"]) in section
    widths = [sum(part["width"] for part in each["bar"]["segments"]) for each in places]
    sizes = [each["estimate"]["peak"]["device_bytes"] for each in places]
    assert abs(widths[0] / widths[1] - sizes[0] / sizes[1]) < 0.001, "both bars have one scale"
    assert 'href="/estimate?method=lora&amp;model=' in section


def test_the_course_of_a_step_is_drawn_with_its_table(client: TestClient, browser: TestClient) -> None:
    drawn = client.get("/methods/lora.json").json()["course"]
    text = browser.get("/methods/lora").text
    assert drawn["title"] in text
    for phase in drawn["phases"]:
        assert f'<th scope="row">{phase["name"]}</th>' in text
        assert sum(phase["parts"].values()) == phase["bytes_at_most"]
    assert max(phase["bytes_at_most"] for phase in drawn["phases"]) == drawn["peak_bytes"]


def _made(**mebibytes: tuple[int, ...]) -> Timeline:
    return Timeline(
        made_by="a test",
        fingerprint="",
        slug="lora",
        implementation="ours",
        model="gpt2",
        settings="4 tokens",
        phases=(("forward", 0), ("backward", 2)),
        mebibytes=mebibytes,
        peak=2,
    )


def test_a_drawing_stacks_the_parts_and_leaves_out_empty_ones() -> None:
    drawn = course(_made(weights=(100, 100, 100, 100), logits=(0, 0, 0, 0), activations=(0, 50, 100, 0)), "a step")
    assert [(area.part, area.number) for area in drawn.areas] == [("activations", 3), ("weights", 1)]
    assert (drawn.unit, drawn.peak_bytes) == ("MiB", 200 * 2**20)
    assert [phase.bytes_at_most for phase in drawn.phases] == [150 * 2**20, 200 * 2**20]
    assert drawn.y_ticks[-1].label == "200"
    top = drawn.y_ticks[-1].at
    assert drawn.peak_y == top
    assert drawn.peak_x == pytest.approx(100 * 2 / 3, abs=0.1)
    assert f"{drawn.steps * 2 / 3:.1f} {top:.1f}" in drawn.areas[0].path
    assert f"{(drawn.height + top) / 2:.1f}" in drawn.areas[1].path
    assert [phase.fits for phase in drawn.phases] == ["always", "always"]


def test_a_timeline_with_uneven_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="the same samples"):
        _made(weights=(1, 1, 1), logits=(1, 1))

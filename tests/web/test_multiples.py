"""A comparison draws what the estimates and the evidence say, on scales that all its methods share."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from recommender import Constraints, estimate
from recommender.quality import quality
from web.views.multiples import BATCH, Subject, multiples

SUBJECTS = [Subject(slug, slug.upper(), "c-additive") for slug in ("lora", "dora", "prompt_tuning")]


def test_drawings_hold_the_estimates_of_one_model() -> None:
    drawn = multiples(SUBJECTS, "llama-3.1-8b")
    panels = {panel.key: panel for panel in drawn.panels}
    assert list(panels) == ["memory", "time", "quality"]
    wanted = Constraints(model="llama-3.1-8b", batch=BATCH, quantization="none", checkpointing="off")
    for line in panels["memory"].lines:
        expected = estimate(line.slug, wanted).peak.device_bytes / 2**30
        assert line.text.startswith(f"{expected:.1f} GiB")
    for line in panels["quality"].lines:
        assert f"{abs(quality(line.slug).estimate):.2f}" in line.text


def test_longer_bars_mean_more() -> None:
    memory = multiples(SUBJECTS, "llama-3.1-8b").panels[0]
    wanted = Constraints(model="llama-3.1-8b", batch=BATCH, quantization="none", checkpointing="off")
    by_bytes = sorted(memory.lines, key=lambda line: estimate(line.slug, wanted).peak.device_bytes)
    lengths = [line.x - memory.zero for line in by_bytes]
    assert lengths == sorted(lengths)
    assert lengths[0] > 0
    for line in memory.lines:
        assert memory.zero <= line.low <= line.x <= line.high <= memory.width


def test_what_cannot_be_computed_is_said() -> None:
    drawn = multiples([SUBJECTS[0], Subject("loftq", "LoftQ", "c-additive")], "llama-3.1-8b")
    memory = drawn.panels[0]
    assert [line.text == "not known" for line in memory.lines] == [False, True]
    assert drawn.missing[0].startswith("LoftQ ")


def test_page_draws_for_the_chosen_model_and_keeps_it(browser: TestClient) -> None:
    data = browser.get("/compare.json?m=lora&m=houlsby_adapter&m=bitfit&model=t5-large").json()
    assert data["model"] == "t5-large"
    assert "T5" in data["multiples"]["settings"]
    assert "model=t5-large" in data["toggle"]
    assert all("model=t5-large" in method["without"] for method in data["methods"])
    text = browser.get("/compare?m=lora&m=houlsby_adapter&m=bitfit&model=t5-large").text
    assert text.count('<figure class="multiple">') == len(data["multiples"]["panels"])
    for panel in data["multiples"]["panels"]:
        for line in panel["lines"]:
            assert f'<td class="num">{line["text"]}</td>' in text


def test_a_model_is_chosen_that_all_methods_apply_to(client: TestClient) -> None:
    assert client.get("/compare.json?m=lora&m=dora").json()["model"] == "llama-3.1-8b"
    shared = client.get("/compare.json?m=cross_attention_tuning&m=lora").json()["model"]
    assert shared == "t5-large"


@pytest.mark.parametrize("path", ["/compare", "/compare.json"])
def test_an_unknown_model_is_answered_with_near_names(browser: TestClient, path: str) -> None:
    response = browser.get(f"{path}?m=lora&m=dora&model=t5-larg")
    assert response.status_code == 422
    assert "did you mean t5-large" in response.text


def test_papers_of_a_comparison_are_one_click_away(browser: TestClient) -> None:
    link = browser.get("/compare.json?m=lora&m=dora").json()["links"]["bibtex"]
    assert link.replace("&", "&amp;") in browser.get("/compare?m=lora&m=dora").text
    entries = browser.get(link).text
    assert "LoRA: Low-Rank Adaptation" in entries
    assert "DoRA" in entries

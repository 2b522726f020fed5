"""With JavaScript off everything that the site is for still works."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

pytestmark = pytest.mark.browser

OFF = {"java_script_enabled": False}


def _query(path: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(path).query)


def test_form_of_the_front_page_leads_to_a_ranked_answer(visit):
    seen = visit("/", **OFF)
    seen.page.get_by_label("Memory of one card", exact=True).fill("24GB")
    seen.page.get_by_label("Model size", exact=True).fill("7B")
    with seen.page.expect_navigation():  # to its end: a slow machine shows the head of a page first
        seen.page.get_by_role("button", name="Recommend").click()
    assert urlsplit(seen.path).path == "/recommend"
    asked = _query(seen.path)
    assert asked["gpu_mem"] == ["24GB"]
    assert asked["params"] == ["7B"]
    cards = seen.page.locator("ol.ranked > li")
    assert cards.count() >= 3
    assert seen.page.locator("h1").count() == 1
    memory = [cards.nth(place).text_content() for place in range(cards.count())]
    assert all("GiB" in text or "MiB" in text for text in memory)
    assert cards.first.locator(".verdict").inner_text().strip()


def test_preset_leads_to_a_ranked_answer(visit):
    seen = visit("/recommend", **OFF)
    with seen.page.expect_navigation():
        seen.page.locator("main a[href^='/recommend?']").first.click()
    assert seen.page.locator("ol.ranked > li").count() >= 3


def test_link_of_the_short_table_leads_to_its_card(visit):
    seen = visit("/recommend?gpu_mem=24GB&params=7B", **OFF)
    link = seen.page.locator("table.list tbody th a[href^='#']").first
    target = (link.get_attribute("href") or "")[1:]
    link.click()
    assert seen.page.url.endswith(f"#{target}")
    assert seen.page.locator(f"[id='{target}']").count() == 1


def test_facets_narrow_and_chips_widen(visit):
    seen = visit("/methods", **OFF)
    rows = seen.page.locator("table.list tbody tr")
    everything = rows.count()
    link = seen.page.locator(".facet[open] a").first
    promised = int(link.locator("xpath=following-sibling::*[1]").inner_text())
    link.click()
    assert rows.count() == promised < everything
    seen.page.locator("a.chip.on").first.click()
    assert rows.count() == everything


def test_emptiness_is_explained_and_can_be_undone(visit):
    seen = visit("/methods?class=additive&q=zzzzqqqq", **OFF)
    assert seen.page.locator("table.list tbody tr").count() == 0
    assert seen.page.get_by_text("Why is this empty?").count() == 1
    way_out = seen.page.locator(".notice li", has_text="zzzzqqqq")
    promised = int(way_out.inner_text().rpartition(":")[2])
    way_out.locator("a").click()
    assert seen.page.locator("table.list tbody tr").count() == promised > 0


def test_comparison_can_be_picked_and_cut_to_the_differences(visit):
    seen = visit("/compare", **OFF)
    seen.page.get_by_role("checkbox", name="LoRA", exact=True).check()
    seen.page.get_by_role("checkbox", name="DoRA", exact=True).check()
    seen.page.get_by_role("button", name="Compare").click()
    assert sorted(_query(seen.path)["m"]) == ["dora", "lora"]
    rows = seen.page.locator("table.compare tbody tr")
    everything = rows.count()
    seen.page.get_by_role("link", name="Only differences").click()
    assert 0 < rows.count() < everything
    assert seen.page.locator("table.compare tbody tr").count() == seen.page.locator("tr.differs").count() + 1


def test_search_forgives_a_typing_error(visit):
    seen = visit("/about", **OFF)
    seen.page.locator("#search").fill("lroa")
    seen.page.locator("#search").press("Enter")
    assert seen.path.startswith("/search?q=lroa")
    assert "LoRA" in seen.page.locator("ol.hits").inner_text()


def test_estimate_form_gives_an_estimate(visit):
    seen = visit("/estimate", **OFF)
    seen.page.get_by_label("Method", exact=True).fill("dora")
    seen.page.get_by_label("or a size", exact=True).fill("7B")
    seen.page.get_by_role("button", name="Estimate").click()
    assert "DoRA" in seen.page.locator("h1").inner_text()
    assert seen.page.locator("figure.memory").count() == 1


def test_counts_follow_the_chosen_model(visit):
    seen = visit("/methods/lora", **OFF)
    seen.page.get_by_label("Model", exact=True).fill("llama-3.1-8b")
    seen.page.get_by_role("button", name="Count").click()
    assert _query(seen.path)["model"] == ["llama-3.1-8b"]
    assert "Llama" in seen.page.locator("section[aria-labelledby=counts]").inner_text()

"""Whole visits: what people come for, from the first page to what they take away."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest

pytestmark = pytest.mark.browser


def _query(seen) -> dict[str, list[str]]:
    return parse_qs(urlsplit(seen.path).query)


def test_newcomer_finds_a_method_for_a_24_gb_card_and_copies_a_recipe(visit):
    seen = visit("/")
    seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    seen.page.get_by_label("Memory of one card", exact=True).fill("24GB")
    seen.page.get_by_label("Model size", exact=True).fill("7B")
    seen.page.get_by_role("button", name="Recommend").click()
    seen.page.wait_for_url("**/recommend?*")
    assert _query(seen) == {"gpu_mem": ["24GB"], "params": ["7B"]}
    first = seen.page.locator("ol.ranked > li").first
    assert first.locator(".verdict").inner_text().strip() in ("fits", "tight")
    name = first.locator("h3 a").inner_text()
    first.locator("h3 a").click()
    seen.page.wait_for_url("**/methods/*")
    assert name in seen.page.locator("h1").inner_text()
    recipe = seen.page.locator("section[aria-labelledby=code] pre").filter(has=seen.page.locator("code")).first
    recipe.get_by_role("button", name="Copy").click()
    recipe.get_by_role("button", name="Copied").wait_for()
    copied = seen.page.evaluate("() => navigator.clipboard.readText()")
    assert copied.startswith("peft-atlas run ")


def test_researcher_filters_compares_three_and_exports_bibtex(visit):
    seen = visit("/methods?class=reparameterization")
    seen.page.locator(".facet", has_text="Mergeable").locator("summary").click()
    seen.page.locator(".facet", has_text="Mergeable").get_by_role("link", name="yes").click()
    seen.page.wait_for_url("**mergeable=yes**")
    assert _query(seen)["class"] == ["reparameterization"], "the second filter keeps the first"
    for place in range(3):
        seen.page.locator("table.methods tbody input").nth(place).check()
    button = seen.page.get_by_role("button", name="Compare the chosen")
    assert button.is_visible()
    button.click()
    seen.page.wait_for_url("**/compare?m=**")
    assert len(_query(seen)["m"]) == 3
    assert seen.page.locator("figure.multiple").count() == 3
    seen.page.get_by_role("link", name="Only differences").click()
    seen.page.wait_for_url("**only=differences**")
    address = seen.page.get_by_role("link", name="BibTeX of these papers").get_attribute("href")
    entries = seen.page.request.get(f"{seen.site}{address}").text()
    assert len(re.findall(r"^@\w+\{", entries, re.M)) == 3


def test_reader_learns_a_word_without_leaving_the_page(visit):
    seen = visit("/methods/lora")
    word = seen.page.locator("a.term", has_text="optimizer states").first
    meaning = word.locator("span")
    assert not meaning.is_visible()
    word.focus()
    assert meaning.is_visible()
    box, height = meaning.bounding_box(), seen.page.viewport_size["height"]
    assert box["y"] + box["height"] <= height + 1
    seen.page.locator("h1").hover()
    seen.page.keyboard.press("Tab")
    assert not meaning.is_visible()
    word.click()
    assert urlsplit(seen.page.url).path == "/glossary"
    assert seen.page.locator(":target dfn").inner_text() == "optimizer states"


def test_reader_follows_the_code_to_its_line(visit):
    seen = visit("/methods/lora")
    link = seen.page.locator(".listing a", has_text="attach")
    line = re.search(r"line (\d+)", link.inner_text())[1]
    link.click()
    seen.page.wait_for_url("**/methods/lora/source#**")
    assert seen.page.locator(":target").get_attribute("id") == f"L{line}"
    assert "def attach" in seen.page.locator(":target").inner_text()
    assert seen.page.locator(":target").is_visible()


def test_nothing_moves_after_the_first_paint(visit):
    for path in ("/", "/methods/lora", "/taxonomy"):
        seen = visit()
        seen.page.add_init_script(
            """window.moved = 0;
            new PerformanceObserver((list) => list.getEntries().forEach((each) => (window.moved += each.value)))
              .observe({type: "layout-shift", buffered: true});"""
        )
        seen.go(path)
        seen.page.evaluate("() => document.fonts.ready.then(() => new Promise(requestAnimationFrame))")
        assert seen.page.evaluate("() => window.moved") <= 0.02, path

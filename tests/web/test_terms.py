"""Words of the trade are marked where they first stand, and lead to their definition."""

from __future__ import annotations

import re

import pytest
from markupsafe import Markup
from starlette.testclient import TestClient

from kb.records import load_glossary
from web.glossary import term, terms


def test_a_word_is_marked_where_it_first_stands() -> None:
    shown = terms("The rank decides; a larger rank costs more.")
    assert shown.count('class="term"') == 1
    assert shown.startswith('The <a class="term" href="/glossary#rank">rank<span>: ')
    assert shown.endswith("a larger rank costs more.")


@pytest.mark.parametrize(
    ("text", "term_id"),
    [("Gradient checkpointing helps", "checkpointing"), ("an 8-bit base", "int8"), ("NF4 storage", "nf4")],
)
def test_other_spellings_lead_to_the_same_word(text: str, term_id: str) -> None:
    assert f'href="/glossary#{term_id}"' in terms(text)


@pytest.mark.parametrize("text", ["franking", "rank-stabilised", "unmerged", "low-ranking"])
def test_only_whole_words_are_marked(text: str) -> None:
    assert "class" not in terms(text)


def test_text_stays_escaped_and_links_stay_whole() -> None:
    assert terms("a < rank & <b>") == f"a &lt; {term('rank')} &amp; &lt;b&gt;"
    link = Markup('<a href="/x">the rank</a> and rank')
    assert terms(link) == Markup('<a href="/x">the rank</a> and ') + term("rank")


def test_an_unknown_word_is_a_mistake_of_the_page() -> None:
    with pytest.raises(KeyError):
        term("nonsense")


def test_page_defines_every_word_with_its_source(browser: TestClient) -> None:
    text = browser.get("/glossary").text
    for each in load_glossary().values():
        entry = re.search(rf'<div id="{each.id}">.*?</div>', text, re.S)
        assert entry is not None
        assert f"<dfn>{each.term}</dfn>" in entry[0]
        assert "<cite>" in entry[0]


@pytest.mark.parametrize("page", ["/", "/methods", "/methods/lora", "/estimate?method=lora&params=7B"])
def test_marked_words_lead_to_the_glossary(browser: TestClient, page: str) -> None:
    found = re.findall(r'<a class="term" href="/glossary#(\w+)">', browser.get(page).text)
    assert found
    assert set(found) <= set(load_glossary())

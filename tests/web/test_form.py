"""The forms speak to people: a name and one plain line for every field, words for every choice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import pytest
from starlette.testclient import TestClient

from web.views.form import ESTIMATE_MAIN, ESTIMATE_MORE, MAIN, MORE, FormField, form

_SHORTEST_ROOM = 23  # letters of the help's size that fit into a field on the narrowest telephone


def _fields() -> Iterator[FormField]:
    for action, main, more in [("/recommend", MAIN, MORE), ("/estimate", ESTIMATE_MAIN, ESTIMATE_MORE)]:
        made = form(action, main, more, {})
        yield from (*made.main, *made.more)


@pytest.mark.parametrize("field", [*_fields()], ids=lambda field: field.label)
def test_a_field_says_in_one_plain_line_what_it_is(field: FormField) -> None:
    assert field.help.endswith(".")
    assert len(field.help) <= 90
    assert max(map(len, field.help.split())) <= _SHORTEST_ROOM
    assert not any(word in field.help for word in ("slug", "parameter of", "preset", "catalogue", "="))


@pytest.mark.parametrize("field", [*_fields()], ids=lambda field: field.label)
def test_no_choice_is_shown_as_a_name_of_the_data(field: FormField) -> None:
    if field.kind == "select" and field.name != "library":
        assert not [each.label for each in field.options if "_" in each.label or each.label in ("8bit", "4bit")]


def test_what_is_wrong_is_listed_by_the_name_of_its_field(browser: TestClient) -> None:
    page = unescape(browser.get("/recommend?gpu_mem=24&params=7B&gpu_men=1").text)
    assert "<a href=\"#f-gpu_mem\">Memory of one card</a>: '24' has no unit" in page
    assert "<code>gpu_men</code>: there is no parameter" in page


def test_an_answer_shows_what_was_asked_in_the_words_of_its_choices(browser: TestClient) -> None:
    page = browser.get("/recommend?gpu=RTX 4090&model=Llama 3.1 8B&task=chat&data=16k&epochs=2").text
    assert '<option value="generation" selected>' in page
    for name, value in {"gpu": "rtx-4090", "model": "llama-3.1-8b", "data": "16000"}.items():
        assert f'name="{name}" value="{value}"' in page
    assert re.search(r"<dt>the whole run</dt><dd>[\d.]+ (hours|minutes|days)</dd>", page)


def test_what_settings_did_is_told_in_the_words_of_the_form(browser: TestClient) -> None:
    asked = "gpu_mem=24GB&params=7B&budget=none&epochs=1&merge=required"
    told = unescape(browser.get(f"/recommend?{asked}").text).partition('id="effects"')[2].partition("</section>")[0]
    assert "Because of “Search for hyperparameters: one run, no search”" in told
    assert "Because of “Passes over the examples: 1”" in told
    assert not re.search(r"Because (?:of )?\w+=", told)


def test_a_model_that_is_not_known_is_answered_in_the_words_of_the_form(browser: TestClient) -> None:
    page = unescape(browser.get("/recommend?gpu_mem=24GB&model=Qwen/Qwen3-9B").text)
    assert "Or give its size (Model size: 9B) or its config.json (by the command line or the API)" in page
    assert not re.search(r'class="error"[^\n]*\b(?:params|config)=', page)


def test_a_variant_of_a_model_keeps_its_name_and_is_said_to_be_read_as_another(browser: TestClient) -> None:
    for address in ("/recommend?gpu_mem=24GB&", "/estimate?method=lora&"):
        page = unescape(browser.get(f"{address}model=google/gemma-2-9b-it").text)
        assert 'name="model" value="google/gemma-2-9b-it"' in page
        assert "google/gemma-2-9b-it is read as Gemma 2 9B: the same architecture." in page

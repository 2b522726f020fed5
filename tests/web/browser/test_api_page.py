"""The examples of the API's documentation, tried where they stand."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser


def test_an_example_shows_its_answer_in_place(visit):
    seen = visit("/api")
    section = seen.page.locator("section.operation", has=seen.page.locator("code", has_text="/api/v1/classes"))
    section.get_by_role("button").click()
    shown = section.locator("pre")
    shown.get_by_text("200 OK").wait_for()
    assert '"schema_version"' in shown.inner_text()
    assert not seen.errors


def test_a_long_answer_is_cut_and_says_so(visit):
    seen = visit("/api")
    seen.page.get_by_role("button", name="Try it here: /api/v1/export.json").click()
    seen.page.locator("pre", has_text="more characters").wait_for()


def test_every_example_is_a_link_that_works_without_the_script(visit):
    seen = visit("/api")
    links = seen.page.locator("a.example")
    assert links.count() == seen.page.get_by_role("button", name="Try it here: /").count() > 10

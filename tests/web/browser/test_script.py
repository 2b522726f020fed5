"""What the one script of the site adds."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("path", ["/", "/methods", "/methods/lora", "/recommend?gpu_mem=24GB&params=7B"])
def test_slash_focuses_search(visit, path):
    seen = visit(path)
    seen.page.keyboard.press("/")
    assert seen.page.evaluate("() => document.activeElement.id") == "search"
    assert seen.page.locator("#search").input_value() == ""


def test_slash_in_a_field_is_a_letter(visit):
    seen = visit("/recommend")
    seen.page.locator("#f-model").focus()
    seen.page.keyboard.type("meta/llama")
    assert seen.page.locator("#f-model").input_value() == "meta/llama"


def test_address_of_an_answer_has_only_what_was_chosen(visit):
    seen = visit("/recommend")
    seen.page.locator("#f-gpu_mem").fill("24GB")
    seen.page.locator("#f-params").fill("7B")
    seen.page.locator("#f-params").press("Enter")
    seen.page.wait_for_url("**/recommend?*")
    asked = parse_qs(urlsplit(seen.path).query, keep_blank_values=True)
    assert asked == {"gpu_mem": ["24GB"], "params": ["7B"]}


def test_a_choice_that_was_made_can_be_unmade(visit):
    """Going back to the default of a field that the address named changes the answer back."""
    seen = visit("/recommend?gpu_mem=24GB&params=7B&seq=4096&objective=quality")
    seen.page.evaluate("() => document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert seen.page.locator("#f-seq").input_value() == "4096"
    seen.page.locator("#f-seq").fill("1024")
    seen.page.locator("#f-objective").select_option(index=0)
    seen.page.get_by_role("button", name="Recommend").click()
    seen.page.wait_for_url(lambda url: "seq=4096" not in url)
    asked = parse_qs(urlsplit(seen.path).query)
    assert asked.get("seq", ["1024"]) == ["1024"]
    assert asked.get("objective", ["balanced"]) != ["quality"]


def test_further_fields_that_were_given_stay_given(visit):
    """Sending the form again changes nothing that the reader did not touch."""
    seen = visit("/recommend?gpu_mem=24GB&params=7B&seq=4096&merge=required&limit=5")
    before = seen.page.locator("table.list").first.inner_text()
    seen.page.evaluate("() => document.querySelectorAll('details').forEach((each) => (each.open = true))")
    with seen.page.expect_navigation():
        seen.page.get_by_role("button", name="Recommend").click()
    asked = parse_qs(urlsplit(seen.path).query)
    assert {name: asked.get(name) for name in ("seq", "merge", "limit")} == {
        "seq": ["4096"],
        "merge": ["required"],
        "limit": ["5"],
    }
    assert seen.page.locator("table.list").first.inner_text() == before


def test_code_has_a_copy_button(visit):
    seen = visit("/methods/lora")
    code = seen.page.locator("pre:not(.source)").filter(has=seen.page.locator("code")).first
    seen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    code.get_by_role("button", name="Copy").click()
    code.get_by_role("button", name="Copied").wait_for()
    assert seen.page.evaluate("() => navigator.clipboard.readText()") == code.locator("code").inner_text()


def test_pages_take_at_most_two_small_scripts_and_sheets(visit):
    for path in ("/", "/methods/lora", "/recommend?gpu_mem=24GB&params=7B"):
        seen = visit(path)
        sizes = seen.page.evaluate(
            """() => performance.getEntriesByType("resource").map((each) => [each.name, each.decodedBodySize])"""
        )
        scripts = [size for name, size in sizes if name.endswith(".js")]
        sheets = [size for name, size in sizes if name.endswith(".css")]
        assert 1 <= len(scripts) <= 2
        assert 1 <= len(sheets) <= 2
        assert sum(scripts) <= 10_000
        assert sum(sheets) <= 20_000


def test_filters_stand_open_where_a_style_sheet_cannot_open_them(visit):
    """A browser without ``::details-content`` sees the filters beside the list when there is room."""
    seen = visit("/methods")
    shown = "() => document.querySelector('details.facets').open"
    assert not seen.page.evaluate(shown)
    seen.page.add_init_script(
        "const able = CSS.supports; CSS.supports = (...asked) => !asked[0].includes('::details') && able.apply(CSS, asked)"
    )
    seen.page.reload()
    assert seen.page.evaluate(shown)
    seen.page.set_viewport_size({"width": 320, "height": 640})
    seen.page.reload()
    assert not seen.page.evaluate(shown)

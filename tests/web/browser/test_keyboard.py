"""The site without a mouse, and the form after a mistake."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytestmark = pytest.mark.browser

_FOCUSED = """
() => {
  const each = document.activeElement;
  const style = getComputedStyle(each);
  const box = each.getBoundingClientRect();
  return {
    tag: each.tagName, id: each.id, stop: window.stops?.indexOf(each) ?? -1, name: each.getAttribute("name"), text: each.textContent.trim().slice(0, 40),
    ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 || style.boxShadow !== "none",
    seen: box.width > 0 && box.height > 0 && box.bottom > 0 && box.right > 0
      && box.top < innerHeight && box.left < innerWidth,
  };
}
"""


def _tabs(page, limit=400):
    """What has focus after each press of the tabulator, until it leaves the page."""
    while limit:
        page.keyboard.press("Tab")
        focused = page.evaluate(_FOCUSED)
        if focused["tag"] == "BODY":
            return
        yield focused
        limit -= 1


def _tab_to(page, chosen):
    """Press the tabulator until ``chosen`` holds of what has focus."""
    for focused in _tabs(page):
        if chosen(focused):
            return focused
    raise AssertionError("the tabulator never came there")


@pytest.mark.parametrize("path", ["/", "/methods", "/methods/lora", "/recommend"])
def test_skip_link_comes_first_and_leads_to_the_content(visit, path):
    seen = visit(path)
    first = next(_tabs(seen.page))
    assert first["text"] == "Skip to content"
    assert first["seen"], "it becomes visible with focus"
    seen.page.keyboard.press("Enter")
    inside = seen.page.evaluate("() => location.hash.slice(1)")
    assert seen.page.evaluate("id => document.getElementById(id).tagName", inside) == "MAIN"
    after = next(_tabs(seen.page))
    assert seen.page.evaluate("() => document.querySelector('main').contains(document.activeElement)"), after


WALKED = {
    "/": "light",
    "/recommend?gpu_mem=24GB&params=7B": "dark",
    "/methods?class=selective": "light",
    "/methods/bitfit": "dark",
    "/compare?m=lora&m=dora": "light",
}


@pytest.mark.parametrize(("path", "scheme"), WALKED.items())
def test_tab_leads_once_through_everything_in_the_order_of_the_document(visit, path, scheme):
    """No trap, nothing left out, nothing out of order, each stop in view and ringed; then focus leaves the page."""
    seen = visit(path, color_scheme=scheme)
    stops = seen.page.evaluate(
        """() => {
          window.stops = [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")]
            .filter((each) => each.type !== "hidden" && each.checkVisibility({ contentVisibilityAuto: true }));
          return window.stops.length;
        }"""
    )
    focused = list(_tabs(seen.page, 2 * stops))
    assert [each["stop"] for each in focused if each["stop"] >= 0] == list(range(stops))
    assert [each for each in focused if not each["ring"]] == []
    assert [each for each in focused if not each["seen"]] == []


def test_form_can_be_filled_and_sent_by_keyboard_alone(visit):
    seen = visit("/")
    _tab_to(seen.page, lambda focused: focused["name"] == "gpu_mem")
    seen.page.keyboard.type("24GB")
    _tab_to(seen.page, lambda focused: focused["name"] == "params")
    seen.page.keyboard.type("7B")
    _tab_to(seen.page, lambda focused: focused["tag"] == "BUTTON" and "Recommend" in focused["text"])
    with seen.page.expect_navigation():
        seen.page.keyboard.press("Enter")
    assert seen.page.locator("ol.ranked > li").count() >= 3


def test_more_constraints_open_by_keyboard(visit):
    seen = visit("/recommend")
    _tab_to(seen.page, lambda focused: focused["tag"] == "SUMMARY" and "More settings" in focused["text"])
    seen.page.keyboard.press("Enter")
    _tab_to(seen.page, lambda focused: focused["name"] == "seq")
    assert seen.page.locator("#f-seq").is_visible()


def test_scrolling_regions_can_be_reached_by_keyboard(visit):
    seen = visit("/recommend?gpu_mem=24GB&params=7B", viewport={"width": 320, "height": 640})
    unreachable = seen.page.evaluate(
        """() => [...document.querySelectorAll("main *")]
          .filter((each) => each.checkVisibility() && each.scrollWidth > each.clientWidth + 1
            && ["auto", "scroll"].includes(getComputedStyle(each).overflowX))
          .filter((each) => each.tabIndex < 0 && !each.querySelector("a, button, input, select, summary"))
          .map((each) => each.outerHTML.slice(0, 120))"""
    )
    assert unreachable == []


WRONG = "/recommend?gpu_mem=24&params=7B&seq=4096&objective=quality"


@pytest.mark.parametrize("script", [True, False], ids=["with-script", "without-script"])
def test_form_after_a_mistake_keeps_values_and_says_where(visit, script):
    seen = visit(java_script_enabled=script)
    assert seen.go(WRONG).status == 422
    values = {name: seen.page.locator(f"#f-{name}").input_value() for name in ("gpu_mem", "params", "seq", "objective")}
    assert values == {"gpu_mem": "24", "params": "7B", "seq": "4096", "objective": "quality"}
    wrong = seen.page.locator("[aria-invalid=true]")
    assert wrong.count() == 1
    assert wrong.get_attribute("name") == "gpu_mem"
    described = (wrong.get_attribute("aria-describedby") or "").split()
    message = seen.page.locator(".field .error")
    assert message.count() == 1
    assert message.get_attribute("id") in described, "a screen reader reads the message with the field"
    assert "24GB" in message.inner_text(), "it says how to write it"


def test_message_stands_beside_its_field(visit):
    seen = visit(WRONG)
    field = seen.page.locator("#f-gpu_mem").bounding_box()
    message = seen.page.locator("#e-gpu_mem").bounding_box()
    assert field is not None
    assert message is not None
    assert abs(message["x"] - field["x"]) < 40
    assert 0 <= message["y"] - (field["y"] + field["height"]) < 60


def test_summary_of_mistakes_leads_to_the_field(visit):
    seen = visit(WRONG)
    link = _tab_to(seen.page, lambda focused: focused["tag"] == "A" and focused["text"] == "Memory of one card")
    assert link["ring"]
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate("() => document.activeElement.id") == "f-gpu_mem"


def test_mistake_can_be_repaired_by_keyboard(visit):
    seen = visit(WRONG)
    seen.page.locator("#f-gpu_mem").fill("24GB")
    with seen.page.expect_navigation():
        seen.page.keyboard.press("Enter")
    assert seen.page.locator("ol.ranked > li").count() >= 3
    assert "seq=4096" in seen.path


@pytest.mark.parametrize("width", [320, 1280])
def test_focus_follows_the_order_of_reading(visit, width):
    """Fields come row by row, left to right."""
    seen = visit(WRONG, viewport={"width": width, "height": 900})
    boxes = seen.page.evaluate(
        """() => [...document.querySelectorAll("form.ask :is(input, select)")].filter((each) => each.checkVisibility())
          .map((each) => { const box = each.getBoundingClientRect(); return [each.name, box.top, box.left, each.tabIndex]; })"""
    )
    assert len(boxes) > 6
    assert {index for *_, index in boxes} == {0}
    for (one, top, left, _), (two, below, right, _) in pairwise(boxes):
        assert below >= top - 60, f"{two} stands above {one}"
        assert right > left or below > top + 10, f"{two} stands left of {one} in its row"

"""The map of the taxonomy under pointer, keys and filters."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

pytestmark = pytest.mark.browser

_FRAME = "() => document.querySelector('.atlas').getAttribute('viewBox').split(' ').map(Number)"
_CROSSED = """
() => {
  const boxes = [...document.querySelectorAll(".atlas :is(.node, .title) text")]
    .map((each) => [each.textContent, each.getBoundingClientRect()]);
  const found = [];
  boxes.forEach(([one, a], at) => boxes.slice(at + 1).forEach(([other, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1 && down > 3) found.push(`${one} / ${other}`);
  }));
  return found;
}
"""


def _width(seen) -> float:
    return seen.page.evaluate(_FRAME)[2]


def _query(seen) -> dict[str, list[str]]:
    return parse_qs(urlsplit(seen.path).query)


@pytest.mark.parametrize("path", ["/", "/taxonomy", "/taxonomy?scheme=critical_review"])
def test_written_names_do_not_cross(visit, path):
    """The letters of the browser need no more room than the layout gave them."""
    assert visit(path, viewport={"width": 1280, "height": 900}).page.evaluate(_CROSSED) == []


@pytest.mark.parametrize("path", ["/", "/taxonomy"])
def test_pointer_lights_relatives_and_says_what_the_method_does(visit, path):
    seen = visit(path)
    caption = seen.page.locator(".caption")
    before = caption.inner_text()
    seen.page.locator(".node[data-slug=dora]").hover()
    assert "DoRA: " in caption.inner_text()
    assert "Tied to LoRA" in caption.inner_text()
    assert "lit" in seen.page.locator(".node[data-slug=lora]").get_attribute("class")
    assert "lit" not in seen.page.locator(".node[data-slug=warp]").get_attribute("class")
    assert seen.page.locator(".edge.lit").count() >= 1
    seen.page.locator("h1").hover()
    assert caption.inner_text() == before
    assert seen.page.locator(".edge.lit").count() == 0


def test_keyboard_reader_walks_the_map(visit):
    """Tabulator to the map, from name to name with what each does, then into a method and back."""
    seen = visit("/taxonomy")
    seen.page.locator(".map .scroll").focus()
    walked = []
    for _ in range(40):
        seen.page.keyboard.press("Tab")
        here = seen.page.evaluate("() => document.activeElement.dataset.slug ?? null")
        if here is not None:
            walked.append(here)
            name = seen.page.locator(f".node[data-slug={here}] text").text_content()
            assert seen.page.locator(".caption").inner_text().startswith(f"{name}: ")
            ring = seen.page.evaluate(
                "() => parseFloat(getComputedStyle(document.activeElement.querySelector('rect')).strokeWidth)"
            )
            assert ring >= 3
    assert len(walked) == len(set(walked)) > 20
    with seen.page.expect_navigation():
        seen.page.keyboard.press("Enter")
    assert seen.path == f"/methods/{walked[-1]}"
    seen.page.go_back()
    assert urlsplit(seen.path).path == "/taxonomy"


def test_keys_zoom_and_move_and_the_address_remembers(visit):
    seen = visit("/taxonomy")
    whole = _width(seen)
    seen.page.locator(".map .scroll").focus()
    seen.page.keyboard.press("+")
    seen.page.keyboard.press("+")
    assert _width(seen) < 0.6 * whole
    left = seen.page.evaluate(_FRAME)[0]
    seen.page.keyboard.press("ArrowRight")
    assert seen.page.evaluate(_FRAME)[0] > left
    kept = seen.page.evaluate(_FRAME)
    seen.page.reload()
    assert seen.page.evaluate(_FRAME) == pytest.approx(kept, abs=1.5)
    seen.page.locator(".map .scroll").focus()
    seen.page.keyboard.press("0")
    assert _width(seen) == pytest.approx(whole)
    assert "view" not in _query(seen)


@pytest.mark.parametrize("path", ["/", "/taxonomy"])
def test_buttons_zoom(visit, path):
    seen = visit(path)
    whole = _width(seen)
    seen.page.get_by_role("button", name="Zoom in").click()
    assert _width(seen) < whole
    seen.page.get_by_role("button", name="Show the whole map").click()
    assert _width(seen) == pytest.approx(whole)


def test_drag_moves_and_does_not_follow_a_link(visit):
    seen = visit("/taxonomy")
    seen.page.get_by_role("button", name="Zoom in").click()
    before = seen.page.evaluate(_FRAME)
    seen.page.locator(".node[data-slug=compacter]").scroll_into_view_if_needed()
    box = seen.page.locator(".node[data-slug=compacter]").bounding_box()
    seen.page.mouse.move(box["x"] + 30, box["y"] + 10)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + 130, box["y"] + 60, steps=4)
    seen.page.mouse.up()
    assert urlsplit(seen.path).path == "/taxonomy"
    assert seen.page.evaluate(_FRAME)[0] < before[0] - 50


def test_filter_acts_at_once_and_keeps_the_part(visit):
    seen = visit("/taxonomy")
    seen.page.get_by_role("button", name="Zoom in").click()
    part = seen.page.evaluate(_FRAME)
    with seen.page.expect_navigation():
        seen.page.get_by_label("Library").select_option("peft")
    assert _query(seen)["library"] == ["peft"]
    assert seen.page.evaluate(_FRAME) == pytest.approx(part, abs=1.5)
    assert 0 < seen.page.locator(".node.faded").count() < seen.page.locator(".node").count()


def test_without_script_filters_parts_and_schemes_work(visit):
    seen = visit("/taxonomy", java_script_enabled=False)
    seen.page.get_by_label("Mergeable").select_option("yes")
    seen.page.get_by_label("Part").select_option("reparameterization.low_rank")
    seen.page.get_by_role("button", name="Show", exact=True).click()
    assert _query(seen)["mergeable"] == ["yes"]
    assert seen.page.locator(".node.faded").count() > 0
    seen.page.get_by_role("link", name="Library view").click()
    assert _query(seen)["scheme"] == ["library"]
    assert seen.page.locator(".node.faded").count() > 0, "a filter outlives the change of the scheme"
    seen.page.locator(".node[data-slug=lora]").click()
    assert seen.path == "/methods/lora"

"""Every main page in light, dark and narrow: accessible, within its width, quiet, and at home."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

PAGES = {
    "/": 200,
    "/taxonomy": 200,
    "/methods": 200,
    "/methods?class=additive&mergeable=yes": 200,
    "/methods/lora": 200,
    "/methods/lora/source": 200,
    "/compare": 200,
    "/compare?m=lora&m=dora": 200,
    "/compare?m=prompt_tuning&m=prefix_tuning&m=p_tuning_v2&only=differences": 200,
    "/recommend": 200,
    "/recommend?gpu_mem=24GB&params=7B": 200,
    "/recommend?gpu_mem=24&params=7B": 422,
    "/estimate": 200,
    "/estimate?method=lora&params=7B&gpu_mem=24GB": 200,
    "/models": 200,
    "/gpus": 200,
    "/about": 200,
    "/glossary": 200,
    "/api": 200,
    "/search?q=lroa": 200,
    "/methods/loraa": 404,
}
WAYS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"color_scheme": "light", "viewport": {"width": 320, "height": 640}},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", PAGES)
def test_page_is_accessible_quiet_and_at_home(visit, path, way):
    seen = visit(**WAYS[way])
    response = seen.go(path)
    assert response.status == PAGES[path]
    closed = seen.overflow()
    seen.page.evaluate("() => document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert seen.axe() == []
    assert seen.violations() == []
    assert seen.strangers() == []
    refused = [said for said in seen.errors if PAGES[path] == 200 or "status of" not in said]
    assert refused == [], "the console has errors; only the announcement of an error status is expected, on error pages"
    assert closed == []
    assert seen.overflow() == [], "with every detail open"


@pytest.mark.parametrize("path", ["/", "/taxonomy", "/methods/mam_adapter", "/compare?m=lora&m=dora", "/methods"])
def test_page_is_accessible_in_forced_colours(visit, path):
    seen = visit(path, forced_colors="active")
    seen.page.evaluate("() => document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert seen.axe() == []


def test_the_checker_finds_what_is_wrong(visit):
    """The tests above can fail: an image without a text, an inline style and a wide box are all seen."""
    seen = visit("/about", **WAYS["narrow"])
    seen.page.evaluate(
        """() => {
          const image = document.createElement("img");
          image.src = "/nowhere.png";
          document.querySelector("main").append(image);
          const wide = document.createElement("p");
          wide.setAttribute("style", "color: red");
          wide.textContent = "x".repeat(900);
          wide.style.overflowWrap = "normal";
          document.querySelector("main").append(wide);
        }"""
    )
    assert any(finding.startswith("critical image-alt") for finding in seen.axe())
    assert any(said.startswith("style-src") for said in seen.violations())
    assert any("wide" in said for said in seen.overflow())

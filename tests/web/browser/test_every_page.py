"""Every main page in light, dark, forced colours and narrow: accessible, within its width, quiet, and at home."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

PAGES = {
    "/": 200,
    "/taxonomy": 200,
    "/methods": 200,
    "/methods?class=additive&mergeable=yes": 200,
    "/methods?class=additive&q=zzzzqqqq": 200,
    "/methods/lora": 200,
    "/methods/ladder_side_tuning": 200,
    "/methods/mam_adapter": 200,
    "/methods/lora/source": 200,
    "/methods/vera/evidence": 200,
    "/compare": 200,
    "/compare?m=lora&m=dora": 200,
    "/compare?m=prompt_tuning&m=prefix_tuning&m=p_tuning_v2&only=differences": 200,
    "/recommend": 200,
    "/recommend?gpu_mem=24GB&params=7B": 200,
    "/recommend?gpu_mem=6GB&params=70B": 200,
    "/recommend?gpu_mem=24&params=7B": 422,
    "/estimate": 200,
    "/estimate?method=lora&params=7B&gpu_mem=24GB": 200,
    "/benchmarks": 200,
    "/evidence": 200,
    "/models": 200,
    "/gpus": 200,
    "/about": 200,
    "/glossary": 200,
    "/api": 200,
    "/search?q=lroa": 200,
    "/methods/loraa": 404,
}
NARROW = {"width": 320, "height": 640}
WIDE = {"width": 1280, "height": 720}
COLOURS = ["color-contrast", "link-in-text-block"]
"""What axe finds in other colours only; all its other rules ask about the document and its places, which stay."""
_OPEN = "() => document.querySelectorAll('details').forEach((each) => (each.open = true))"
_RINGLESS = """
() => {
  const named = (each) => `${each.tagName} ${(each.id || each.textContent.trim()).slice(0, 40)}`;
  const found = [];
  for (const each of document.querySelectorAll("a[href], button, input, select, summary, [tabindex]")) {
    if (each.tabIndex > 0) found.push(`out of order: ${named(each)}`);
    if (each.tabIndex < 0 || !each.checkVisibility()) continue;
    each.focus({ preventScroll: true });
    if (document.activeElement !== each) continue;
    const style = getComputedStyle(each);
    if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) === 0) found.push(`no ring: ${named(each)}`);
  }
  return found;
}
"""
_MUTE_CHARTS = """
() => [...document.querySelectorAll("main svg, main .lanes")].filter((each) => {
  if (each.parentElement.closest("svg")) return false;
  if (each.closest("[aria-hidden=true]")) return false;
  if (!(each.getAttribute("aria-label") || "").trim()) return true;
  const drawn = each.matches(".plot, .bar, .lanes, .course svg, .multiple svg");
  return drawn && !each.closest("section, .card").querySelector("table");
}).map((each) => each.outerHTML.slice(0, 80))
"""
_SIDEWAYS = """
() => [...document.querySelectorAll("main .scroll:not(:has(.atlas))")]
  .filter((each) => each.checkVisibility() && each.scrollWidth > each.clientWidth + 1).map((each) => each.ariaLabel)
"""
_CRAMPED = """
() => {
  const scale = (matrix) => Math.hypot(matrix.a, matrix.b);
  const sideways = [...document.querySelectorAll("main .scroll:has(svg:not(.glyph, .atlas))")]
    .filter((each) => each.scrollWidth > each.clientWidth + 1 && !each.querySelector("table"));
  const tiny = [...document.querySelectorAll("main svg:not(.atlas) text")].filter((each) =>
    each.checkVisibility() && parseFloat(getComputedStyle(each).fontSize) * scale(each.getScreenCTM()) < 9.5);
  return [...sideways, ...tiny].map((each) => `${each.tagName} ${each.ariaLabel ?? each.textContent}`);
}
"""
_WRITTEN = """
async () => {
  const words = (main) => {
    main.querySelectorAll("button[type=button]").forEach((each) => each.remove());
    return main.textContent.replace(/\\s+/g, " ").trim();
  };
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  const sent = new DOMParser().parseFromString(await answer.text(), "text/html");
  return words(sent.querySelector("main")) === words(document.querySelector("main").cloneNode(true));
}
"""
_MOVING = "() => [document.getAnimations().length, getComputedStyle(document.documentElement).scrollBehavior]"


@pytest.mark.parametrize("path", PAGES)
def test_page_is_accessible_quiet_and_at_home(visit, path):
    """One visit, narrow and wide, in three sets of colours: axe, width, content policy, requests, console, focus, charts, motion, and no need of a script."""
    seen = visit()
    assert seen.go(path).status == PAGES[path]
    page = seen.page
    refused = [said for said in seen.errors if PAGES[path] == 200 or "status of" not in said]
    assert refused == [], "the console has errors; only the announcement of an error status is expected, on error pages"
    assert page.evaluate(_MOVING) == [0, "auto"], "who asked for less motion gets none"
    assert page.evaluate(_WRITTEN), "the script adds buttons only, no content"
    found = {"light, wide": seen.axe(COLOURS)}
    closed = seen.overflow()
    page.set_viewport_size(NARROW)
    closed += seen.overflow()
    assert page.evaluate(_SIDEWAYS) == [], "but for the map, tables and equations are read without scrolling sideways"
    page.evaluate(_OPEN)
    assert closed + seen.overflow() == [], "also at 320 pixels, and with every detail open"
    assert page.evaluate(_CRAMPED) == [], "but for the map, drawings are read without scrolling sideways or a lens"
    found["light, narrow"] = seen.axe()
    page.set_viewport_size(WIDE)
    page.emulate_media(color_scheme="dark")
    found["dark, wide"] = seen.axe()
    page.emulate_media(forced_colors="active")
    found["forced colours"] = seen.axe(COLOURS)
    assert {way: findings for way, findings in found.items() if findings} == {}
    page.keyboard.press("Tab")
    assert page.evaluate(_RINGLESS) == []
    assert page.evaluate(_MUTE_CHARTS) == [], "a chart has a summary, and a table beside it"
    assert seen.violations() == []
    assert seen.strangers() == []


def test_the_checker_finds_what_is_wrong(visit):
    """The test above can fail: an image without a text, an inline style, a wide box and a lost ring are all seen."""
    seen = visit("/about", viewport=NARROW)
    seen.page.evaluate(
        """() => {
          const image = document.createElement("img");
          image.src = "/nowhere.png";
          document.querySelector("main").append(image);
          const wide = document.createElement("p");
          wide.setAttribute("style", "color: red");
          wide.textContent = "x".repeat(900);
          wide.style.overflowWrap = "normal";
          wide.style.color = "color-mix(in srgb, canvas 80%, canvastext)";
          document.querySelector("main").append(wide);
          const chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
          chart.setAttribute("viewBox", "0 0 900 90");
          chart.append(document.createElementNS("http://www.w3.org/2000/svg", "text"));
          chart.firstChild.textContent = "tiny";
          document.querySelector("main").append(chart);
          document.styleSheets[0].insertRule("footer a:focus-visible { outline: none }", document.styleSheets[0].cssRules.length);
        }"""
    )
    assert any(finding.startswith("critical image-alt") for finding in seen.axe())
    assert any("color-contrast" in finding for finding in seen.axe(COLOURS))
    assert any(said.startswith("style-src") for said in seen.violations())
    assert any("wide" in said for said in seen.overflow())
    assert len(seen.page.evaluate(_MUTE_CHARTS)) == 1
    assert any("tiny" in said for said in seen.page.evaluate(_CRAMPED))
    assert not seen.page.evaluate(_WRITTEN)
    seen.page.keyboard.press("Tab")
    assert any(said.startswith("no ring: A") for said in seen.page.evaluate(_RINGLESS))

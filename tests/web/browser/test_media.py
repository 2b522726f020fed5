"""Paper, high contrast, large text."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.browser

ANSWER = "/recommend?gpu_mem=24GB&params=7B"
_LIGHTNESS = """
() => {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = getComputedStyle(document.body).backgroundColor;
  canvas.fillRect(0, 0, 1, 1);
  const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
  return alpha === 0 ? null : (red + green + blue) / 3;
}
"""


def test_answer_prints_without_navigation(visit):
    seen = visit(ANSWER)
    hidden = ["nav[aria-label=Main]", "form.search", "a.skip", "form.ask", "button.primary"]
    kept = ["h1", "p.lead", "table.list", "ol.ranked > li:first-child h3"]
    assert seen.page.locator("nav[aria-label=Main]").is_visible()
    seen.page.emulate_media(media="print")
    assert [one for one in hidden if seen.page.locator(one).first.is_visible()] == []
    assert [one for one in kept if not seen.page.locator(one).first.is_visible()] == []


def test_buttons_of_the_script_do_not_print(visit):
    seen = visit("/methods/lora")
    seen.page.emulate_media(media="print")
    assert not seen.page.locator("button.copy").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_is_white(visit, scheme):
    seen = visit(ANSWER)
    seen.page.emulate_media(media="print", color_scheme=scheme)
    lightness = seen.page.evaluate(_LIGHTNESS)
    assert lightness is None or lightness > 250


def test_dark_is_dark_and_light_is_light(visit):
    seen = visit("/")
    seen.page.emulate_media(color_scheme="light")
    assert seen.page.evaluate(_LIGHTNESS) > 225
    seen.page.emulate_media(color_scheme="dark")
    assert seen.page.evaluate(_LIGHTNESS) < 60


def test_bars_keep_their_parts_in_forced_colours(visit):
    seen = visit(ANSWER)
    seen.page.emulate_media(forced_colors="active")
    drawn = seen.page.evaluate(
        """() => [...document.querySelectorAll("figure.memory svg rect")].slice(0, 8)
          .map((each) => [getComputedStyle(each).fill, getComputedStyle(each).stroke])"""
    )
    assert drawn
    assert not [each for each in drawn if each[0] == "none" and each[1] == "none"]


def test_doubled_text_stays_within_the_page(visit):
    seen = visit("/methods/lora", viewport={"width": 640, "height": 900})
    seen.page.evaluate("() => document.styleSheets[0].insertRule('html { font-size: 200% }')")
    assert seen.overflow() == []


@pytest.mark.parametrize("path", [ANSWER, "/methods/lora", "/compare?m=lora&m=dora", "/models"])
def test_tables_fit_on_paper(visit, path):
    """Paper cannot be scrolled: on the width of A4 within margins nothing is cut off."""
    seen = visit(path, viewport={"width": 718, "height": 1000})
    seen.page.emulate_media(media="print")
    cut = seen.page.evaluate(
        """() => [...document.querySelectorAll("main table, main svg")]
          .filter((each) => each.checkVisibility() && each.getBoundingClientRect().right > innerWidth + 1)
          .map((each) => `${each.closest("section")?.getAttribute("aria-labelledby")} ${each.getBoundingClientRect().right}`)"""
    )
    assert cut == []


@pytest.mark.parametrize(
    "chosen",
    [
        ("lora", "dora"),
        ("lora", "dora", "houlsby_adapter", "prefix_tuning", "bitfit", "ia3"),  # one has a remark
        ("ladder_side_tuning", "unipelt", "s4", "mam_adapter", "intrinsic_said", "compacter"),  # long formulas
    ],
    ids=len,
)
def test_a_comparison_prints_on_one_page(visit, chosen):
    seen = visit(f"/compare?{'&'.join(f'm={slug}' for slug in chosen)}")
    pages = re.findall(rb"/Type\s*/Page\b(?!s)", seen.page.pdf(prefer_css_page_size=True))
    assert len(pages) == 1


_CONTRASTS = """
(pairs) => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue] = [...canvas.getImageData(0, 0, 1, 1).data].map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  return pairs.map(([text, ground]) => {
    const [one, other] = [text, ground].map((each) => light(getComputedStyle(document.querySelector(each)).fill));
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  });
}
"""


@pytest.mark.parametrize("settings", [{"forced_colors": "active"}, {"color_scheme": "light"}, {"color_scheme": "dark"}])
def test_drawing_of_a_block_is_readable(visit, settings):
    """axe does not look into drawings, so the contrast of their text is computed here."""
    seen = visit("/methods/lora", **settings)
    pairs = [[".places .acts text", ".places .acts rect"], [".places g:not(.acts) text", ".places g:not(.acts) rect"]]
    assert min(seen.page.evaluate(_CONTRASTS, pairs)) >= 4.5
    seen.go("/methods/mam_adapter")
    assert min(seen.page.evaluate(_CONTRASTS, [[".places .trains text", ".places .trains rect"]])) >= 4.5

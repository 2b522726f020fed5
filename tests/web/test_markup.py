"""Markup that browsers need not repair: every element is closed, and no block stands inside a paragraph."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient

VOID = frozenset({"meta", "link", "input", "br", "hr", "img", "wbr"})
BLOCKS = frozenset(
    {"p", "div", "ul", "ol", "dl", "table", "section", "details", "figure", "pre", "h1", "h2", "h3", "form", "fieldset"}
)
PHRASING_ONLY = frozenset({"p", "h1", "h2", "h3", "span", "summary", "label", "button", "dt"})
HEADED = frozenset({("summary", "h2"), ("summary", "h3")})  # a summary may hold a heading
PAGES = (
    "/",
    "/methods",
    "/methods?class=additive.soft_prompt&mergeable=yes&status=baseline",
    "/methods/lora",
    "/methods/mam_adapter",
    "/methods/full_fine_tuning",
    "/methods/warp",
    "/methods/lora/source",
    "/methods/lora/evidence",
    "/methods/s4/evidence",
    "/methods/loraa",
    "/taxonomy",
    "/taxonomy?scheme=library",
    "/compare",
    "/compare?m=lora&m=dora&m=vera",
    "/recommend",
    "/recommend?gpu=rtx-4090&model=llama-3.1-8b",
    "/recommend?gpu_mem=24GB&params=70B&quantization=none",
    "/recommend?gpu_mem=24&seq=1",
    "/estimate",
    "/estimate?method=lora&params=7B",
    "/estimate?method=full_fine_tuning&params=7B&gpu=rtx-4090",
    "/models",
    "/gpus",
    "/about",
    "/glossary",
    "/taxonomy?method=dora&lineage=all",
    "/api",
    "/search?q=lora",
    "/search?q=zzzz",
)


class _Checker(HTMLParser):
    """Follows the open elements and notes what a browser would have to repair."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.complaints: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.complaints.append(f"line {self.getpos()[0]}: <{tag}> has an attribute twice")
        if tag in BLOCKS:
            around = [each for each in self.open if each in PHRASING_ONLY and (each, tag) not in HEADED]
            if around:
                self.complaints.append(f"line {self.getpos()[0]}: <{tag}> inside <{around[-1]}>")
        if tag == "a" and "a" in self.open:
            self.complaints.append(f"line {self.getpos()[0]}: a link inside a link")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.complaints.append(f"line {self.getpos()[0]}: </{tag}> closes {self.open[-1:]}")
        if tag in self.open:
            while self.open.pop() != tag:
                pass


@pytest.mark.parametrize("path", PAGES)
def test_markup_needs_no_repair(browser: TestClient, path: str) -> None:
    checker = _Checker()
    checker.feed(browser.get(path).text)
    checker.close()
    assert checker.complaints == []
    assert checker.open == []

"""What a page costs a reader: bytes, the first paint with a cold cache, movement while it loads, when drawings stand."""

from __future__ import annotations

import gzip
import shutil
import statistics
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import Error as BrowserError

from tests.bench.process import BenchError, serving
from tests.web.browser.conftest import ARGUMENTS

RUNS = 3
PAGES = (
    "/",
    "/recommend?gpu_mem=24GB&params=7B",
    "/estimate?method=lora&model=llama-3.1-8b&gpu=rtx-4090",
    "/methods",
    "/methods/lora",
    "/methods/unipelt",
    "/methods/lora/source",
    "/methods/lora/evidence",
    "/taxonomy",
    "/compare?m=lora&m=dora&m=houlsby_adapter",
    "/evidence",
    "/evidence/dypam",
    "/benchmarks",
    "/models",
    "/gpus",
    "/search?q=low+rank",
    "/glossary",
    "/about",
    "/api",
)
STEPS = len(PAGES)
KB_TARGET, PAINT_TARGET_MS, SHIFT_TARGET, DRAWN_TARGET_MS = 60.0, 500.0, 0.02, 300.0

_WATCH = """
window.shift = 0;
new PerformanceObserver((list) => {
  for (const each of list.getEntries()) if (!each.hadRecentInput) window.shift += each.value;
}).observe({ type: "layout-shift", buffered: true });
"""
_READ = """
async () => {
  await new Promise((done) => setTimeout(done, 400));
  const [way] = performance.getEntriesByType("navigation");
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  const drawn = performance.getEntriesByName("drawn").map((each) => each.startTime);
  return { paint: paint ? paint.startTime : null, loaded: way.loadEventEnd, shift: window.shift,
           drawn: Math.max(way.domContentLoadedEventEnd, ...drawn) };
}
"""


def measure(advance: Callable[[str], None]) -> dict[str, Any]:
    """Every page in a fresh context of one browser, ``RUNS`` times; medians. Raises ``BenchError`` without a browser."""
    program = shutil.which("chromium")
    if program is None:
        raise BenchError("there is no Chromium; tests/browser/install.sh installs it")
    with serving() as server, sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        except BrowserError as error:
            raise BenchError(f"Chromium does not start: {error}") from None
        pages = []
        for path in PAGES:
            pages.append(_page(browser, f"http://127.0.0.1:{server.port}", path))
            advance(path)
        version = browser.version
        browser.close()
    return {
        "browser": f"Chromium {version}",
        "runs": RUNS,
        "targets": {"kb": KB_TARGET, "paint_ms": PAINT_TARGET_MS, "shift": SHIFT_TARGET, "drawn_ms": DRAWN_TARGET_MS},
        "pages": pages,
    }


def _page(browser: Browser, site: str, path: str) -> dict[str, Any]:
    runs = []
    for _ in range(RUNS):
        context = browser.new_context()  # a cache of its own, so it is cold
        page = context.new_page()
        page.add_init_script(_WATCH)
        runs.append(_visit(page, f"{site}{path}"))
        context.close()
    paints = [run["paint"] for run in runs if run["paint"] is not None]
    if not paints:
        raise BenchError(f"{path} painted nothing")
    paint, shift = statistics.median(paints), max(run["shift"] for run in runs)
    after = statistics.median(run["drawn"] - run["loaded"] for run in runs)
    kb = runs[0]["bytes"] / 1000
    return {
        "path": path,
        "gzip_kb": round(kb, 1),
        "paint_ms": round(paint, 1),
        "shift": round(shift, 4),
        "drawn_after_load_ms": round(max(0.0, after), 1),
        "reached": kb <= KB_TARGET and paint <= PAINT_TARGET_MS and shift <= SHIFT_TARGET and after <= DRAWN_TARGET_MS,
    }


def _visit(page: Page, address: str) -> dict[str, Any]:
    answer = page.goto(address, wait_until="load")
    if answer is None or not answer.ok:
        raise BenchError(f"{address} answers {answer.status if answer else 'nothing'}")
    return {**page.evaluate(_READ), "bytes": len(gzip.compress(answer.body(), 6))}

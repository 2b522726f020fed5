"""A real server and a real browser: what the tests of this folder stand on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Response, sync_playwright
from playwright.sync_api import Error as BrowserError

ROOT = Path(__file__).parents[3]
AXE = ROOT / "tests" / "web" / "vendor" / "axe" / "axe.min.js"
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--disable-quic",
)  # fmt: skip
PATIENCE_MS = 30_000
START_SECONDS = 60
_SAYS_WHERE = re.compile(r"running on (http://127\.0\.0\.1:\d+)")

_WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
"""
_CHECK = """
async (rules) => {
  const result = await axe.run(document, {
    resultTypes: ["violations"],
    runOnly: rules ?? ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  });
  return result.violations
    .filter((each) => each.impact !== "minor")
    .map((each) => `${each.impact} ${each.id}: ${each.help}; ` + each.nodes.slice(0, 4).map(
      (node) => `${node.target.join(" ")} [${(node.any[0] || node.all[0] || node.none[0] || {}).message || ""}]`).join("; "));
}
"""
_OVERFLOW = """
() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const found = [...document.querySelectorAll("body *")].filter((each) =>
    each.getBoundingClientRect().right > width + 0.5 && !each.closest(".scroll, .source"));
  return found.slice(0, 5).map((each) => `${each.tagName} ${each.className} ${each.textContent.trim().slice(0, 40)}`)
    .concat(`the page is ${document.documentElement.scrollWidth} wide`);
}
"""


@dataclass
class Visit:
    """One page in the browser, with everything that went wrong on it."""

    page: Page
    site: str
    errors: list[str] = field(default_factory=list)
    """Messages of the console and exceptions of the script."""
    requests: list[str] = field(default_factory=list)
    """Every address that the page asked for."""

    def go(self, path: str) -> Response:
        """Open an address of the site."""
        response = self.page.goto(f"{self.site}{path}", wait_until="load", timeout=PATIENCE_MS)
        assert response is not None
        return response

    @property
    def path(self) -> str:
        """Where the page is, without the site."""
        return self.page.url.removeprefix(self.site)

    def axe(self, rules: list[str] | None = None) -> list[str]:
        """Findings of axe-core above "minor", of all rules or of those named.

        It is injected through the debugger, so the policy does not refuse it.
        """
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found: list[str] = self.page.evaluate(_CHECK, rules)
        return found

    def overflow(self) -> list[str]:
        """What is wider than the window, if the page can be scrolled sideways."""
        found: list[str] = self.page.evaluate(_OVERFLOW)
        return found

    def violations(self) -> list[str]:
        """What the content security policy refused."""
        found: list[str] = self.page.evaluate("() => window.violations")
        return found

    def strangers(self) -> list[str]:
        """Requests that left the site."""
        return [url for url in self.requests if not url.startswith((f"{self.site}/", "data:"))]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the site, served by a process of its own."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "uvicorn", "web.app:create_app", "--factory", "--host", "127.0.0.1", "--port", "0"]
    with log.open("wb") as out:
        server = subprocess.Popen([*command, "--no-access-log"], cwd=ROOT, stdout=out, stderr=out)
    try:
        yield _ready(server, log)
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _ready(server: subprocess.Popen[bytes], log: Path) -> str:
    """The address of the server once ``/readyz`` says that it is ready."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        said = _SAYS_WHERE.search(log.read_text(errors="replace"))
        if said is not None:
            try:
                with urlopen(f"{said[1]}/readyz", timeout=5):
                    return said[1]
            except URLError:
                pass
        time.sleep(0.1)
    raise RuntimeError(f"the server was not ready within {START_SECONDS} s:\n{log.read_text(errors='replace')}")


def _chromium() -> str | None:
    """A Chromium of the system; ``None`` leaves it to Playwright's own."""
    named = os.environ.get("CHROMIUM")
    if named is not None:
        return named
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in ("/usr/bin/chromium", *found) if path and os.access(path, os.X_OK)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file; Playwright's event loop ends with it and so disturbs no other test."""
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=_chromium(), args=list(ARGUMENTS))
        except BrowserError as error:
            pytest.fail(f"no Chromium could be started: run `sh tests/browser/install.sh {sys.executable}`\n{error}")
        yield started
        started.close()


Contexts = dict[tuple[tuple[str, Any], ...], BrowserContext]


@pytest.fixture(scope="module")
def contexts(browser: Browser) -> Iterator[Contexts]:
    """Contexts by their settings, so that tests with equal settings share one."""
    made: Contexts = {}
    yield made
    for context in made.values():
        context.close()


@pytest.fixture
def visit(site: str, browser: Browser, contexts: Contexts) -> Iterator[Callable[..., Visit]]:
    """Makes a visit; settings are those of a browser context (``color_scheme``, ``viewport``, ``java_script_enabled``)."""
    opened: list[Page] = []

    def make(path: str | None = None, **settings: Any) -> Visit:
        key = tuple(sorted((name, str(value)) for name, value in settings.items()))
        if key not in contexts:
            contexts[key] = browser.new_context(**{"reduced_motion": "reduce", **settings})
            contexts[key].add_init_script(_WATCH)
        page = contexts[key].new_page()
        page.set_default_timeout(PATIENCE_MS)
        opened.append(page)
        made = Visit(page, site)
        page.on("console", lambda said: made.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: made.errors.append(str(error)))
        page.on("request", lambda request: made.requests.append(request.url))
        if path is not None:
            made.go(path)
        return made

    yield make
    for page in opened:
        page.close()

"""A still copy, handed out by a server that only knows files, can be searched in a browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from taxonomy import build
from web.search import find
from web.still import make_copy

pytestmark = pytest.mark.browser


class Quiet(SimpleHTTPRequestHandler):
    """Hands out files and says nothing."""

    def log_message(self, *told: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a copy that lies in a folder of a host, with the pages that a search needs."""
    root = tmp_path_factory.mktemp("host")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("web.still.addresses", lambda: ("/search", "/methods", "/models", "/gpus", "/glossary"))
        patch.setattr("web.still.card_addresses", lambda: ("/card.png", "/methods/lora/card.png"))
        patch.setattr("web.still.grid", dict)
        patch.setattr("web.still._further", lambda address, file: ["/methods/lora"])
        for _ in make_copy(root / "atlas"):
            pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/atlas"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_reader_finds_a_method_from_any_page_despite_a_typing_error(hosted: str, visit):
    seen = visit()
    seen.site = hosted
    seen.go("/methods/lora/")
    seen.page.keyboard.press("/")
    seen.page.keyboard.type("lroa")
    seen.page.keyboard.press("Enter")
    first = seen.page.locator("#found #methods + ul a").first
    assert first.text_content() == "LoRA"
    assert "found for “lroa”" in seen.page.locator("#told").inner_text()
    assert seen.page.locator("#again").input_value() == "lroa"
    assert seen.axe() == []
    first.click()
    seen.page.wait_for_url("**/atlas/methods/lora/")
    assert (seen.errors, seen.strangers()) == ([], [])


@pytest.mark.parametrize(
    ("words", "group", "leads"),
    [("llama 3.1 8b", "models", "/models/#llama-3.1-8b"), ("rtx 4090", "cards", "/gpus/#rtx-4090")],
)
def test_models_and_cards_are_found_at_their_row(hosted: str, visit, words: str, group: str, leads: str):
    seen = visit()
    seen.site = hosted
    seen.go("/search/")
    seen.page.locator("#again").fill(words)
    seen.page.locator("#again").press("Enter")
    seen.page.locator(f"#found #{group} + ul a").first.click()
    seen.page.wait_for_url(f"**{leads}")
    assert seen.page.locator(":target").count() == 1


def test_nothing_found_is_said(hosted: str, visit):
    seen = visit()
    seen.site = hosted
    seen.go("/search/?q=%3Cb%3Exyzzy")
    seen.page.get_by_text("Nothing resembles “<b>xyzzy”.").wait_for()
    assert seen.page.locator("#found *").count() == 0


def test_the_form_is_out_of_reach_without_script(hosted: str, visit):
    seen = visit(java_script_enabled=False)
    seen.site = hosted
    seen.go("/search/")
    assert not seen.page.locator("#search").is_visible()
    assert not seen.page.locator("#again").is_visible()
    assert seen.page.get_by_role("link", name="all methods").is_visible()


_ASK = """
async (asked) => {
  const { find } = await import(document.querySelector('script[src*="/still."]').src);
  const words = await (await fetch("../search.words.json")).json();
  return asked.map((each) => find(words.methods, each, 5).map((hit) => hit.place.split("/")[2]));
}
"""


def test_the_script_finds_each_method_by_its_name_a_swapped_letter_and_its_author(hosted: str, visit):
    seen = visit()
    seen.site = hosted
    seen.go("/search/")
    methods = build().methods
    names = {each.name: slug for slug, each in methods.items()}
    swapped = {f"{name[:1]}{name[2]}{name[1]}{name[3:]}": slug for name, slug in names.items() if len(name) > 5}
    authors = [each.paper.authors[0] for each in methods.values() if each.paper is not None]
    by_name, by_swapped, by_author = (seen.page.evaluate(_ASK, list(asked)) for asked in (names, swapped, authors))
    assert [found[0] for found in by_name] == list(names.values())
    pairs = zip(swapped.items(), by_swapped, strict=True)
    assert [asked for (asked, slug), found in pairs if slug not in found[:3]] == []
    running = [find(asked, 1)[0].slug for asked in authors]
    assert [asked for asked, slug, found in zip(authors, running, by_author, strict=True) if slug not in found] == []

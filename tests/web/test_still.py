"""``peft-atlas export site``: a copy that any web server can hand out, whole or not there at all."""

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from typer.testing import CliRunner

from cli.main import app
from kb.catalogue import load_gpus, load_models
from taxonomy import build
from web.still import CARDS, MARK, SIZES, CopyError, File, make_copy
from web.still_search import PLACE

PAGE = "index.html"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosted") / "peft" / "atlas"
    folder.parent.mkdir()
    for done, known in make_copy(folder):
        assert done <= known
    return folder


def links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """The relative links of a page, with the file that each leads to and its fragment."""
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r'\s(?:href|src)="([^"]*)"', text):
        parts = urlsplit(unescape(link))
        if not parts.scheme:
            there = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            yield link, there / PAGE if there.is_dir() else there, parts.fragment


def test_every_link_of_the_copy_leads_to_a_file_of_the_copy(copy: Path):
    pages = list(copy.rglob(PAGE))
    anchors = {page: set(re.findall(r'\sid="([^"]*)"', page.read_text(encoding="utf-8"))) for page in pages}
    lost = []
    for page in pages:
        for link, there, fragment in links(page):
            if (
                link.startswith("/")
                or not there.is_file()
                or not there.is_relative_to(copy)
                or (fragment and fragment not in anchors[there])
            ):
                lost.append((page.relative_to(copy), link))
    assert lost == []


def test_the_copy_holds_every_method_with_its_data_and_no_form_but_its_search(copy: Path):
    for slug in build().methods:
        assert (copy / "methods" / slug / PAGE).is_file()
        assert (copy / "methods" / f"{slug}.json").is_file()
    assert (copy / "api" / "v1" / "export.bib").is_file()
    for page in copy.rglob(PAGE):
        forms = re.findall(r"<form[^>]*>", page.read_text(encoding="utf-8"))
        assert len(forms) == (2 if page.parent == copy / "search" else 1)
        assert all(re.search(r'class="[^"]*\bwaits"', form) for form in forms)


def test_everything_that_can_be_found_has_a_place_in_the_copy(copy: Path):
    found = json.loads((copy / PLACE).read_bytes())
    assert {name for name, *_ in found["methods"]} == {method.name for method in build().methods.values()}
    assert (len(found["models"]), len(found["cards"])) == (len(load_models()), len(load_gpus()))
    places = {place for things in found.values() for _, _, place, _ in things}
    pages = {place.partition("#")[0] for place in places}
    texts = {path: (copy / path.lstrip("/") / PAGE).read_text(encoding="utf-8") for path in pages}
    cut = [place.partition("#") for place in places]
    assert [path + fragment for path, sign, fragment in cut if sign and f'id="{fragment}"' not in texts[path]] == []


def test_the_copy_answers_for_common_cards_and_models(copy: Path):
    page = copy / "recommend" / PAGE
    text = page.read_text(encoding="utf-8")
    assert all(f">{size} on {card}</a>" in text for card in CARDS for size in SIZES)
    answer = next(there for link, there, _ in links(page) if "24GB" in link and "7B" in link)
    assert "24 GB" in answer.read_text(encoding="utf-8") or "22.4 GiB" in answer.read_text(encoding="utf-8")


def test_an_earlier_copy_is_replaced_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def collect(files: dict[str, File]) -> Iterator[tuple[int, int]]:
        files["/"] = File(PAGE, b"new", is_page=False)
        yield 1, 1

    monkeypatch.setattr("web.still._collect", collect)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(CopyError, match="is no copy of this site"):
        list(make_copy(mine))
    assert (mine / "thesis.tex").read_text() == "years of work"
    old = tmp_path / "old"
    old.mkdir()
    (old / MARK).touch()
    (old / "stale.html").touch()
    list(make_copy(old))
    assert {each.name for each in old.iterdir()} == {MARK, ".nojekyll", PAGE}
    with pytest.raises(CopyError, match="make it first"):
        list(make_copy(tmp_path / "no" / "such"))


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("web.still.addresses", lambda: ("/methods/no_such_method",))
    with pytest.raises(CopyError, match="/methods/no_such_method answers 404"):
        list(make_copy(tmp_path / "copy"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [(["sit", "x"], "did you mean site"), (["site"], "export site DIR"), (["site", "no/such"], "make it first")],
)
def test_the_command_says_what_it_expected(words: list[str], told: str):
    result = CliRunner().invoke(app, ["export", *words])
    assert result.exit_code in (1, 2)
    assert told in " ".join(result.stderr.split())

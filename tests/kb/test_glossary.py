"""The glossary: each word once, with a source that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from kb.loader import RecordError
from kb.records import load_glossary, load_methods, load_readings, read_glossary

LINE = "- {id: ID, term: TERM, forms: [], definition: a thing, source: {basis: paper, ref: lora, where: section 1, grade: A}}"


def test_every_source_is_a_record_or_a_reading() -> None:
    known = {*load_methods(), *load_readings()}
    assert {each.source.ref for each in load_glossary().values()} <= known


def test_a_spelling_means_one_thing(tmp_path: Path) -> None:
    path = tmp_path / "glossary.yaml"
    one, other = LINE.replace("ID", "rank").replace("TERM", "rank"), LINE.replace("ID", "other").replace("TERM", "Rank")
    path.write_text(f"{one}\n{other}\n", encoding="utf-8")
    with pytest.raises(RecordError, match="'rank' is taken by another term"):
        read_glossary(path)


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "glossary.yaml"
    path.write_text("rank: a thing", encoding="utf-8")
    with pytest.raises(RecordError, match="expected a list of terms"):
        read_glossary(path)

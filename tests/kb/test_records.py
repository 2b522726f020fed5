"""The project's own records as the rest of the project gets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kb.loader import KB, RecordError
from kb.records import load_classification, load_findings, load_method, load_methods, load_readings, read_methods


def test_every_file_is_a_record() -> None:
    assert list(load_methods()) == sorted(path.stem for path in (KB / "methods").glob("*.yaml"))


def test_records_are_read_once_and_cannot_be_exchanged() -> None:
    assert load_methods() is load_methods()
    with pytest.raises(TypeError):
        load_methods()["lora"] = None  # type: ignore[index]  # what must fail


def test_one_record_is_read_without_the_others_and_is_the_same() -> None:
    assert load_method("lora") == load_methods()["lora"]
    assert load_method("no_such_method") is None


def test_problems_of_all_files_are_reported_together(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text("slug: 1\n", encoding="utf-8")
    with pytest.raises(RecordError) as caught:
        read_methods(tmp_path)
    assert {Path(each.file).name for each in caught.value.problems} == {"one.yaml", "two.yaml"}


def test_a_slug_that_is_not_the_file_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_bytes((KB / "methods" / "lora.yaml").read_bytes())
    with pytest.raises(RecordError, match=r"name it lora\.yaml"):
        read_methods(tmp_path)


def test_the_surveys_sixteen_findings_are_there() -> None:
    assert list(load_findings()) == list(range(1, 17))


def test_the_surveys_classes_are_there() -> None:
    drawn = [each.id for each in load_classification().classes if each.survey]
    assert [each for each in drawn if "." not in each] == ["additive", "selective", "reparameterization"]
    circles = {each.id for each in load_classification().classes if each.circle}
    assert circles == {"additive.adapter", "additive.soft_prompt", "selective.sparse", "reparameterization.low_rank"}


def test_every_reading_says_where_it_is_to_be_read() -> None:
    lost = [key for key, reading in load_readings().items() if not (reading.arxiv or reading.url)]
    assert lost in ([], ["atlas_code"])

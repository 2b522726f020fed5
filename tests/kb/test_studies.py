"""The rows of a study are read as they are reported, or refused with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from kb.loader import RecordError
from kb.studies import COLUMNS, Row, load_studies, read_rows

RESULT = "Table 1,t5-large,770000000,rte,understanding,2490,accuracy,yes,lora,rank 8,72.2,0.4,3,2.4M,1024,0.5"


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "study.csv"
    path.write_text("\n".join((",".join(COLUMNS), *lines)) + "\n", encoding="utf-8")
    return path


def test_the_columns_are_those_that_the_documentation_names() -> None:
    assert ",".join(COLUMNS) == (
        "table,model,model_params,task,task_group,examples,metric,higher_is_better,method,configuration,"
        "value,std,seeds,trainable,memory_bytes,step_seconds"
    )


def test_a_full_row_keeps_every_value(tmp_path: Path) -> None:
    (row,) = read_rows(written(tmp_path, RESULT))
    assert row == Row(
        table="Table 1",
        model="t5-large",
        model_params=770_000_000,
        task="rte",
        task_group="understanding",
        examples=2490,
        metric="accuracy",
        higher_is_better=True,
        method="lora",
        configuration="rank 8",
        value=72.2,
        std=0.4,
        seeds=3,
        trainable="2.4M",
        memory_bytes=1024,
        step_seconds=0.5,
    )


def test_what_is_not_known_is_none_and_never_zero(tmp_path: Path) -> None:
    (row,) = read_rows(written(tmp_path, "Table 1,t5-large,,rte,understanding,,loss,no,lora,,0,,,,,"))
    assert (row.model_params, row.examples, row.std, row.seeds, row.trainable) == (None,) * 5
    assert (row.memory_bytes, row.step_seconds, row.configuration) == (None, None, "")
    assert row.value == 0
    assert not row.higher_is_better


def test_a_complaint_names_the_line(tmp_path: Path) -> None:
    path = written(tmp_path, RESULT, RESULT, RESULT.replace("72.2", "72,2"))
    with pytest.raises(RecordError, match=r"study\.csv:4: .*17 cells; write 16"):
        read_rows(path)


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.none() | st.integers(1, 10**13))
def test_numbers_survive_the_file(tmp_path_factory: pytest.TempPathFactory, value: float, memory: int | None) -> None:
    line = RESULT.replace("1024", str(memory or "")).replace("72.2", repr(value))
    (row,) = read_rows(written(tmp_path_factory.mktemp("evidence"), line))
    assert (row.value, row.memory_bytes) == (value, memory)


def test_rows_are_read_without_a_validator_and_hold_what_one_would_demand() -> None:
    assert not issubclass(Row, BaseModel)
    assert not hasattr(next(iter(load_studies().values()))[1][0], "__dict__")
    strict = TypeAdapter(tuple[Row, ...])
    for _, rows in load_studies().values():
        assert strict.validate_python(rows, strict=True) == rows


def test_studies_are_read_once() -> None:
    assert load_studies() is load_studies()


def test_the_evidence_is_broad_and_a_good_part_of_it_independent() -> None:
    studies = load_studies().values()
    assert len(studies) >= 50
    assert sum(len(rows) for _, rows in studies) >= 5000
    assert sum(not study.proposes for study, _ in studies) >= 20

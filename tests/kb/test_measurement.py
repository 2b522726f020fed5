"""Rows of measurements: written whole, read strictly, and never kept from a machine without a GPU."""

from pathlib import Path

import pytest

from kb.measurement import MEASUREMENTS, Check, Fit, Machine, Setting, Step, append, last, load_measurements, read

CARD = Machine(
    gpu="NVIDIA H100", memory_bytes=80 * 10**9, driver="580", cuda="13.0", versions={"torch": "2.13.0"}, commit="abc"
)
PROCESSOR = CARD.model_copy(update={"gpu": None, "memory_bytes": None})
SETTING = Setting(model="llama-3.2-1b", batch=4, seq=768)


def step(at: str = "2026-01-01T00:00:00Z", where: Machine = CARD, **further: object) -> Step:
    values = {"implementation": "ours", "turn": 1, "outcome": "measured", "allocated_bytes": 10, **further}
    return Step(at=at, machine=where, slug="lora", setting=SETTING, **values)


def test_rows_of_every_kind_are_read_as_they_were_written(tmp_path: Path) -> None:
    fit = Fit(
        at="2026-01-01T00:00:01Z",
        machine=CARD,
        slug="qlora",
        setting=SETTING,
        limit_gb=24,
        predicted_bytes=1,
        predicted=True,
        fitted=True,
    )
    check = Check(at="2026-01-01T00:00:02Z", machine=CARD, slug="lora", name="test_x[lora]", passed=True, seconds=0.1)
    for row in (step(), fit, check):
        append(tmp_path / "card.jsonl", row)
    assert list(read(tmp_path / "card.jsonl")) == [step(), fit, check]
    assert load_measurements(tmp_path) == (step(), fit, check)


def test_empty_or_missing_folder_holds_no_measurement(tmp_path: Path) -> None:
    assert load_measurements(tmp_path) == ()
    assert load_measurements(tmp_path / "none") == ()


def test_row_made_without_a_gpu_is_refused(tmp_path: Path) -> None:
    append(tmp_path / "scratch.jsonl", step(where=PROCESSOR))
    with pytest.raises(ValueError, match="lora was made without a GPU"):
        load_measurements(tmp_path)
    with pytest.raises(ValueError, match="this machine has none"):
        append(MEASUREMENTS / "never.jsonl", step(where=PROCESSOR))
    assert not (MEASUREMENTS / "never.jsonl").exists()


def test_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "card.jsonl"
    append(path, step())
    path.write_text(path.read_text() + '{"kind": "step", "slug": 3}\n')
    with pytest.raises(ValueError, match=r"card\.jsonl:2: step\.at"):
        list(read(path))


def test_latest_row_of_a_measurement_counts() -> None:
    rows = [step("2026-01-02T00:00:00Z", allocated_bytes=2), step("2026-01-01T00:00:00Z", allocated_bytes=1)]
    kept = last([*rows, step(turn=3)]).values()
    assert {row.turn: row.allocated_bytes for row in kept if isinstance(row, Step)} == {1: 2, 3: 10}


def test_committed_measurements_are_whole() -> None:
    for row in load_measurements():
        assert row.machine.commit, "a measurement says with which code it was made"

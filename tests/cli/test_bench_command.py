"""``peft-atlas bench``: the plan, what is refused, and that a processor writes to a scratch file alone."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from kb.measurement import MEASUREMENTS, Step, read
from profiler import campaign
from profiler.measure import Measured

invoke = CliRunner().invoke


def test_plan_is_shown_and_nothing_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    done = invoke(app, ["bench", "lora", "--plan", "--device", "cpu", "--shape", "llama-2-7b", "--output", str(path)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["lora (ours", "lora (peft"] * 2
    assert "llama-2-7b cut small, 2 × 16, bf16, checkpointing" in lines[0]
    assert not path.exists()


def test_results_are_written_and_the_next_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str]] = []

    def fake(slug: str, setting: Any, implementation: str, *rest: Any) -> Measured:
        calls.append((slug, implementation))
        return Measured("measured", trainable=1, seconds=(0.5,))

    monkeypatch.setattr(campaign.work, "__kwdefaults__", {**campaign.work.__kwdefaults__, "run": fake})
    path = tmp_path / "rows.jsonl"
    words = ["bench", "lora", "--device", "cpu", "--shape", "t5-large", "--output", str(path)]
    before = sorted(MEASUREMENTS.glob("*"))
    first = invoke(app, words)
    assert first.exit_code == 0, first.output
    assert "4 of 4 measured" in first.output
    assert [row.step_seconds for row in read(path) if isinstance(row, Step)] == [0.5] * 4
    assert "0 of 0 measured" in invoke(app, words).output
    assert len(calls) == 4
    assert sorted(MEASUREMENTS.glob("*")) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bench", "lorra"], "did you mean lora"),
        (["bench", "lora", "--shape", "t5-larg"], "did you mean t5-large"),
        (["bench", "lora", "--device", "gpu7"], "cannot be used here"),
    ],
)
def test_mistyped_word_is_refused_with_the_nearest_right_one(words: list[str], says: str) -> None:
    done = invoke(app, words)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())


def test_proof_without_a_card_says_what_is_needed(tmp_path: Path) -> None:
    done = invoke(app, ["bench", "lora", "--proof", "--device", "cpu", "--output", str(tmp_path / "rows.jsonl")])
    assert "a card with 24 GB at least is needed" in done.stderr
    assert not (tmp_path / "rows.jsonl").exists()

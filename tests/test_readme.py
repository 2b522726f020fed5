"""What the README says can be done, can be done."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINES = [line for language, block in BLOCKS if not language for line in block.splitlines()]
ROOMS = {"synthesis", "kb", "taxonomy", "recommender", "reference_impls", "profiler", "web", "cli", "tests"}
ANSWERED = [line for line in LINES if line.startswith("peft-atlas ") and not line.startswith("peft-atlas run")]


def test_the_first_lines_are_the_two_commands() -> None:
    first, second = README.splitlines()[1:3]
    assert (first.split()[:2], second.split()[:2]) == (["make", "serve"], ["make", "test"])


@pytest.mark.parametrize("line", ANSWERED)
def test_commands_answer(line: str) -> None:
    words = [sys.executable, "-m", "cli.main", *shlex.split(line)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_python_example_gives_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [block for language, block in BLOCKS if language == "python"]
    exec(compile(example, "README.md", "exec"), {})
    assert "leads" in capsys.readouterr().out


def test_every_make_command_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) <= targets


def test_the_rooms_are_the_top_level_folders() -> None:
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    folders = {path.split("/")[0] for path in listed.splitlines() if "/" in path and not path.startswith(".")}
    assert folders <= ROOMS
    assert set(re.findall(r"^\| `(\w+)/` \|", README, re.MULTILINE)) == ROOMS


def test_counts_in_prose_come_from_the_data() -> None:
    from kb.studies import load_studies

    independent = sum(not study.proposes for study, _ in load_studies().values())
    assert f"rests on {independent} independent studies" in README

"""``peft-atlas profile``: resumable, every error by name, files that a page can read."""

from __future__ import annotations

import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli import course, profile
from cli.main import app
from kb.closed_form import Profile
from kb.records import load_methods
from kb.timeline import TIMELINES, Timeline
from profiler import profiles


def _invoke(*words: str) -> Result:
    return CliRunner().invoke(app, ["profile", *words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def _empty(slug: str, refused: dict[str, str] | None = None) -> Profile:
    made = {"made_by": profile.MADE_BY, "slug": slug, "fingerprint": "f", "versions": {}, "forms": ()}
    return Profile.model_validate(made | {"refused": refused or {}})


def test_a_wrong_slug_is_told_the_nearest() -> None:
    result = _invoke("loraa")
    assert result.exit_code == 2
    assert "did you mean lora" in result.stderr


def test_a_method_without_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [method for method in profiles.runnable() if method.slug != "lora"]
    monkeypatch.setattr(profiles, "runnable", lambda: others)
    result = _invoke("lora")
    assert result.exit_code == 2
    assert "neither this project nor PEFT has code of it" in " ".join(result.stderr.split())


def test_what_is_current_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_current", lambda method: True)
    monkeypatch.setattr(profile, "_work", lambda *given: pytest.fail("nothing was to be done"))
    result = _invoke("lora", "ia3")
    assert (result.exit_code, result.stdout.split(";")[0]) == (0, "0 written with 0 forms, 2 current")


def test_fresh_does_what_is_current_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(profile, "_current", lambda method: True)
    monkeypatch.setattr(profile, "_work", lambda *given: asked.append(given) or [])
    assert _invoke("lora", "--fresh", "--jobs", "3").exit_code == 0
    assert asked == [(["lora"], 3, True)]


def test_an_error_is_said_by_name_and_ends_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    done = [profile.Done("lora", 3, 0, 1.0, None), profile.Done("ia3", 0, 0, 1.0, "ValueError: no such layer")]
    monkeypatch.setattr(profile, "_current", lambda method: False)
    monkeypatch.setattr(profile, "_work", lambda *given: done)
    result = _invoke("lora", "ia3")
    assert result.exit_code == 1
    assert "1 written with 3 forms, 0 current, 1 failed: ia3" in result.stdout


def test_the_death_of_a_process_is_an_error_of_its_method() -> None:
    future: Future[profile.Done] = Future()
    future.set_exception(MemoryError("out of memory"))
    assert profile._result(future, "lora").error == "MemoryError: out of memory"


def test_one_method_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(method: Any, known: Any) -> Profile:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(profiles, "profile", fail)
    assert profile._one("lora", fresh=True).error == "RuntimeError: shapes do not match"


def test_a_method_that_runs_nowhere_writes_the_reasons_and_says_them(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Profile] = []
    monkeypatch.setattr(profiles, "profile", lambda method, known: _empty("lora", {"ours, decoder": "it needs a bias"}))
    monkeypatch.setattr(profiles, "write", written.append)
    monkeypatch.setattr(course, "commit", lambda *given: None)
    assert "it needs a bias" in str(profile._one("lora", fresh=True).error)
    assert [found.refused for found in written] == [{"ours, decoder": "it needs a bias"}]


def test_a_timeline_is_small_readable_and_current(tmp_path: Path) -> None:
    method = load_methods()["bitfit"]
    folder = tmp_path / "timelines"
    assert course.commit(method, "ours", "f00d", profile.MADE_BY, folder) is None
    path = folder / "bitfit.json"
    found = Timeline.model_validate_json(path.read_bytes())
    assert (found.slug, found.implementation, found.fingerprint) == ("bitfit", "ours", "f00d")
    assert path.stat().st_size <= 8_000
    assert course.committed("bitfit", "f00d", folder)
    assert not course.committed("bitfit", "beef", folder)
    assert not course.committed("lora", "f00d", folder)
    assert [*folder.iterdir()] == [path]


@pytest.mark.parametrize("path", sorted(TIMELINES.glob("*.json")), ids=lambda path: path.stem)
def test_committed_timelines_are_small_and_of_methods(path: Path) -> None:
    found = Timeline.model_validate(json.loads(path.read_bytes()))
    assert found.slug == path.stem
    assert found.slug in load_methods()
    assert found.made_by == profile.MADE_BY
    assert path.stat().st_size <= 8_000

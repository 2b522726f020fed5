"""The committed report of runs on a real pretrained model: whole, current, and of methods of every class."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kb.loader import KB, load_record
from kb.schema import Method
from tests.reference_impls.pretrained import report, text
from tests.reference_impls.pretrained.__main__ import command, current
from tests.reference_impls.pretrained.plan import PLAN, STEPS

REPORT = json.loads((report.FOLDER / "report.json").read_text(encoding="utf-8"))
RUNS: dict[str, Any] = REPORT["runs"]
each_run = pytest.mark.parametrize("slug", RUNS)


def test_at_least_ten_methods_of_every_kind_ran() -> None:
    assert len(RUNS) >= 10
    kinds = {kind for entry in RUNS.values() for kind in entry["classes"]}
    for wanted in ("additive.adapter", "additive.soft_prompt", "additive.other", "selective", "reparameterization"):
        assert any(kind.startswith(wanted) for kind in kinds), wanted
    assert any(len({kind.partition(".")[0] for kind in entry["classes"]}) > 1 for entry in RUNS.values()), "no hybrid"


@each_run
def test_method_learns(slug: str) -> None:
    """On rows never seen the loss falls; a method that does not start at the base's answers has to come back first."""
    entry = RUNS[slug]
    assert len(entry["losses"]) == STEPS
    assert entry["before"] == next(iter(RUNS.values()))["before"], "all start from one model and one text"
    if load_record(KB / "methods" / f"{slug}.yaml", Method).efficiency.identity_at_init.value:
        assert entry["after"]["loss"] < entry["before"]["loss"]
    else:
        assert sum(entry["losses"][-4:]) < sum(entry["losses"][:4])


@each_run
def test_saved_adapter_answers_as_the_trained_model_did(slug: str) -> None:
    assert RUNS[slug]["reloaded"]["loss"] == pytest.approx(RUNS[slug]["after"]["loss"], rel=1e-6)


@each_run
def test_trained_numbers_are_as_many_as_the_record_says(slug: str) -> None:
    counts = RUNS[slug]["counts"]
    assert counts["trainable"] in (None, counts["trained"])
    assert RUNS[slug]["classes"] == list(load_record(KB / "methods" / f"{slug}.yaml", Method).taxonomy.classes)


@each_run
def test_run_is_as_planned(slug: str) -> None:
    assert current(RUNS[slug], PLAN[slug], RUNS[slug]["rows"])
    assert not current(RUNS[slug], PLAN[slug], "another text")
    assert " ".join(command(slug, PLAN[slug])).startswith(f"peft-atlas run {slug} --steps {STEPS}")


def test_table_and_drawing_are_what_the_figures_make() -> None:
    assert (report.FOLDER / "REPORT.md").read_text(encoding="utf-8") == report.rendered(REPORT)
    drawn = (report.FOLDER / "losses.svg").read_text(encoding="utf-8")
    assert drawn == report.drawn(RUNS)
    assert len(re.findall("<polyline", drawn)) == len(RUNS)


def test_report_is_kept_and_a_method_without_a_plan_leaves_it(tmp_path: Path) -> None:
    setting = {key: REPORT[key] for key in ("model", "text", "python", "versions")}
    first = next(iter(RUNS))
    report.write({first: RUNS[first], "no_method": RUNS[first]}, setting, tmp_path)
    assert report.read(tmp_path) == {first: RUNS[first]}


def test_text_is_the_same_every_time(tmp_path: Path) -> None:
    path, fingerprint = text.rows(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == text.ROWS
    assert all(len(json.loads(line)["text"]) >= text.CHARACTERS for line in lines)
    assert text.rows(tmp_path) == (path, fingerprint)

"""The committed report of runs on real pretrained models: whole, current, and of methods of every class."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kb.loader import KB, load_record
from kb.schema import Method
from tests.reference_impls.pretrained import report, text
from tests.reference_impls.pretrained.__main__ import command, current
from tests.reference_impls.pretrained.plan import PARTS

REPORT = json.loads((report.FOLDER / "report.json").read_text(encoding="utf-8"))
RUNS: dict[str, dict[str, Any]] = {key: part["runs"] for key, part in REPORT["parts"].items()}
each_part = pytest.mark.parametrize("key", RUNS)
each_run = pytest.mark.parametrize(
    ("key", "slug"), [(key, slug) for key, runs in RUNS.items() for slug in runs], ids=lambda value: value
)


def record(slug: str) -> Method:
    return load_record(KB / "methods" / f"{slug}.yaml", Method)


def test_every_planned_method_ran() -> None:
    assert {key: list(runs) for key, runs in RUNS.items()} == {key: list(part.plan) for key, part in PARTS.items()}


def test_methods_of_every_kind_ran() -> None:
    kinds = [entry["classes"] for runs in RUNS.values() for entry in runs.values()]
    for wanted in ("additive.adapter", "additive.soft_prompt", "additive.other", "selective", "reparameterization"):
        assert any(kind.startswith(wanted) for classes in kinds for kind in classes), wanted
    assert any(len({kind.partition(".")[0] for kind in classes}) > 1 for classes in kinds), "no hybrid"


@each_run
def test_method_learns_what_it_reads(key: str, slug: str) -> None:
    entry = RUNS[key][slug]
    losses = entry["losses"]
    assert len(losses) == entry["steps"] == PARTS[key].steps_of(slug)
    assert entry["before"] == next(iter(RUNS[key].values()))["before"], "all start from one model and one text"
    assert sum(losses[-4:]) < sum(losses[:4])


@each_run
def test_loss_falls_on_rows_never_seen(key: str, slug: str) -> None:
    """A method that starts at the base's answers improves on them at once; the others have to come back first."""
    entry = RUNS[key][slug]
    if entry["labels"] or record(slug).efficiency.identity_at_init.value:
        assert entry["after"]["loss"] < entry["before"]["loss"]


@each_run
def test_saved_adapter_answers_as_the_trained_model_did(key: str, slug: str) -> None:
    assert RUNS[key][slug]["reloaded"]["loss"] == pytest.approx(RUNS[key][slug]["after"]["loss"], rel=1e-6)


@each_run
def test_trained_numbers_are_as_many_as_the_record_says(key: str, slug: str) -> None:
    counts, said = RUNS[key][slug]["counts"], record(slug)
    assert counts["trainable"] in (None, counts["trained"] - counts["head"])
    assert RUNS[key][slug]["classes"] == list(said.taxonomy.classes)


def test_classifier_is_held_against_guessing_and_against_its_head_alone() -> None:
    for entry in RUNS["minilm"].values():
        assert entry["labels"] == list(text.PACKAGES)
        assert 0 < entry["majority"] < 0.3
        assert entry["head_alone"]["exact"] > entry["majority"]
        assert entry["counts"]["head"] == len(text.PACKAGES) * (384 + 1)


@each_run
def test_run_is_as_planned(key: str, slug: str) -> None:
    entry, part = RUNS[key][slug], PARTS[key]
    assert current(entry, part, entry["rows"])
    assert not current(entry, part, "another text")
    assert " ".join(command(slug, part)).startswith(f"peft-atlas run {slug} --steps {part.steps_of(slug)}")


@each_part
def test_tables_and_drawings_are_what_the_figures_make(key: str) -> None:
    assert (report.FOLDER / "REPORT.md").read_text(encoding="utf-8") == report.rendered(REPORT)
    drawn = (report.FOLDER / report.drawing(key)).read_text(encoding="utf-8")
    assert drawn == report.drawn(RUNS[key])
    assert len(re.findall("<polyline", drawn)) == len(RUNS[key])


def test_report_is_kept_and_a_method_without_a_plan_leaves_it(tmp_path: Path) -> None:
    setting = {key: REPORT[key] for key in ("python", "versions")}
    first = next(iter(RUNS["smollm2"]))
    run = RUNS["smollm2"][first]
    report.write({"smollm2": {first: run, "no_method": run}}, setting, tmp_path)
    report.write({"minilm": {"lora": RUNS["minilm"]["lora"]}}, setting, tmp_path)
    assert report.read(tmp_path) == {"smollm2": {first: run}, "minilm": {"lora": RUNS["minilm"]["lora"]}}


@each_part
def test_text_is_the_same_every_time_and_says_nothing_twice(key: str, tmp_path: Path) -> None:
    path, fingerprint = PARTS[key].rows(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == {"smollm2": text.ROWS, "minilm": len(text.PACKAGES) * text.ROWS_OF_A_PACKAGE}[key]
    assert len(set(lines)) == len(lines)
    assert PARTS[key].rows(tmp_path) == (path, fingerprint)


def test_docstrings_do_not_name_the_package_that_is_to_be_told(tmp_path: Path) -> None:
    path, _ = text.docstrings(tmp_path)
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        assert row["label"] not in row["text"].lower()
        assert len(row["text"]) >= text.DOCSTRING_CHARACTERS

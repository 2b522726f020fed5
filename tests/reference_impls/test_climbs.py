"""The ladder as it was climbed (``climbs.json``, written by ``make climb``) against what the records promise."""

import json
from typing import Any

import climb
import pytest

import reference_impls
from reference_impls.ladder import task

REPORT: dict[str, Any] = json.loads(climb.REPORT.read_text())
METHODS: dict[str, Any] = REPORT["methods"]
PENDING: list[str] = REPORT["pending"]
each_slug = pytest.mark.parametrize("slug", sorted(METHODS))


def test_every_implementation_has_climbed_or_is_named_as_pending() -> None:
    assert sorted([*METHODS, *PENDING]) == climb.slugs(), (
        "run python -m tests.reference_impls.climb with the missing ones"
    )


@each_slug
def test_record_runs_the_method_as_it_climbed(slug: str) -> None:
    assert climb.reference(slug) is not None, f"kb/methods/{slug}.yaml has no reference run"
    assert climb.ran_as_recorded(slug, METHODS[slug]), "run python -m tests.reference_impls.climb again"


@each_slug
def test_record_expects_the_rung_that_was_reached(slug: str) -> None:
    given, done = climb.reference(slug), METHODS[slug]
    assert given is not None
    assert done["highest"] == climb.highest(done["rungs"])
    assert given.expected_rung == done["highest"]
    if done["highest"] != tuple(task.RUNGS)[-1]:
        assert given.note, "say in the record why it climbs no higher"


@each_slug
def test_each_rung_started_below_a_fifth_and_took_less_than_a_minute(slug: str) -> None:
    for name, rung in METHODS[slug]["rungs"].items():
        assert rung["before"] < 0.2, name
        assert rung["cpu_seconds"] < 60, name


@pytest.mark.parametrize("slug", [slug for slug in reference_impls.slugs() if not climb.carries(slug)])
def test_method_that_the_base_cannot_carry_promises_no_rung_and_says_why(slug: str) -> None:
    given = climb.reference(slug)
    assert given is not None, f"kb/methods/{slug}.yaml has no reference run"
    assert given.expected_rung == "none"
    assert given.note


def test_every_method_climbs_the_first_rung_at_least() -> None:
    assert [slug for slug, entry in METHODS.items() if entry["highest"] == "none"] == []


def test_full_fine_tuning_is_above_95_percent_on_every_rung() -> None:
    assert min(rung["after"] for rung in METHODS["full_fine_tuning"]["rungs"].values()) > 0.95


def test_report_is_about_todays_ladder() -> None:
    assert REPORT["rungs"] == {name: rung.says for name, rung in task.RUNGS.items()}
    assert (REPORT["mark"], REPORT["seed"]) == (climb.MARK, 0)


@pytest.mark.parametrize(
    ("after", "reached"),
    [
        ((0.5, 1.0, 1.0), "none"),
        ((0.9, 0.89, 1.0), "rename"),
        ((1.0, 0.95, 0.1), "composition"),
        ((1, 1, 1), "new_skill"),
    ],
)
def test_highest_rung_counts_only_with_all_below(after: tuple[float, ...], reached: str) -> None:
    rungs = {name: {"after": share} for name, share in zip(task.RUNGS, after, strict=True)}
    assert climb.highest(rungs) == reached

"""The results shown for and against a method: on the right side, typical, cited."""

from __future__ import annotations

import pytest

from kb.comparison import cells
from kb.records import load_methods
from kb.studies import load_studies
from recommender.quality import quality, studies_of
from recommender.testimony import MOST

METHODS = load_methods()


@pytest.mark.parametrize("slug", sorted(METHODS))
def test_strongest_results_stand_on_their_side_with_a_reported_value(slug: str) -> None:
    told = quality(slug)
    for sign, items in ((1, told.strongest_for), (-1, told.strongest_against)):
        assert len(items) <= MOST
        assert len({item.study for item in items}) == len(items)
        for item in items:
            study, rows = load_studies()[item.study]
            assert sign * item.difference > 0
            assert item.independent == (not study.proposes)
            assert (item.relation == "own") == (slug in study.proposes)
            reported = {(row.method, row.value) for row in rows if (row.table, row.task) == (item.table, item.task)}
            assert {(slug, item.value), (item.against, item.against_value)} <= reported


def test_every_study_that_contains_a_method_has_its_line_in_the_forest() -> None:
    for slug in ("lora", "bitfit", "ia3"):
        containing = {
            study.id
            for study, rows in load_studies().values()
            if any(slug in cell.results and cell.spread > 0 for cell in cells(study, rows, METHODS))
        }
        effects = studies_of(slug)
        assert {effect.study for effect in effects} == containing
        assert all(effect.low < effect.estimate < effect.high and effect.n > 0 for effect in effects)

"""Cells: what may be compared with what, and which way is better."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kb.comparison import cells
from kb.studies import load_studies

STUDIES = load_studies()
METHODS = {row.method for _, rows in STUDIES.values() for row in rows}


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_cells_hold_each_row_at_most_once_and_nothing_mixed(name: str) -> None:
    study, rows = STUDIES[name]
    held = [row for cell in cells(study, rows, METHODS) for own in cell.results.values() for row in own]
    assert len(held) == len(set(map(id, held)))
    for cell in cells(study, rows, METHODS):
        kinds = {
            (row.table, row.model, row.task, row.metric, row.examples) for own in cell.results.values() for row in own
        }
        assert len(kinds) == 1
        assert len(cell.results) > 1


def test_best_configuration_speaks_and_less_may_be_better() -> None:
    study, every = STUDIES["peft_metamathqa"]
    rows = [row for row in every if row.metric == "test accuracy"]
    (cell,) = cells(study, rows, {"lora", "dora"})
    assert cell.best("lora").value == max(row.value for row in rows if row.method == "lora")
    turned = [replace(row, higher_is_better=False) for row in rows]
    (cell,) = cells(study, turned, {"lora", "dora"})
    assert cell.best("lora").value == min(row.value for row in rows if row.method == "lora")
    assert cell.values["lora"] == -cell.best("lora").value


def test_distances_from_the_average_add_up_to_nothing_and_have_unit_spread() -> None:
    study, rows = STUDIES["peft_metamathqa"]
    (cell,) = cells(study, rows, METHODS)
    distances = [cell.distance(method) for method in cell.values]
    assert math.isclose(sum(distances), 0, abs_tol=1e-9)
    assert math.isclose(sum(distance**2 for distance in distances) / len(distances), 1)
    assert math.isclose(cell.distance("lora", "dora"), -cell.distance("dora", "lora"))


def test_speed_and_forgetting_are_no_quality() -> None:
    study, rows = STUDIES["peft_metamathqa"]
    assert {row.task_group for row in rows} == {"reasoning", "other"}
    assert {cell.row.task_group for cell in cells(study, rows, METHODS)} == {"reasoning"}
    assert cells(*STUDIES["survey_throughput"], METHODS) == ()

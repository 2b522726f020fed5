"""The drawing of a block shows where a record says that its method acts, and what stays frozen."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from kb.records import load_methods
from web.views.diagram import WORDS, Diagram, diagram
from web.views.plan import ACROSS, DOWN, Plan


def _acting(drawn: Diagram) -> set[str]:
    return {part.site for part in drawn.parts if part.acts}


def _training(drawn: Diagram) -> set[str]:
    return {part.site for part in drawn.parts if part.trains}


@pytest.mark.parametrize("plan", [ACROSS, DOWN], ids=["across", "down"])
@pytest.mark.parametrize("slug", load_methods())
def test_every_site_of_the_record_is_marked(slug: str, plan: Plan) -> None:
    mechanism = load_methods()[slug].mechanism
    drawn = diagram(mechanism.where, mechanism.form, plan)
    acting = _acting(drawn) | {insert.site for insert in drawn.inserts}
    assert set(mechanism.where) - {"all_linear", "all_weights"} <= acting
    assert acting
    assert [note.form for note in drawn.notes] == list(mechanism.form)
    for part in drawn.parts:
        assert part.x >= 0
        assert part.x + part.width <= drawn.width
        assert part.y + part.height <= drawn.height
    for insert in drawn.inserts:
        left, top = re.findall(r"\d+", insert.path)[:2]
        assert int(left) + 30 <= drawn.width
        assert int(top) <= drawn.height


@pytest.mark.parametrize("plan", [ACROSS, DOWN], ids=["across", "down"])
def test_no_part_of_a_plan_covers_another(plan: Plan) -> None:
    """Cross-attention and a side network share a place: no method has both."""
    for further in (plan.cross, [each for each in plan.modules if each.site == "side_network"]):
        boxes = [*plan.places, *further, *(each for each in plan.modules if each.site != "side_network")]
        for one, other in combinations(boxes, 2):
            apart = one.x + one.width <= other.x or other.x + other.width <= one.x
            above = one.y + one.height <= other.y or other.y + other.height <= one.y
            assert apart or above, (one.site, other.site)


def test_both_plans_hold_the_same_parts() -> None:
    for name in ("places", "cross", "modules"):
        across, down = getattr(ACROSS, name), getattr(DOWN, name)
        assert [(each.site, each.label) for each in across] == [(each.site, each.label) for each in down]


def test_a_matrix_with_a_thin_product_beside_it_stays_frozen() -> None:
    drawn = diagram(["attention.query", "attention.value"], ["low_rank"])
    assert _acting(drawn) == {"attention.query", "attention.value"}
    assert _training(drawn) == set()
    assert [insert.site for insert in drawn.inserts] == ["attention.query", "attention.value"]
    assert drawn.summary.endswith("acts on query and value. Everything else is frozen.")


def test_parts_that_train_themselves_have_nothing_beside_them() -> None:
    drawn = diagram(["cross_attention.key", "norm"], ["in_place"])
    assert drawn.cross
    assert _training(drawn) == {"cross_attention.key", "norm"}
    assert drawn.inserts == ()


def test_biases_are_bars_and_their_matrices_stay_frozen() -> None:
    drawn = diagram(["bias"], ["in_place"])
    assert _training(drawn) == set()
    assert {insert.site for insert in drawn.inserts} == {"bias"}


def test_full_tuning_freezes_nothing() -> None:
    drawn = diagram(["all_weights"], ["full"])
    assert all(part.trains for part in drawn.parts)
    assert "frozen" not in drawn.summary


def test_all_linear_marks_every_projection_and_nothing_else() -> None:
    drawn = diagram(["all_linear"], ["rotation", "dense_delta"])
    assert {part.site for part in drawn.parts if "." in part.site} == _acting(drawn)
    assert len(drawn.inserts) == 2 * len(_acting(drawn))


def test_prompt_vectors_stand_in_front_of_the_input() -> None:
    assert diagram(["input"], ["prompt"]).tokens == (True, True, False, False, False, False)
    assert not any(diagram(["norm"], ["in_place"]).tokens)


@pytest.mark.parametrize("form", WORDS)
def test_every_form_has_words_and_an_outline(form: str) -> None:
    drawn = diagram(["attention.query"], [form])  # type: ignore[list-item]  # the parameter is a name of the table
    assert drawn.notes[0].path.startswith("M")
    assert drawn.notes[0].path.endswith("z")

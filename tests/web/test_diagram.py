"""The drawing of a block shows where a record says that its method acts, and what stays frozen."""

from __future__ import annotations

import pytest

from kb.records import load_methods
from web.views.diagram import WORDS, Diagram, diagram


def _acting(drawn: Diagram) -> set[str]:
    return {part.site for part in drawn.parts if part.acts}


def _training(drawn: Diagram) -> set[str]:
    return {part.site for part in drawn.parts if part.trains}


@pytest.mark.parametrize("slug", load_methods())
def test_every_site_of_the_record_is_marked(slug: str) -> None:
    mechanism = load_methods()[slug].mechanism
    drawn = diagram(mechanism.where, mechanism.form)
    acting = _acting(drawn) | {insert.site for insert in drawn.inserts}
    assert set(mechanism.where) - {"all_linear", "all_weights"} <= acting
    assert acting
    assert [note.form for note in drawn.notes] == list(mechanism.form)
    for part in drawn.parts:
        assert part.x >= 0
        assert part.x + part.width <= drawn.width
        assert part.y + part.height <= drawn.height


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

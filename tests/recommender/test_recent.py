"""What is remembered of requests stays small, whatever is asked."""

from kb.architecture import from_config, representative
from kb.catalogue import load_models
from recommender import Constraints, recommend
from recommender.catalogue import TYPICAL, default_catalogue
from recommender.footprint import REMEMBERED, subject
from recommender.plans import PLAIN, Sheet
from recommender.recent import KEPT, Recent


def test_the_oldest_entry_makes_room_for_a_new_one() -> None:
    table: Recent[int, int] = Recent()
    for number in range(KEPT):
        table[number] = number
    table[1] = 100
    assert (len(table), table[0], table[1]) == (KEPT, 0, 100)
    table[KEPT] = KEPT
    assert (len(table), 0 in table, table[KEPT]) == (KEPT, False, KEPT)


def test_requests_of_ever_new_lengths_leave_no_more_behind_than_the_last_ones() -> None:
    for seq in range(512, 512 + 3 * KEPT):
        recommend(Constraints(gpu_mem="24GB", params="7B", seq=seq))
    sheets: list[Sheet] = [*subject(representative(TYPICAL)).sheets.values()]
    assert sheets
    assert max(len(sheet._options) for sheet in sheets) <= KEPT
    assert len(sheets[0].about.values._long) <= KEPT


def test_a_model_that_was_not_asked_for_lately_leaves_nothing_behind() -> None:
    first = subject(representative(TYPICAL))
    recommend(Constraints(gpu_mem="24GB", params="7B"))
    assert subject(representative(TYPICAL)) is first
    assert first.sheets
    for number in range(REMEMBERED):
        subject(representative(10**8 + number * 10**7))
    assert not any((first.sheets, first.candidates, first.bases, first.extras, first.targeted))
    assert subject(representative(TYPICAL)) is not first


def test_families_of_one_shape_share_what_is_worked_out_for_their_forms() -> None:
    lora = default_catalogue().known["lora"].prepared
    models = (from_config(load_models()[name].config) for name in ("llama-3.1-8b", "mistral-7b-v0.3"))
    one, other = (Sheet(lora, subject(model), PLAIN).forms for model in models)
    assert one
    assert all(known is other[way] for way, known in one.items())

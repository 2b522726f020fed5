"""What is remembered of requests stays small, whatever is asked."""

from kb.architecture import representative
from recommender import Constraints, recommend
from recommender.catalogue import TYPICAL
from recommender.footprint import subject
from recommender.plans import Sheet
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

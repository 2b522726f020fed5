"""The collector rests only inside the block, and passes over what was there before only there."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from kb import collector
from kb.collector import keep_aside, resting, seldom, set_aside


class Ring:
    """An object that only the collector can free."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def nothing_set_aside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(collector, "_aside", False)  # a served application keeps its records aside for good
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)  # Python's own
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def dropped() -> weakref.ref[Ring]:
    return weakref.ref(Ring())


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_rests_and_resting_ends_as_it_began_even_after_an_error(before: bool) -> None:
    was = gc.isenabled()
    (gc.enable if before else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError), resting():
            1 / int(gc.isenabled())
        assert gc.isenabled() is before
    finally:
        (gc.enable if was else gc.disable)()


def test_what_was_there_before_is_passed_over_until_the_block_ends() -> None:
    with resting():
        before = dropped()
        with set_aside():
            inside = dropped()
            gc.collect()
            assert before() is not None
            assert inside() is None
        gc.collect()
        assert before() is None


def test_an_inner_block_leaves_the_outer_one_in_force() -> None:
    with resting():
        before = dropped()
        with set_aside():
            with set_aside():
                pass
            gc.collect()
            assert before() is not None


def test_what_is_kept_aside_stays_so_when_a_block_ends() -> None:
    with resting():
        held = Ring()
        keep_aside()
        kept = weakref.ref(held)
        del held
        with set_aside():
            pass
        gc.collect()
        assert kept() is not None


def test_collections_are_few_and_pass_over_what_was_there_only_inside() -> None:
    usual = gc.get_threshold()
    with resting():
        before = Ring()
        held = weakref.ref(before)
        with seldom():
            del before
            gc.collect()
            assert held() is not None
            assert gc.get_threshold() > usual
        gc.collect()
        assert held() is None
        assert gc.get_threshold() == usual

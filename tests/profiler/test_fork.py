"""Work in a copy of the process gives what it gives here, whatever becomes of the copy."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading

import pytest

from profiler import fork

HERE = os.getpid()
UNUSED = "wave"  # a module that nothing here imports


@pytest.fixture(autouse=True)
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    monkeypatch.setattr(fork, "_copyable", lambda: True)


def die_elsewhere() -> str:
    if os.getpid() != HERE:
        os._exit(1)
    return "done here"


def silent_elsewhere() -> str:
    if os.getpid() != HERE:
        threading.Event().wait()
    return "done here"


def unsendable() -> object:
    return (lambda: HERE) if os.getpid() != HERE else "done here"


class HeavyError(Exception):
    """An error that cannot be unpacked."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(one + two)


def heavy() -> str:
    if os.getpid() != HERE:
        raise HeavyError(1, 2)
    return "done here"


def wrong() -> None:
    raise ValueError("wrong everywhere")


def missing() -> None:
    import a_module_that_is_not_there  # noqa: F401


def test_one_is_computed_here_and_the_other_in_a_copy_of_the_process() -> None:
    here, there = fork.side_by_side(os.getpid, os.getpid)
    assert here == HERE != there


def test_a_module_is_imported_by_the_copy_alone_and_what_needs_it_is_called_there() -> None:
    with fork.ahead(UNUSED) as call:
        assert call(sum, [1, 2]) == 3
    with fork.ahead(UNUSED) as call:
        assert call(os.getpid) != HERE
    assert UNUSED not in sys.modules


def test_what_is_imported_already_is_called_here() -> None:
    with fork.ahead("os", "sys") as call:
        assert call(os.getpid) == HERE


@pytest.mark.parametrize("work", [die_elsewhere, unsendable, heavy])
def test_what_a_copy_cannot_say_is_computed_here(work) -> None:
    assert fork.side_by_side(lambda: 1, work) == (1, "done here")
    with fork.ahead(UNUSED) as call:
        assert call(work) == "done here"


def test_a_copy_that_says_nothing_is_not_waited_for_longer_than_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork, "PATIENCE", 0.01)
    assert fork.side_by_side(lambda: 1, silent_elsewhere) == (1, "done here")


@pytest.mark.parametrize("fails", ["here", "there"])
def test_an_error_is_raised_as_it_would_be_without_a_copy(fails: str) -> None:
    with pytest.raises(ValueError, match="wrong everywhere") as error:
        fork.side_by_side(wrong if fails == "here" else int, wrong if fails == "there" else int)
    assert str(error.value) == "wrong everywhere"


def test_a_module_that_is_not_there_is_named_when_it_is_needed() -> None:
    with (
        fork.ahead(missing_module := "a_module_that_is_not_there") as call,
        pytest.raises(ModuleNotFoundError) as error,
    ):
        call(missing)
    assert error.value.name == missing_module


def test_a_copy_ends_with_its_block_even_if_nothing_was_asked_of_it() -> None:
    with pytest.raises(ZeroDivisionError), fork.ahead(UNUSED):
        1 / int(UNUSED in sys.modules)
    assert multiprocessing.active_children() == []


def test_beside_another_thread_no_process_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        assert fork.side_by_side(os.getpid, os.getpid) == (HERE, HERE)
        with fork.ahead(UNUSED) as call:
            assert call(os.getpid) == HERE
    finally:
        ended.set()
        thread.join()

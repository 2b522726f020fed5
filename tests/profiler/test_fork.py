"""Two computations side by side give what they give one after the other, whatever becomes of the copy."""

from __future__ import annotations

import os
import threading

import pytest

from profiler import fork

HERE = os.getpid()


@pytest.fixture(autouse=True)
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    monkeypatch.setattr(fork, "_copyable", lambda: True)


def die_elsewhere() -> str:
    if os.getpid() != HERE:
        os._exit(1)
    return "done here"


def fail_elsewhere() -> str:
    if os.getpid() != HERE:
        raise ValueError("only in the copy")
    return "done here"


def test_one_is_computed_here_and_the_other_in_a_copy_of_the_process() -> None:
    here, there = fork.side_by_side(os.getpid, os.getpid)
    assert here == HERE != there


@pytest.mark.parametrize("there", [die_elsewhere, fail_elsewhere])
def test_what_goes_wrong_in_the_copy_is_done_again_here(there) -> None:
    assert fork.side_by_side(lambda: 1, there) == (1, "done here")


def test_a_result_that_cannot_be_sent_is_computed_again_here() -> None:
    assert fork.side_by_side(lambda: 1, lambda: HERE.__add__)[1](1) == HERE + 1


def test_a_copy_that_says_nothing_is_not_waited_for_longer_than_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork, "PATIENCE", 0.01)

    def silent() -> str:
        if os.getpid() != HERE:
            threading.Event().wait()
        return "done here"

    assert fork.side_by_side(lambda: 1, silent) == (1, "done here")


@pytest.mark.parametrize("fails", ["here", "there"])
def test_an_error_is_raised_as_it_would_be_without_a_copy(fails: str) -> None:
    def wrong() -> None:
        raise ValueError("wrong everywhere")

    with pytest.raises(ValueError, match="wrong everywhere"):
        fork.side_by_side(wrong if fails == "here" else int, wrong if fails == "there" else int)


def test_beside_another_thread_no_process_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        assert fork.side_by_side(os.getpid, os.getpid) == (HERE, HERE)
    finally:
        ended.set()
        thread.join()

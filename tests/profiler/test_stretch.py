"""Stretching: texts that repeat, sizes that grow, and texts that do neither."""

from __future__ import annotations

import pytest

from profiler.depth import Plan, UnevenError
from profiler.live import Held, Moment, Trace
from profiler.stretch import stretch

PLAN = Plan((4, 5), 9, 2)


def _trace(layers: int) -> Trace:
    """A prompt that grows with the depth; each block's activation is made forwards and dropped backwards."""
    trace = Trace(marks=[(0, Moment(1, "forward"))])

    def born(size: int, moment: Moment) -> int:
        trace.held.append(Held(size, size, len(trace.events), moment, "activations"))
        trace.events.append(len(trace.held))
        return len(trace.held)

    prompt = born(1024 * layers, Moment(1, "forward"))
    kept = []
    for index in range(layers):
        moment = Moment(1, "forward", "layers", index)
        trace.marks.append((len(trace.events), moment))
        kept.append(born(512 * 3, moment))
        trace.events.append(-born(2048, moment))
    for index in reversed(range(layers)):
        trace.marks.append((len(trace.events), Moment(1, "backward", "layers", index)))
        trace.events.append(-kept.pop())
    trace.marks.append((len(trace.events), Moment(1, "optimizer")))
    trace.events.append(-prompt)
    return trace


def test_blocks_repeat_and_what_grows_with_them_grows() -> None:
    got = stretch(_trace(4), _trace(5), {"layers": 9}, PLAN)
    want = _trace(9)
    assert got.events == want.events
    assert [one.size for one in got.held] == [one.size for one in want.held]
    assert got.marks == want.marks
    assert got.segments() == want.segments()


def test_what_does_not_repeat_is_said() -> None:
    with pytest.raises(UnevenError):
        stretch(_trace(4), Trace(marks=[(0, Moment(1, "forward"))]), {"layers": 9}, PLAN)
    more = _trace(5)
    more.held.append(Held(4096, 4096, len(more.events), Moment(1, "optimizer"), "optimizer"))
    more.events.append(len(more.held))
    with pytest.raises(UnevenError):
        stretch(_trace(4), more, {"layers": 9}, PLAN)

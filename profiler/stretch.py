"""From two shallow runs to a deep one: the layers of a model are uniform, so their events repeat.

A trace is read as a text. A birth is a word that says how many bytes begin and what they turned out to hold; a death says
which of the living storages of one kind ends, counted from the oldest or from the youngest; a mark says where a moment
begins. The texts of two depths differ by repeats only: where the deeper one goes on with what it has just said, a period
of layers was added. Saying each such passage as often as the wanted depth asks for gives that depth's own trace, which
can be cut into moments and replayed by the allocator as if it had been run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from profiler.depth import Plan, UnevenError
from profiler.live import Held, Moment, Trace

_FAR = 512  # words that are compared to tell the right length of a repeat from an accidental one

Word = tuple[Any, ...]
"""A birth is "+", kind, bytes, workspace; a death "-", kind, bytes, rank, workspace; a mark "mark", step, phase, stack, how,
number. A kind is part, step, phase, and the place among the births of its block (-1 outside of blocks, or where places are
not told); a rank counts from the oldest if it is 0 or above, else from the youngest.
"""


def stretch(one: Trace, two: Trace, lengths: dict[str, int], plan: Plan) -> Trace:
    """The trace at ``plan.wanted`` layers from those at ``plan.depths``; ``lengths`` of the stacks at the wanted depth.

    Raises ``UnevenError`` when the traces differ by more than repeats.
    """
    times = (plan.wanted - plan.depths[0]) // (plan.depths[1] - plan.depths[0])
    for placed in (
        True,
        False,
    ):  # places tell equal sizes apart, but shift where a block holds something for each layer
        with suppress(UnevenError):
            return _write(_said([*_read(one, placed)], [*_read(two, placed)], times, plan), lengths)
    raise UnevenError


def _read(trace: Trace, placed: bool) -> Iterator[Word]:
    """The trace in words, without what began and ended while the model was built."""
    lengths: dict[str, int] = {}
    for _, moment in trace.marks:
        lengths[moment.stack] = max(lengths.get(moment.stack, 0), moment.block + 1)
    start = next(at for at, moment in trace.marks if moment.step > 0)
    ended = {-event for event in trace.events[:start] if event < 0}
    living: dict[Word, list[int]] = {}
    kinds: dict[int, Word] = {}
    place = -1
    last: dict[tuple[int, str, str], int] = {}
    marks = iter([*trace.marks, (len(trace.events) + 1, Moment(-1, "end"))])
    at_mark, moment = next(marks)
    for at, event in enumerate([*trace.events, 0]):
        while at_mark <= at:
            yield _mark(moment, lengths[moment.stack], last)
            place = 0 if placed and moment.block >= 0 else -1
            at_mark, moment = next(marks)
        if not event or abs(event) in ended:
            continue
        held = trace.held[abs(event) - 1]
        lent = trace.extra.get(at, 0)
        if event > 0:
            kind = kinds[event] = (held.part, held.moment.step, held.moment.phase, place)
            place += place >= 0
            living.setdefault((kind, held.size), []).append(event)
            yield "+", kind, held.size, lent
        else:
            kind = kinds[-event]
            same = living[kind, held.size]
            rank = same.index(-event)
            yield "-", kind, held.size, rank if rank + 1 < len(same) - rank else rank - len(same), lent
            del same[rank]


def _mark(moment: Moment, length: int, last: dict[tuple[int, str, str], int]) -> Word:
    """A moment; its block as a step from the last one of its kind, or as a place from the start or the end."""
    if moment.block < 0:
        return "mark", moment.step, moment.phase, moment.stack, "none", -1
    key = (moment.step, moment.phase, moment.stack)
    before, last[key] = last.get(key), moment.block
    if before is not None and abs(moment.block - before) <= 1:
        return "mark", *key, "step", moment.block - before
    from_end = moment.block - length
    return ("mark", *key, "start", moment.block) if moment.block < -from_end else ("mark", *key, "end", from_end)


def _said(short: Sequence[Word], long: Sequence[Word], times: int, plan: Plan) -> Iterator[Word]:
    """The words at the wanted depth: what both say once, what only the longer one says ``times`` times."""
    names: dict[Word, int] = {}
    a, b = ([names.setdefault(word, len(names)) for word in words] for words in (short, long))
    bare: dict[Word, int] = {}  # the same without bytes
    c, d = ([bare.setdefault(_bare(word), len(bare)) for word in words] for words in (short, long))
    i = j = 0
    while i < len(a) or j < len(b):
        if i < len(a) and j < len(b) and a[i] == b[j]:
            yield long[j]
            i, j = i + 1, j + 1
            continue
        repeat = _repeat(a, b, b, i, j)
        if not repeat and i < len(a) and j < len(b) and (word := _between(short[i], long[j], plan)):
            yield word
            i, j = i + 1, j + 1
        elif repeat := repeat or _repeat(c, d, b, i, j):
            for _ in range(times):
                yield from long[j : j + repeat]
            j += repeat
        else:
            raise UnevenError


def _bare(word: Word) -> Word:
    return word if word[0] == "mark" else (*word[:2], *word[3:-1])


def _repeat(a: list[int], b: list[int], exact: list[int], i: int, j: int) -> int:
    """How many words of ``b`` from ``j`` on say again what was said just before, so that ``a`` from ``i`` on follows.

    What is said again has to be the same in ``exact``.
    """
    best, found = 0, 0
    follows = a[i] if i < len(a) else None
    for length in range(1, min(j, len(b) - j) + 1):
        after = j + length
        if (b[after] if after < len(b) else None) != follows or exact[j:after] != exact[j - length : j]:
            continue
        alike = 0
        while alike < _FAR and i + alike < len(a) and after + alike < len(b) and a[i + alike] == b[after + alike]:
            alike += 1
        if alike == _FAR or i + alike == len(a):
            return length
        if alike > best or not found:
            best, found = alike, length
    return found


def _between(one: Word, two: Word, plan: Plan) -> Word | None:
    """A word whose number of bytes grows with the depth, as of a prompt that holds something for each layer."""
    if one[0] == "mark" or _bare(one) != _bare(two):
        return None
    return *two[:2], plan.line(one[2], two[2]), *two[3:-1], plan.line(one[-1], two[-1])


def _write(words: Iterator[Word], lengths: dict[str, int]) -> Trace:
    """The trace that the words tell."""
    trace = Trace()
    living: dict[Word, list[int]] = {}
    blocks: dict[tuple[int, str, str], int] = {}
    moment = Moment(0, "build")
    for word in words:
        if word[0] == "mark":
            key = step, phase, stack = word[1:4]
            how, number = word[4:]
            if how == "none":
                moment = Moment(step, phase, stack)
            else:
                start = {"step": blocks.get(key, 0), "start": 0, "end": lengths.get(stack, 0)}[how]
                blocks[key] = start + number
                moment = Moment(step, phase, stack, blocks[key])
            trace.marks.append((len(trace.events), moment))
            continue
        if word[-1]:
            trace.extra[len(trace.events)] = word[-1]
        same = living.setdefault((word[1], word[2]), [])
        if word[0] == "+":
            part, step, phase, _ = word[1]
            trace.held.append(
                Held(word[2], word[2], len(trace.events), Moment(step, phase, moment.stack, moment.block), part)
            )
            same.append(len(trace.held))
            trace.events.append(len(trace.held))
        else:
            if not -len(same) <= word[3] < len(same):
                raise UnevenError
            trace.events.append(-same.pop(word[3]))
    return trace

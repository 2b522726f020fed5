"""Closed forms read off dry runs: peak memory and work of a method as polynomials in the widths of the model.

Dry runs of a shallow model with labelled widths (``profiler.shapes``), at two depths or a few more (``profiler.layout``), give
every storage and every kernel's work as a monomial; what all have at the same place of a step becomes a straight line in the
numbers of blocks (``profiler.labels``). A step has
many instants that could be its peak. Those are kept that are the peak for some widths that real models have; a closed form
is their maximum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from operator import add
from typing import Any
from unittest.mock import patch

import numpy as np

from kb.architecture import from_config
from kb.closed_form import Implementation
from profiler import build, kernel, quantised
from profiler.account import in_words
from profiler.fake import without_values
from profiler.labels import Labels, Monomial, Polynomial, added, deepened
from profiler.layout import ENDS, OUTSIDE, UNIFORM, Layout, Spot
from profiler.live import PARTS, Live, Moment
from profiler.run import STEPS, Run, run
from profiler.settings import Settings
from profiler.shapes import Shape, sample
from profiler.spare import basis, fitted, holes

DRAWS = 64  # samples of widths by which instants are compared
SLACK = 0.002  # a peak that is never higher than the others by more than this share is left out
_DEEP = 200  # up to this depth nothing can be negative; it is where events of different depths do not correspond
_SLIGHT = 1e-4  # of all bytes: what small constants of two depths may be off
_LEVEL = 0.1  # how far it may be off: padding to powers of two is no straight line
_CUTTING = ("miss",)  # methods that cut widths into pieces of their rank

_BLOCKS = {0: "the first block", 1: "the second block", -2: "the last block", -3: "the last block but one"}
_ORDINALS = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class Instant:
    """An instant of the step that can be its peak, and what is alive then."""

    phase: str
    words: str
    parts: dict[str, Polynomial]


@dataclass(frozen=True)
class Form:
    """What was read off: the instants that can be the peak, the work of a step, and how far labels explain it."""

    instants: tuple[Instant, ...]
    gradients: Polynomial  # bytes of all gradients
    states: Polynomial  # bytes of the optimizer's states
    work: dict[str, Polynomial]  # flops, flops_fp32 (those of fp32 matrices), bytes, kernels
    spare: Polynomial  # bytes that the caching allocator reserves beyond the peak, fitted to replays
    unread: float  # share of all bytes that the labels did not explain


class _Counting(Live):
    """Keeps the work of the last step by size of tensor and product, for its monomials."""

    def __init__(self) -> None:
        self.flops: Counter[int] = Counter()
        self.flops_fp32: Counter[int] = Counter()
        self.moved: Counter[int] = Counter()
        self.launched = 0
        super().__init__()

    def count(self, flops: int, moved: list[int]) -> None:
        super().count(flops, moved)
        if self.moment.step == STEPS:
            self.launched += 1
            self.moved.update(moved)
            if flops:
                self.flops[flops] += 1
                if self.full:
                    self.flops_fp32[flops] += 1


@dataclass(frozen=True)
class _Place:
    """A stretch of the last step, in a way that does not depend on the depth."""

    phase: str
    stack: str
    spot: Spot
    turn: int = 0  # which of several such stretches, from the front or, outside the blocks, negative from the end


class _Reading:
    """One run with labelled widths, and every storage's size as a monomial."""

    def __init__(
        self, depth: int, layout: Layout, ran: tuple[Run, _Counting], labels: Labels, draws: Mapping[str, np.ndarray]
    ) -> None:
        self.depth, self.layout, (self.done, self.live), self.labels = depth, layout, ran, labels
        done = self.done
        trace = done.trace
        self.terms = [labels.read(one.exact) for one in trace.held]
        values = {key: total(dict(key), draws) for key in {tuple(terms.items()) for terms in self.terms}}
        self.draws = draws
        self.sizes = sizes = np.array(
            [
                values[tuple(terms.items())] * (1 if one.size else 0)
                for terms, one in zip(self.terms, trace.held, strict=True)
            ]
        )
        steps = np.array([sizes[event - 1] if event > 0 else -sizes[-event - 1] for event in trace.events])
        self.alive = np.cumsum(steps, axis=0)  # (events, draws)
        self.lent = {}
        for at, size in trace.extra.items():
            self.lent[at] = total(labels.read(size), draws)
            self.alive[at] += self.lent[at]
        self.places = {place: (start, end) for place, (start, end) in self._places() if start < end}

    def _places(self) -> Iterator[tuple[_Place, tuple[int, int]]]:
        trace, lengths = self.done.trace, self.done.lengths
        ends = [start for start, _ in trace.marks[1:]] + [len(trace.events)]
        outside: dict[str, list[tuple[int, int]]] = {}
        before = dict(zip(lengths, accumulate(lengths.values(), initial=0), strict=False))  # blocks of earlier stacks
        met: Counter[tuple[str, str, Spot]] = Counter()  # a loss may run through the blocks more than once
        for (start, moment), end in zip(trace.marks, ends, strict=True):
            if moment.step != STEPS:
                continue
            if moment.block < 0:
                outside.setdefault(moment.phase, []).append((start, end))
                continue
            length, ahead = lengths[moment.stack], before[moment.stack]
            for spot in self.layout.spots(self.depth, moment.block, length, ahead):
                which = moment.phase, moment.stack, spot
                yield _Place(*which, met[which]), (start, end)
                met[which] += 1
        for phase, stretches in outside.items():
            few = len(stretches) <= 2 * ENDS
            for turn in range(len(stretches)) if few else (*range(ENDS), *range(-ENDS, 0)):
                yield _Place(phase, "", OUTSIDE, turn), stretches[turn]

    def best(self, place: _Place) -> list[int]:
        """For each draw of widths, how many events after the start of ``place`` most is alive."""
        start, end = self.places[place]
        offsets: list[int] = self.alive[start:end].argmax(axis=0).tolist()
        return offsets

    def at(self, wanted: set[int]) -> dict[int, dict[str, Polynomial]]:
        """What is alive right after each of the ``wanted`` events, by part."""
        trace = self.done.trace
        now: dict[str, Polynomial] = {part: {} for part in PARTS}
        found = {}
        for at, event in enumerate(trace.events):
            held = trace.held[abs(event) - 1]
            if held.size:
                part = now[held.part or "overhead"]
                for monomial, coefficient in self.terms[abs(event) - 1].items():
                    part[monomial] = part.get(monomial, Fraction(0)) + (coefficient if event > 0 else -coefficient)
            if at in wanted:
                parts = {name: added((polynomial, 1)) for name, polynomial in now.items()}
                if at in trace.extra:
                    parts["overhead"] = added((parts["overhead"], 1), (self.labels.read(trace.extra[at]), 1))
                found[at] = parts
        return found

    def excess(self, base: Mapping[int, int]) -> Polynomial:
        """Bytes of weights beyond those of a base that holds so many storages of each size."""
        trace = self.done.trace
        ended = {-event for event in trace.events if event < 0}
        mine = Counter(
            one.exact
            for number, one in enumerate(trace.held, 1)
            if one.part == "weights" and one.size and number not in ended
        )
        mine.subtract(base)
        return added(*((self.labels.read(size), times) for size, times in mine.items() if times and size))

    def work(self) -> dict[str, Polynomial]:
        """Operations, bytes moved and kernels of the last step."""
        live = self.live
        found = {
            name: added(*((self.labels.read(size), times) for size, times in sizes.items() if size))
            for name, sizes in (("flops", live.flops), ("flops_fp32", live.flops_fp32), ("bytes", live.moved))
        }
        return {**found, "kernels": {(): Fraction(live.launched)}}

    def held(self, part: str) -> Polynomial:
        """What is held of ``part`` when the last step begins (states) or ends (gradients)."""
        trace = self.done.trace
        begins = next(at for at, moment in trace.marks if moment.step == STEPS)
        last = {number: at for at, event in enumerate(trace.events) if event < 0 for number in (-event - 1,)}
        return added(
            *(
                (self.terms[number], 1)
                for number, one in enumerate(trace.held)
                if one.part == part
                and one.size
                and (one.born >= begins if part == "gradients" else one.born < begins <= last.get(number, begins))
            )
        )

    def spare(self) -> Polynomial:
        """What the caching allocator reserves beyond the peak, fitted to replays of this trace."""
        monomials = basis(self.terms, {*self.labels.widths, self.labels.heads})
        table = np.array([value(one, self.draws) for one in monomials]).T
        beyond, whole = holes(self.done.trace, self.sizes, self.lent)
        return fitted(monomials, table, beyond, whole)

    def unread(self) -> float:
        """Share of the bytes of all storages that the labels do not explain."""
        total = sum(one.exact for one in self.done.trace.held)
        lost = sum(one.exact for one in self.done.trace.held if one.exact in self.labels.unread)
        return lost / max(total, 1)


def value(monomial: Monomial, widths: Mapping[str, Any]) -> Any:
    """The product of the widths that ``monomial`` names."""
    product: Any = np.ones_like(widths["d"])
    for name in monomial:
        product = product * widths[name]
    return product


def total(polynomial: Polynomial, widths: Mapping[str, Any]) -> Any:
    """The value of a polynomial."""
    result: Any = np.zeros_like(widths["d"])
    for monomial, coefficient in polynomial.items():
        result = result + float(coefficient) * value(monomial, widths)
    return result


@dataclass(frozen=True)
class Trial:
    """A method on a shape. ``settings`` give all but batch and length, which are labelled.

    ``knobs`` maps names of labelled widths (``r``, ``p``, ``m``, ``h``) to fields of the method's configuration, which are set
    to the labels' values; ``overrides`` are further fields.
    """

    shape: Shape
    slug: str
    settings: Settings
    implementation: Implementation
    knobs: Mapping[str, str]
    overrides: Mapping[str, object]
    layout: Layout = UNIFORM

    def run(self, depth: int) -> tuple[Run, _Counting]:
        """A run of ``depth`` layers with labelled widths, and what it counted. Raises ``ValueError`` as ``dry_run`` does."""
        widths, live = self.shape.widths, _Counting()
        fields = {**self.overrides, **{field: widths[name].value for name, field in self.knobs.items()}}
        settings = self.settings.model_copy(update={"batch": widths["b"].value, "seq": widths["s"].value})
        with patch.object(kernel, "HEAD_STEP", 1):  # labelled heads stand for those of models, which are whole steps
            done = run(self.shape.config(depth), self.slug, settings, self.implementation, fields, live)
        return done, live

    def kernels(self) -> int:
        """How many kernels a step of the shallower model starts."""
        return self.run(self.layout.depths[0])[1].launched

    def stored(self, depth: int) -> Counter[int]:
        """How many storages of each size a base of ``depth`` layers holds that is stored as ``settings`` say."""
        storage = self.settings.storage
        with without_values():
            model = build.base(self.shape.config(depth), self.settings, self.implementation, self.slug)
            if build.packs(self.slug, self.implementation) and storage != "bf16":
                quantised.quantise(model, storage, self.implementation)
            state = [*model.parameters(), *model.buffers(), *quantised.beside(model)]
            return Counter({one._cdata: one.nbytes() for one in (t.untyped_storage() for t in state)}.values())


def fit(trial: Trial, by_phase: bool = False, checked: bool = False) -> Form:
    """The closed form of a trial.

    ``by_phase`` keeps the highest instants of every phase of the step, not only of the step; with ``checked``, a further run
    at a depth of its own has to agree. Raises ``ValueError`` as ``dry_run`` does, or if it does not.
    """
    shape, knobs, layout = trial.shape, trial.knobs, trial.layout
    widths = {name: width for name, width in shape.widths.items() if name not in ("r", "p", "m", "h") or name in knobs}
    if "p" not in knobs:
        widths.pop("t")
    draws = sample(shape, DRAWS)

    def read(depth: int) -> _Reading:
        model = from_config(shape.config(depth))
        matrices: Counter[int] = Counter()
        for linear in model.reached(("all_linear",)):
            matrices[linear.d_in * linear.d_out] += linear.count
        labels = Labels(widths, shape.heads, model.parameters, trial.slug in _CUTTING, matrices)
        return _Reading(depth, layout, trial.run(depth), labels, draws)

    readings = [read(depth) for depth in layout.depths]
    instants = list(_instants(readings))
    if not {"forward", "backward"} & {one.phase for one in instants}:
        raise ValueError("its layers are not uniform: no instant of forward or backward pass corresponds at two depths")
    if checked and not _uniform(instants, read(layout.further)):
        raise ValueError("its layers are not uniform: what it holds is no straight line in their number")
    counts = [layout.counts(depth) for depth in layout.depths]
    work = [reading.work() for reading in readings]
    real = sample(shape, 4 * DRAWS, seed=1)
    real |= _blocks_of(layout, real)
    more = deepened([one.excess(trial.stored(one.depth)) for one in readings], counts)
    instants = [replace(i, parts={**i.parts, "adapter": added((i.parts["adapter"], 1), (more, 1))}) for i in instants]
    return Form(
        instants=tuple(one for group in _groups(instants, by_phase) for one in prune(group, real)),
        gradients=deepened([reading.held("gradients") for reading in readings], counts),
        states=deepened([reading.held("optimizer") for reading in readings], counts),
        spare=readings[-1].spare(),
        work={name: deepened([one[name] for one in work], counts) for name in work[0]},
        unread=readings[-1].unread(),
    )


def _blocks_of(layout: Layout, draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the letters for blocks stand for at the depths that were drawn."""
    found = [layout.counts(int(depth)) for depth in draws["L"]]
    return {letter: np.array([one[letter] for one in found], dtype=float) for letter in layout.letters}


def _instants(readings: Sequence[_Reading]) -> Iterator[Instant]:
    """Every instant that is the highest of its place for some widths, at any depth.

    Blocks do the same at every depth, so their events correspond one by one; elsewhere (an optimizer works on lists of
    parameters) the highest events correspond.
    """
    first, layout = readings[0], readings[0].layout
    pairs: dict[_Place, list[tuple[int, ...]]] = {}
    for place in (place for place in first.places if all(place in other.places for other in readings)):
        best = [reading.best(place) for reading in readings]
        starts, ends = zip(*(reading.places[place] for reading in readings), strict=True)
        if len({end - start for start, end in zip(starts, ends, strict=True)}) == 1:
            best = [sorted({offset for offsets in best for offset in offsets})] * len(readings)
        pairs[place] = sorted({tuple(map(add, starts, offsets)) for offsets in zip(*best, strict=True)})
    sound = [
        {**first.draws, **{k: np.full(DRAWS, n) for k, n in layout.counts(depth).items()}}
        for depth in (layout.least, _DEEP)
    ]
    alive = [
        reading.at({at[number] for found in pairs.values() for at in found}) for number, reading in enumerate(readings)
    ]
    counts = [layout.counts(depth) for depth in layout.depths]
    for place, found in pairs.items():
        for at in found:
            parts = {
                part: deepened([one[event][part] for one, event in zip(alive, at, strict=True)], counts)
                for part in PARTS
            }
            if all(_sound(parts, widths) for widths in sound):
                yield Instant(place.phase, _words(place), parts)


def _uniform(instants: Iterable[Instant], further: _Reading) -> bool:
    """Whether ``instants``, from other depths, foretell the peak of a reading."""
    widths = {**further.draws, **further.layout.counts(further.depth)}
    foretold = np.max([sum(total(part, widths) for part in one.parts.values()) for one in instants], axis=0)
    begins = next(at for at, moment in further.done.trace.marks if moment.step == STEPS)
    return bool((abs(foretold / further.alive[begins:].max(axis=0) - 1) < _LEVEL).all())


def _sound(parts: Mapping[str, Polynomial], widths: Mapping[str, Any]) -> bool:
    """Whether no part is negative, but for a slight share of the whole."""
    values = [total(part, widths) for part in parts.values()]
    least = -_SLIGHT * sum(values)
    return all((value >= least).all() for value in values)


def _words(place: _Place) -> str:
    """Where in the step: ``in the backward pass, in the last block but one`` and its kin."""
    words = in_words(Moment(STEPS, place.phase), {}).rpartition(" (")[0]
    if place.spot == OUTSIDE:
        return words
    name = _BLOCKS[place.spot.block]
    if place.spot.group >= 0:
        return f"{words}, in {name} of the {_ORDINALS[place.spot.group]} group"
    return f"{words}, in {name}" + (
        f" of the {'decoder' if 'decoder' in place.stack else 'encoder'}" if place.stack.count("coder") else ""
    )


def _groups(instants: list[Instant], by_phase: bool) -> list[list[Instant]]:
    """All instants at once, or those of each phase."""
    phases = dict.fromkeys(one.phase for one in instants)
    return [[one for one in instants if one.phase == phase] for phase in phases] if by_phase else [instants]


def prune(instants: list[Instant], draws: Mapping[str, np.ndarray]) -> tuple[Instant, ...]:
    """The fewest instants, taken greedily, whose maximum is everywhere within ``SLACK`` of that of all."""
    values = np.array([sum(total(polynomial, draws) for polynomial in one.parts.values()) for one in instants])
    highest = values.max(axis=0)
    near = values * (1 + SLACK) >= highest  # (instants, draws)
    left, chosen = np.ones(near.shape[1], dtype=bool), []
    while left.any():
        best = int((near & left).sum(axis=1).argmax())
        chosen.append(best)
        left &= ~near[best]
    return tuple(instants[at] for at in sorted(chosen))

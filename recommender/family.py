"""What a family of models keeps and does beyond the shape that closed forms were read from (``profiler.backbones``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any, NamedTuple

from kb.closed_form import (
    NORMED,
    Backbone,
    Implementation,
    Storage,
    backbone,
    forms,
)
from kb.polynomial import EFFORT, Powers, Row, Settled, Terms, Values, Weights, constant, ends, settled
from recommender.footprint import Subject
from recommender.recent import Recent

_ROUNDING = 1e-9
_COMPUTED = ("activations", "logits", "overhead")  # what a family's own computations fill; the rest is the probe's
NOTHING = (0.0, 0.0)
Run = tuple[bool, bool]
"""Whether activations are recomputed, and whether the forward pass runs under autocast."""
SPARE = "spare"
"""Stands among phases for what the caching allocator holds beyond the peak."""
_NOMINAL = (4, 1024)  # examples and tokens at which the instants of a phase are compared


class Difference:
    """What an instant of each phase, the work and the spare bytes of one form have beyond those of another."""

    def __init__(self, own: Settled[Any], plain: Settled[Any], phases: Mapping[str, tuple[int, int]]) -> None:
        self._own, self._plain = own, plain
        self._parts = {phase: self._compared(*numbers) for phase, numbers in phases.items()}
        self.phases = tuple(phases)

    def _compared(self, number: int, other: int) -> dict[str, Weights]:
        own, plain = self._own.at(number), self._plain.at(other)
        return {part: lighter(own.get(part, {}), plain.get(part, {})) for part in _COMPUTED}

    def weights(self, name: str) -> Weights:
        """The difference of one of the forms' own polynomials, such as ``flops``."""
        return lighter(self._own.own(name), self._plain.own(name))

    @cached_property
    def heights(self) -> Row:
        """Per phase the two ends of all parts together, then those of the ``spare`` bytes."""
        phases = (ends(heavier(*parts.values())) for parts in self._parts.values())
        return tuple(chain(*phases, ends(self.weights("spare"))))

    @cached_property
    def effort(self) -> Row:
        """The two ends of ``EFFORT``."""
        return tuple(chain(*(ends(self.weights(name)) for name in EFFORT)))

    @cached_property
    def kernels(self) -> Row:
        """The kernels."""
        return (constant(self.weights("kernels")),)

    @cached_property
    def spare(self) -> Terms:
        """The ``spare`` bytes, whatever the length."""
        return settled(self.weights("spare"))

    @cached_property
    def parts(self) -> dict[str, dict[str, Terms]]:
        """Each part of each phase, whatever the length."""
        return {
            phase: {name: settled(part) for name, part in parts.items() if part} for phase, parts in self._parts.items()
        }


class Pair:
    """Two forms that differ by what a model, or the storage of its base, has beyond what forms were read from."""

    def __init__(self, own: Settled[Any], plain: Settled[Any]) -> None:
        self.own, self.plain = own, plain
        self._known: dict[tuple[tuple[str, tuple[int, int]], ...], Difference] = {}

    def difference(self, values: Values) -> Difference:
        """The difference of the highest instants of each phase, on one model."""
        own, plain = _highest(values, self.own), _highest(values, self.plain)
        phases = {phase: (number, plain[phase]) for phase, number in own.items() if phase in plain}
        key = tuple(phases.items())
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Difference(self.own, self.plain, phases)
        return found


def _highest(values: Values, of: Settled[Any]) -> dict[str, int]:
    """The number of the highest instant of each phase."""
    batch, seq = _NOMINAL
    phases = [one.phase for one in of.form.instants]
    if len({*phases}) == len(phases):
        return {phase: number for number, phase in enumerate(phases)}
    row = values.at_length(of.heights, seq)
    sizes = [standing + batch * example for standing, example in zip(row[::2], row[1::2], strict=True)]
    best: dict[str, int] = {}
    for number, phase in enumerate(phases):
        if phase not in best or sizes[number] > sizes[best[phase]]:
            best[phase] = number
    return best


class Extra:
    """What a model keeps and does beyond the shape, or the storage of its base, that forms were read from."""

    def __init__(self, values: Values, pairs: Sequence[Pair]) -> None:
        self._values = values
        self.differences = tuple(pair.difference(values) for pair in pairs)
        self._heights: Recent[int, dict[str, tuple[float, float]]] = Recent()
        self._efforts: Recent[int, Sequence[float]] = Recent()

    def heights(self, seq: int) -> dict[str, tuple[float, float]]:
        """By phase what it adds at one length, standing still and for each example; of the spare bytes as ``SPARE``."""
        found = self._heights.get(seq)
        if found is None:
            found = self._heights[seq] = {}
            for one in self.differences:
                row = self._values.at_length(one.heights, seq)
                for phase, standing, example in zip((*one.phases, SPARE), row[::2], row[1::2], strict=True):
                    more, each = found.get(phase, NOTHING)
                    found[phase] = standing + more, example + each
        return found

    def effort(self, seq: int) -> Sequence[float]:
        """What it adds to the two ends of each of the polynomials ``EFFORT``, at one length."""
        found = self._efforts.get(seq)
        if found is None:
            rows = (self._values.at_length(one.effort, seq) for one in self.differences)
            found = self._efforts[seq] = [sum(column) for column in zip(*rows, strict=True)]
        return found

    @cached_property
    def kernels(self) -> float:
        """What it adds to the kernels of a micro-batch."""
        return sum(self._values.constants(one.kernels)[0] for one in self.differences)

    @cached_property
    def spare(self) -> Powers:
        """What it adds to the bytes that the caching allocator holds beyond the peak."""
        return added(*(self._values.powers(one.spare) for one in self.differences))

    @cached_property
    def parts(self) -> dict[str, dict[str, Powers]]:
        """By phase and part, what it adds."""
        found: dict[str, dict[str, Powers]] = {}
        for one in self.differences:
            for phase, parts in one.parts.items():
                there = found.setdefault(phase, {})
                for name, terms in parts.items():
                    there[name] = added(there.get(name, {}), self._values.powers(terms))
        return found

    @cached_property
    def totals(self) -> dict[str, Powers]:
        """By phase, all parts together."""
        return {phase: added(*parts.values()) for phase, parts in self.parts.items()}


@lru_cache(maxsize=256)
def _settled(family: str, run: Run, prompt: float = 0.0) -> Settled[Backbone] | None:
    known = backbone(family, *run)
    return None if known is None else Settled(known, {"p": prompt})  # instead of the one that families were told by


@lru_cache(maxsize=256)
def _family(name: str, shape: str, run: Run, masked: str, normed: bool, prompt: float) -> Pair | None:
    """A family and its shape, where both were compared; ``masked`` its name beyond a window, the others as in ``extra``."""
    at = run, prompt
    more = NORMED if normed and _settled(f"{name}{NORMED}", *at) else ""
    family = _settled(masked, *at) if masked else None
    family, plain = family or _settled(f"{name}{more}", *at), _settled(f"{shape}{more}", *at)
    return Pair(family, plain) if family and plain else None


class Packing(NamedTuple):
    """How code runs on a base that is stored otherwise than the one that a form was read from."""

    implementation: Implementation
    storage: Storage
    autocast: bool
    everywhere: bool  # all linear layers are adapted: PEFT copies what each adapted layer of a packed base gives


@lru_cache(maxsize=64)
def _packed(packing: Packing, shape: str, checkpointing: bool) -> Pair | None:
    """LoRA on a base of that storage, and on one in bf16: they differ by what unpacking the base takes."""
    for targets in ("all_linear", "") if packing.everywhere else ("",):
        wanted = packing.implementation, checkpointing, targets
        told = {
            form.storage: form
            for form in forms("lora", shape, packing.autocast)
            if (form.implementation, form.checkpointing, form.targets) == wanted
        }
        if {packing.storage, "bf16"} <= told.keys():
            return Pair(Settled(told[packing.storage]), Settled(told["bf16"]))
    return None


def unpacked(about: Subject, packing: Packing, checkpointing: bool) -> bool:
    """Whether it is known what working on a base of that storage takes."""
    return _packed(packing, about.shape, checkpointing) is not None


def extra(
    about: Subject,
    run: Run,
    windowed: bool,
    normed: bool = False,
    packing: Packing | None = None,
    prompt: float = 0.0,
) -> Extra | None:
    """What the family of a model adds to its shape, and ``packing`` to a base in bf16; ``None`` if that is nothing, or it was never run.

    ``windowed``: on sequences that are longer than its window of attention. ``normed``: while its norms train.
    ``prompt``: tokens that a method puts in front of every example.
    """
    masked = about.masked if windowed else ""
    family = _family(about.family, about.shape, run, masked, normed, prompt)
    told = None if packing is None else _packed(packing, about.shape, run[0])
    pairs = tuple(pair for pair in (family, told) if pair is not None)
    if not pairs:
        return None
    found: Extra | None = about.extras.get(pairs)
    if found is None:
        found = about.extras[pairs] = Extra(about.values, pairs)
    return found


def heavier(*polynomials: Weights) -> Weights:
    """The sum."""
    found: Weights = {}
    for polynomial in polynomials:
        for powers, weights in polynomial.items():
            sums = found.setdefault(powers, {})
            for product, weight in weights.items():
                sums[product] = sums.get(product, 0.0) + weight
    return found


def lighter(one: Weights, other: Weights) -> Weights:
    """The difference; what cancels but for rounding is left out."""
    negative = {powers: {product: -weight for product, weight in weights.items()} for powers, weights in other.items()}
    found: Weights = {}
    for powers, weights in heavier(one, negative).items():
        taken = other.get(powers, {})
        kept = {product: w for product, w in weights.items() if abs(w) > _ROUNDING * abs(taken.get(product, 0.0))}
        if kept:
            found[powers] = kept
    return found


def added(*polynomials: Powers) -> Powers:
    """The sum."""
    found: dict[tuple[int, int], float] = {}
    for polynomial in polynomials:
        for key, value in polynomial.items():
            found[key] = found.get(key, 0.0) + value
    return found


def less(one: Powers, other: Powers) -> Powers:
    """The difference; what cancels but for rounding is left out."""
    found = added(one, {key: -value for key, value in other.items()})
    return {key: value for key, value in found.items() if abs(value) > _ROUNDING * abs(other.get(key, 0.0))}

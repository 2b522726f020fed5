"""The criteria of the score, each between 0 and 1."""

from __future__ import annotations

import math
from typing import NamedTuple

from kb.schema import Method, Source
from recommender import phrase
from recommender.answer import Citation, Criterion
from recommender.citations import Library, computed
from recommender.emphasis import CRITERIA
from recommender.phrase import Phrase
from recommender.quality import Evidence
from recommender.retention import Retention

_INFERENCE = {
    "none": 1.0,
    "elementwise": 0.9,
    "extra_layers": 0.6,
    "longer_input": 0.5,
    "extra_network": 0.3,
    None: 0.5,
}
"""The order is the survey's (Table 1, inference overhead); the distances are ours."""

_BESIDE = {"low_rank": 0.75, "scaling": 0.9, "in_place": 0.9}
"""What a form costs at inference while it stays beside the weights, where it would vanish on merging."""

_SERVERS = frozenset({"vllm"})
"""Libraries, by their name in records, that serve many adapters of a method in one batch."""
_SERVED, _UNSERVED = 0.9, 0.75
"""While tasks share a batch: the value of a method that such a library serves, and the share of it that is left to one
that none is known to serve, so that its user has to write that; chosen by us."""

_PLAIN_KNOBS = 2  # rank and scale, or what stands for them: fewer settings than that are as good as none
_KNOB = 0.02  # taken off robustness for each further setting, up to five: each can be set wrong
_UNSUPPORTED = 0.15  # taken off robustness without an independent study, half of it with one, a third with two: untried is not robust


class Standing(NamedTuple):
    """The criteria that do not depend on a request, each between 0 and 1."""

    quality: float
    inference: float
    beside: float  # inference while nothing is merged, since tasks share a batch
    robustness: float
    retention: float


def standing_values(method: Method, evidence: Evidence, kept: Retention) -> Standing:
    """Quality, inference cost (from what the method leaves at inference), robustness and retention of a method."""
    overhead = method.efficiency.inference_overhead.value
    inference = _INFERENCE[overhead]
    unmerged = min((_BESIDE[form] for form in method.mechanism.form if form in _BESIDE), default=inference)
    further = min(5, max(0, len(method.mechanism.hyperparameters) - _PLAIN_KNOBS))
    steady = 0.75 - evidence.robustness().high - _KNOB * further - _UNSUPPORTED / (1 + len(evidence.studies))
    return Standing(
        quality=quality_value(evidence.interval()[1]),
        inference=inference,
        beside=_SERVED if served(method) else _UNSERVED * min(inference, unmerged),
        robustness=min(1.0, max(0.0, steady)),
        retention=kept.value,
    )


def served(method: Method) -> bool:
    """Whether a library is known that serves many adapters of this method in one batch."""
    return any(library.name in _SERVERS for library in method.code.libraries)


def quality_value(low: float) -> float:
    """The quality criterion from the lower end of the interval: the share of a normal distribution below it."""
    return 0.5 * (1 + math.erf(low / math.sqrt(2)))


def stored_value(stored: int | None) -> float:
    """The storage criterion from bytes per task: 1 at 100 kB, 0 at 100 GB, a half if it is not known."""
    return 0.5 if stored is None else min(1.0, max(0.0, 1 - math.log10(max(stored, 10**5) / 10**5) / 6))


def values(standing: Standing, demand: float, relative_time: float, storage: float, mixed: bool) -> tuple[float, ...]:
    """The criteria in the order of ``CRITERIA``, each between 0 and 1.

    ``demand`` is the share of the usable memory that the plan needs with one example at a time, ``relative_time`` the
    step time against LoRA, ``storage`` the value of ``stored_value``, ``mixed`` whether tasks share a batch, so that
    nothing can be merged.
    """
    quality, inference, beside, robustness, retention = standing
    memory = 1 - demand if demand < 1 else 0.0
    speed = 0.8 / relative_time if relative_time > 0.8 else 1.0
    return quality, memory, speed, storage, beside if mixed else inference, robustness, retention


def score(weights: tuple[float, ...], parts: tuple[float, ...]) -> float:
    """The weighted sum of the criteria, between 0 and 1."""
    (a, b, c, d, e, f, g), (t, u, v, w, x, y, z) = weights, parts
    return a * t + b * u + c * v + d * w + e * x + f * y + g * z


class Cost(NamedTuple):
    """What a plan costs."""

    demand: float  # share of the usable memory that it takes with one example at a time
    relative: float  # time per token against LoRA's
    stored: int | None  # bytes per task


class Said(NamedTuple):
    """What a criterion stands for, in words, with its source."""

    phrase: Phrase
    source: Citation


class Notes(NamedTuple):
    """What the criteria that do not depend on a request stand for."""

    quality: Said
    storage: Citation
    inference: Said
    beside: Said
    robustness: Said
    retention: Said


SERVING = Source(
    basis="code", ref="vllm", where="vllm/lora/peft_helper.py and LoRA adapters in its documentation", grade="A"
)
PREDICTED = computed("memory model")
TIMED = computed("time model")


def standing_notes(
    method: Method, evidence: Evidence, kept: Retention, library: Library, told: Citation, measured: Citation
) -> Notes:
    """The words for ``standing_values``. ``told`` cites the studies of the method, ``measured`` those of forgetting."""
    overhead, stored = method.efficiency.inference_overhead, method.counts.stored.source
    leaving = computed("not known") if overhead.source is None else library.cite(overhead.source)
    left = Said(phrase.inference(overhead.value), leaving)
    return Notes(
        quality=Said(phrase.quality(evidence.quality()), told),
        storage=computed("not known") if stored is None else library.cite(stored),
        inference=left,
        beside=Said(
            phrase.beside(overhead.value, served(method)), library.cite(SERVING) if served(method) else leaving
        ),
        robustness=Said(phrase.robustness(method, evidence.robustness(), len(evidence.studies)), told),
        retention=Said(phrase.retention(kept), measured),
    )


def explained(
    weights: tuple[float, ...],
    parts: tuple[float, ...],
    notes: Notes,
    cost: Cost,
    wider: Cost | None,
    mixed: bool,
) -> tuple[tuple[Criterion, ...], tuple[int, ...]]:
    """The criteria with their weights, what each value stands for and where it comes from; none without weight.

    Beside them how each note sounds: above zero good, below zero bad. ``cost`` is what was scored, ``wider`` what the plan
    costs where it adapts all linear layers instead.
    """
    said = (
        notes.quality,
        Said(phrase.memory(cost.demand, wider and wider.demand), PREDICTED),
        Said(phrase.speed(cost.relative, wider and wider.relative), TIMED),
        Said(phrase.storage(cost.stored, wider and wider.stored), notes.storage),
        notes.beside if mixed else notes.inference,
        notes.robustness,
        notes.retention,
    )
    found = tuple(
        Criterion(
            name=name,
            value=round(value, 4),
            weight=round(weight, 9),
            note=words.note,
            detail=words.detail,
            source=source,
        )
        for name, value, weight, (words, source) in zip(CRITERIA, parts, weights, said, strict=True)
        if weight
    )
    return found, tuple(each.phrase.tone for each, weight in zip(said, weights, strict=True) if weight)

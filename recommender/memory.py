"""Predicted peak memory of one training step on one card, from closed forms.

``kb.closed_form`` gives what is alive at the instants that can be the peak, as polynomials read off dry runs. Here they meet
what a request decides: how frozen weights are stored, the optimizer, how many cards share the work, and whether gradients
of earlier micro-batches are carried along. ``Line`` is the result: peak memory as a function of the micro-batch.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

from kb.architecture import Architecture
from kb.closed_form import (
    PARTS,
    Backbone,
    Form,
    Powers,
    Settled,
    Terms,
    Values,
    at_length,
    backbone_key,
    backbones,
    described,
    settled,
    shape_of,
    widths,
)
from kb.device import CONTEXT, CONTEXT_HIGH, CONTEXT_LOW, prediction_range
from recommender.answer import Basis, Memory, Parts, Sizes

BF16, FP32 = 2, 4
BYTES = {"bf16": 2.0, "int8": 1.0, "nf4": 0.5 + 0.127 / 8}  # double quantisation adds 0.127 bit, 2305.14314 section 3
_SCORING = -1  # number of the instant at which all weights are scored
_WHILE_SCORING = "while all weights are scored, before training: their gradients and scores are alive"


class Optimizer(NamedTuple):
    """An optimizer beside AdamW on lists of tensors, for which the forms were read off."""

    state: float | None  # bytes per trained number; None for two states in the number's own format
    temporaries: float  # share of the temporaries of AdamW on lists, one copy of all that trains


OPTIMIZERS = {
    "adamw": Optimizer(None, 1.0),
    "adamw_fused": Optimizer(None, 0.0),
    "adamw_8bit": Optimizer(2 + 2 * 4 / 256, 0.0),  # two bytes, and a scale for each 256 numbers, 2110.02861 section 2
    "adamw_paged_8bit": Optimizer(0.0, 0.0),  # its states lie in the computer's memory
    "adafactor": Optimizer(0.02, 0.0),  # a row and a column for each matrix, 1804.04235 section 3
    "sgd": Optimizer(0.0, 0.0),
}


class Peak(NamedTuple):
    """An instant at one length of sequence: bytes that stand still, and that each example adds."""

    standing: float
    example: float
    missing: float  # gradients that are not alive here, but are when earlier micro-batches have left theirs
    number: int  # of the instant in its form


class Setting(NamedTuple):
    """What a request decides about a form."""

    seq: int
    optimizer: str
    head_chunks: int
    shards: int
    replicas: int


_NOMINAL = (4, 1024)  # examples and tokens at which the instants of a phase are compared


class Extra:
    """What a family of models keeps and does beyond the shape that forms were read from."""

    def __init__(self, values: Values, family: Backbone, shape: Backbone) -> None:
        def difference(name: str) -> Powers:
            return _minus(*(values.powers(settled((getattr(one, name),), {})) for one in (family, shape)))

        self.flops, self.flops_fp32 = difference("flops"), difference("flops_fp32")
        self.moved, self.kernels, self.spare = difference("moved"), difference("kernels"), difference("spare")
        own, plain = (_highest(values, one) for one in (family, shape))
        self.parts: dict[str, dict[str, Powers]] = {
            phase: {part: _minus(own[phase].get(part, {}), plain[phase].get(part, {})) for part in PARTS}
            for phase in own.keys() & plain.keys()
        }

    def total(self, phase: str) -> Powers:
        """All parts of a phase together."""
        return _sum(*self.parts.get(phase, {}).values())


@lru_cache(maxsize=128)
def extra(model: Architecture, checkpointing: bool) -> Extra | None:
    """What the family of ``model`` adds to its shape; ``None`` if that is nothing, or it was never run."""
    known = backbones()
    family, shape = known.get((backbone_key(model), checkpointing)), known.get((shape_of(model), checkpointing))
    if family is None or shape is None or family.model_copy(update={"family": shape.family}) == shape:
        return None
    return Extra(Values(widths(model)), family, shape)


def _highest(values: Values, of: Backbone) -> dict[str, dict[str, Powers]]:
    """The highest instant of each phase, by part."""
    batch, seq = _NOMINAL
    best: dict[str, tuple[float, dict[str, Powers]]] = {}
    for one in of.instants:
        parts: dict[str, Powers] = {name: values.powers(settled((part,), {})) for name, part in one.parts.items()}
        size = sum(standing + batch * example for standing, example in (at_length(p, seq) for p in parts.values()))
        if one.phase not in best or size > best[one.phase][0]:
            best[one.phase] = size, parts
    return {phase: parts for phase, (_, parts) in best.items()}


def _sum(*polynomials: Powers) -> Powers:
    found: dict[tuple[int, int], float] = {}
    for polynomial in polynomials:
        for key, value in polynomial.items():
            found[key] = found.get(key, 0.0) + value
    return found


def _minus(one: Powers, other: Powers) -> Powers:
    return _sum(one, {key: -value for key, value in other.items()})


class Formula:
    """A form on a model: the values of its polynomials, computed when they are asked for.

    ``through`` says whether gradients flow through the frozen model: only then does it keep what its family computes.
    ``scored``: before training, gradients of all weights and a score of each are alive, which no form of a step shows.
    """

    def __init__(
        self,
        known: Settled,
        values: Values,
        model: Architecture,
        storage: str,
        quantised: int,
        through: bool,
        scored: bool,
    ) -> None:
        self.settled, self.values, self.model, self.storage = known, values, model, storage
        self.form: Form = known.form
        self.quantised = quantised  # weights that are stored in fewer bits
        self.weights = BYTES[storage] * quantised + BF16 * (model.parameters - quantised)
        self.widest = 0.0 if storage in ("bf16", self.form.storage) else float(BF16 * model.d * model.d_ff)
        self.extra = extra(model, self.form.checkpointing) if through else None
        self.scoring = (BF16 + FP32) * model.parameters if scored else 0
        self._lines: dict[Setting, Line] = {}

    @cached_property
    def totals(self) -> tuple[Powers, ...]:
        """Per instant, everything but the weights."""
        own = (self.values.powers(terms) for terms in self.settled.totals)
        if self.extra is None:
            return tuple(own)
        more = self.extra
        return tuple(_sum(one, more.total(instant.phase)) for one, instant in zip(own, self.form.instants, strict=True))

    def parts(self, number: int) -> dict[str, Powers]:
        """One instant by part, weights left out."""
        own: dict[str, Powers] = {name: self.values.powers(terms) for name, terms in self.settled.parts[number].items()}
        if self.extra is None:
            return own
        more = self.extra.parts.get(self.form.instants[number].phase, {})
        return {name: _sum(own.get(name, {}), more.get(name, {})) for name in PARTS if name in own or more.get(name)}

    def gradients_at(self, number: int) -> float:
        """Bytes of gradients that are alive at an instant."""
        return self.constant(self.settled.parts[number].get("gradients", ()))

    def constant(self, terms: Terms) -> float:
        """The value of terms that depend on the model alone."""
        return self.values.powers(terms).get((0, 0), 0.0)

    @cached_property
    def gradients(self) -> float:
        """Bytes of all gradients."""
        return self.constant(self.settled.gradients)

    @cached_property
    def states(self) -> float:
        """Bytes of AdamW's states."""
        return self.constant(self.settled.states)

    @cached_property
    def spare(self) -> Powers:
        """What the caching allocator holds beyond the peak."""
        own = self.values.powers(self.settled.spare)
        return own if self.extra is None else _sum(own, self.extra.spare)

    @cached_property
    def work(self) -> tuple[Powers, Powers, Powers, Powers]:
        """Operations, those of fp32 matrices, bytes moved, and kernels."""
        known, more = self.settled, self.extra
        own = tuple(map(self.values.powers, (known.flops, known.flops_fp32, known.moved, known.kernels)))
        added = (more.flops, more.flops_fp32, more.moved, more.kernels) if more is not None else ({}, {}, {}, {})
        flops, fp32, moved, kernels = (_sum(a, b) for a, b in zip(own, added, strict=True))
        return flops, fp32, moved, kernels

    def line(self, setting: Setting) -> Line:
        """Peak memory as a function of the micro-batch."""
        found = self._lines.get(setting)
        if found is None:
            found = self._lines[setting] = Line(self, setting)
        return found


class Line:
    """Reserved bytes of one card over the examples of a micro-batch: the highest of a few straight lines."""

    def __init__(self, of: Formula, setting: Setting) -> None:
        self.of, self.setting = of, setting
        plain = setting[1:] == ("adamw", 1, 1, 1)
        self._fixed = (of.weights + of.widest) if plain else 0.0
        spare_standing, spare_example = at_length(of.spare, setting.seq)
        spare_standing, spare_example = max(spare_standing, 0.0), max(spare_example, 0.0)
        self.spare = (spare_standing, spare_example)
        peaks = []
        for number, total in enumerate(of.totals):
            if plain:
                standing, example = at_length(total, setting.seq)
                standing += self._fixed
            else:
                ends = self._by_part(number).values()
                standing, example = sum(one[0] for one in ends), sum(one[1] for one in ends)
            missing = max(of.gradients - of.gradients_at(number), 0.0) / setting.shards
            peaks.append(Peak(standing + spare_standing, example + spare_example, missing, number))
        if of.scoring:
            peaks.append(Peak((of.weights + of.scoring) / setting.shards, 0.0, 0.0, _SCORING))
        self.peaks = tuple(peaks)

    def _by_part(self, number: int) -> dict[str, tuple[float, float]]:
        """Every part at an instant as bytes that stand still and that each example adds, on one card."""
        of, (seq, name, chunks, shards, replicas) = self.of, self.setting
        instant = of.form.instants[number]
        ends = {part: at_length(powers, seq) for part, powers in of.parts(number).items()}
        ends["weights"] = (of.weights, 0.0)
        if not of.form.own_optimizer:
            held, example = ends.get("optimizer", (0.0, 0.0))
            temporaries = max(held - of.states, 0.0) if instant.phase == "optimizer" else 0.0
            ends["optimizer"] = (self._states(name) + OPTIMIZERS[name].temporaries * temporaries, example)
        if chunks > 1 and instant.phase.startswith("head"):
            held, example = ends.get("logits", (0.0, 0.0))
            ends["logits"] = (held, example / chunks)
        for part in ("weights", "adapter", "gradients", "optimizer"):
            held, example = ends.get(part, (0.0, 0.0))
            ends[part] = (held / shards, example)
        held, example = ends.get("overhead", (0.0, 0.0))
        ends["overhead"] = (held + of.widest + self._exchanged(shards, replicas), example)
        return ends

    def _scored(self) -> dict[str, tuple[float, float]]:
        """All weights, their gradients, and a score of each in fp32."""
        of, shards = self.of, self.setting.shards
        gradients = of.scoring * BF16 / (BF16 + FP32)
        return {
            "weights": (of.weights / shards, 0.0),
            "gradients": (gradients / shards, 0.0),
            "adapter": ((of.scoring - gradients) / shards, 0.0),
        }

    def _states(self, name: str) -> float:
        of, optimizer = self.of, OPTIMIZERS[name]
        if optimizer.state is None:
            return of.states
        size = BF16 if of.form.implementation == "ours" else FP32
        return optimizer.state * of.gradients / size

    def _exchanged(self, shards: int, replicas: int) -> float:
        """Buffers of training on several cards: a copy of the gradients, or two gathered blocks and the embedding."""
        of = self.of
        if shards > 1:
            block = BYTES[of.storage] * of.quantised / max(of.model.layers, 1)
            return 2 * block + BF16 * of.model.vocab * of.model.d
        return of.gradients if replicas > 1 else 0.0

    def reserved(self, examples: int, carried: bool = False) -> float:
        """Peak of reserved bytes with ``examples`` in a micro-batch; ``carried``: gradients of earlier ones are alive."""
        return max(one.standing + examples * one.example + carried * one.missing for one in self.peaks)

    def largest(self, room: float, share: int) -> int:
        """The largest micro-batch whose peak stays within ``room`` reserved bytes.

        That is the whole ``share`` of a card if it fits at once, else a power of two (gradients are then carried from
        one micro-batch to the next), else 0.
        """
        if self.reserved(share) <= room:
            return share
        fitting = float(share)
        for one in self.peaks:
            left = room - one.standing - one.missing
            if left < one.example:
                return 0
            if one.example > 0:
                fitting = min(fitting, left / one.example)
        return 0 if fitting < 1 else 1 << (int(fitting).bit_length() - 1)

    def top(self, examples: int, carried: bool = False) -> Peak:
        """The instant that is the peak with ``examples`` in a micro-batch."""
        return max(self.peaks, key=lambda one: one.standing + examples * one.example + carried * one.missing)

    def memory(self, examples: int, carried: bool = False) -> Memory:
        """The prediction for a micro-batch of ``examples`` sequences, by part. The parts add up to the allocated bytes."""
        top = self.top(examples, carried)
        scoring = top.number == _SCORING
        ends = self._scored() if scoring else self._by_part(top.number)
        sizes = {name: int(standing + examples * example) for name, (standing, example) in ends.items()}
        if carried:
            sizes["gradients"] = sizes.get("gradients", 0) + int(top.missing)
        allocated = sum(sizes.values())
        reserved = allocated + (0 if scoring else int(self.spare[0] + examples * self.spare[1]))
        moment = _WHILE_SCORING if scoring else self.of.form.instants[top.number].words
        return ranged(Parts(**{name: sizes.get(name, 0) for name in PARTS}), reserved, moment, "closed_form")

    def formula(self, examples: int, carried: bool = False) -> tuple[str, ...]:
        """The closed form at the peak in words, one line per part."""
        number = self.top(examples, carried).number
        if number == _SCORING:
            return ("gradients, once: 2·all weights bytes", "adapter, once: 4·all weights bytes")
        return described(self.of.form.instants[number])

    def largest_seq(self, room: float, examples: int) -> int:
        """The longest sequences, in steps of 64 tokens, whose peak stays within ``room`` reserved bytes; 0 if none."""
        low, high = 0, 1 << 15  # in steps of 64
        while low < high:
            middle = (low + high + 1) // 2
            line = self.of.line(self.setting._replace(seq=64 * middle))
            low, high = (middle, high) if line.reserved(examples) <= room else (low, middle - 1)
        return 64 * low


def ranged(parts: Parts, reserved: int, moment: str, basis: Basis, above: int = 0) -> Memory:
    """A prediction with its three quantities and their range; ``above`` bytes are added to the upper end."""
    low, high = prediction_range()
    allocated = sum(size for _, size in parts)

    def end(share: float, context: int, more: int = 0) -> Sizes:
        held = int(reserved * share) + more
        return Sizes(allocated_bytes=int(allocated * share) + more, reserved_bytes=held, device_bytes=held + context)

    return Memory(
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        device_bytes=reserved + CONTEXT,
        low=end(low, CONTEXT_LOW),
        high=end(high, CONTEXT_HIGH, above),
        parts=parts,
        moment=moment,
        basis=basis,
    )


def room(budget: float, sure: bool) -> float:
    """Reserved bytes that ``budget`` bytes of device memory leave: to the upper prediction if ``sure``, else to the middle."""
    return (budget - CONTEXT_HIGH) / prediction_range()[1] if sure else budget - CONTEXT

"""Predicted peak memory of one training step on one card, from closed forms.

``kb.closed_form`` gives what is alive at the instants that can be the peak, as polynomials read off dry runs. Here they meet
what a request decides: how frozen weights are stored, the optimizer, how many cards share the work, and whether gradients
of earlier micro-batches are carried along. ``Line`` is the result: peak memory as a function of the micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from operator import add

from kb.closed_form import PARTS, Form, Storage, described
from kb.device import ANY, Context, prediction_range
from kb.polynomial import Powers, Settled, at_length
from recommender.answer import Basis, Memory, Parts, Sizes
from recommender.base import BYTES, base, held
from recommender.family import NOTHING, SPARE, added, less
from recommender.footprint import Prepared, Subject
from recommender.setting import BF16, FP32, OPTIMIZERS, PLAIN, SHARED, Optimizer, Setting, Sharing, changed, in_pieces

_WHILE_SCORING = "while all weights are scored, before training: their gradients and scores are alive"


Ends = tuple[float, float]
"""Bytes at one length of sequence: those that stand still, and those that each example adds."""

Heights = tuple[tuple[float, ...], tuple[float, ...]]
"""Bytes at one length of sequence, per instant: those that stand still, and those that each example adds."""

OverTokens = tuple[float, float, float]
"""Bytes over lengths of sequence: those that stand still, and those that each token and each pair of tokens adds."""


class Formula:
    """A form on a model: the values of its polynomials, computed when they are asked for.

    ``windowed``: sequences are longer than the model's window of attention.
    ``of`` says whether gradients flow through the frozen model: only then does it keep what its family computes; and
    whether, before training, gradients of all weights and a score of each are alive, which no form of a step shows.
    """

    __slots__ = (
        "_parts",
        "_plain",
        "_stock",
        "_totals",
        "about",
        "extra",
        "fixed",
        "form",
        "scoring",
        "settled",
        "storage",
        "values",
        "weights",
        "widest",
    )

    def __init__(self, known: Settled[Form], about: Subject, storage: Storage, of: Prepared, windowed: bool) -> None:
        self.settled, self.form, self.about, self.storage = known, known.form, about, storage
        self.values = about.values
        self.weights, self.widest, self.extra = base(about, held(known, storage, windowed), of)
        self.scoring = (BF16 + FP32) * about.parameters if of.scored else 0
        self.fixed = self.weights + self.widest
        self._plain: tuple[int, Heights] = 0, ((), ())  # the last length of sequences, with its heights
        self._stock: Sequence[float] | None = None
        self._totals: tuple[Powers, ...] | None = None
        self._parts: dict[tuple[int, str], Powers] = {}

    @property
    def totals(self) -> tuple[Powers, ...]:
        """Per instant, everything but the weights."""
        found = self._totals
        if found is None:
            own = tuple(map(self.values.powers, self.settled.totals))
            found = self._totals = own if self.extra is None else self._with(own, self.extra.totals)
        return found

    def _with(self, own: Iterable[Powers], more: Mapping[str, Powers]) -> tuple[Powers, ...]:
        """Per instant, what the model's family adds to it, too."""
        pairs = zip(own, self.form.instants, strict=True)
        return tuple(added(one, more[at.phase]) if more.get(at.phase) else one for one, at in pairs)

    def part(self, number: int, name: str) -> Powers:
        """One part of an instant."""
        if name == "weights":
            return {(0, 0): self.weights}
        found = self._parts.get((number, name))
        if found is None:
            found = self.values.powers(self.settled.parts[number].get(name, ()))
            more = self.extra and self.extra.parts.get(self.form.instants[number].phase, {}).get(name)
            found = self._parts[number, name] = added(found, more) if more else found
        return found

    def effort(self, seq: int) -> Sequence[float]:
        """The two ends of the polynomials ``EFFORT`` at one length, with what the model's family adds."""
        own = self.values.at_length(self.settled.effort, seq)
        return own if self.extra is None else list(map(add, own, self.extra.effort(seq)))

    @property
    def stock(self) -> Sequence[float]:
        """The values of the form's ``stock``."""
        found = self._stock
        if found is None:
            found = self._stock = tuple(self.values.constants(self.settled.stock))
        return found

    @property
    def kernels(self) -> float:
        """Kernels of a micro-batch."""
        return self.stock[0] if self.extra is None else self.stock[0] + self.extra.kernels

    @property
    def gradients(self) -> float:
        """Bytes of all gradients."""
        return self.stock[1]

    @property
    def states(self) -> float:
        """Bytes of AdamW's states."""
        return self.values.constants(self.settled.states)[0]

    @property
    def missing(self) -> list[float]:
        """Per instant, bytes of gradients that are not alive then, but are when earlier micro-batches have left theirs."""
        stock = self.stock
        return [max(stock[1] - stock[number], 0.0) for number in self.settled.alive]

    def course(self, sharing: Sharing) -> Sequence[Powers]:
        """Per instant, everything that is alive on one card but ``fixed``."""
        parts = changed(sharing)
        if not parts:
            return self.totals
        return [added(total, *self._beside(number, sharing, parts)) for number, total in enumerate(self.totals)]

    def heights(self, sharing: Sharing, seq: int) -> Heights:
        """What a card reserves at one length."""
        last, plain = self._plain
        if last != seq:
            plain = self._worked_out(seq)
            self._plain = seq, plain
        parts = changed(sharing)
        if not parts:
            return plain
        moved = [at_length(added(*self._beside(n, sharing, parts)), seq) for n in range(len(self.form.instants))]
        return _raised(plain, moved)

    def _worked_out(self, seq: int) -> Heights:
        """``heights`` of a card alone, with AdamW and the head in one piece."""
        *own, spare, each = self.values.at_length(self.settled.heights, seq)
        beside = None if self.extra is None else self.extra.heights(seq)
        if beside is not None:
            more, more_each = beside[SPARE]
            spare, each = spare + more, each + more_each
        spare, each = max(spare, 0.0) + self.fixed, max(each, 0.0)
        heights: tuple[Sequence[float], Sequence[float]] = own[::2], own[1::2]
        if beside is not None:
            heights = _raised(heights, [beside.get(at.phase, NOTHING) for at in self.form.instants])
        standing, example = heights
        return tuple([one + spare for one in standing]), tuple([one + each for one in example])

    @property
    def spares(self) -> tuple[OverTokens, OverTokens]:
        """What the caching allocator holds beyond the peak, if above zero: what stands still, and what each example adds."""
        own = self.values.powers(self.settled.polynomial("spare"))
        powers = own if self.extra is None else added(own, self.extra.spare)
        standing, example = (
            {key: value for key, value in powers.items() if bool(key[0]) is batched} for batched in (False, True)
        )
        return _over_tokens(standing), _over_tokens(example)

    def _beside(self, number: int, sharing: Sharing, parts: Iterable[str]) -> list[Powers]:
        """What ``sharing`` makes of parts of an instant: the differences."""
        return [less(self.shared(number, part, sharing), self.shared(number, part, PLAIN)) for part in parts]

    def shared(self, number: int, part: str, sharing: Sharing) -> Powers:
        """One part of an instant on one card, what sharing costs included."""
        powers, phase = self.part(number, part), self.form.instants[number].phase
        if part == "optimizer" and sharing.optimizer != "adamw" and not self.form.own_optimizer:
            held = powers.get((0, 0), 0.0)
            temporaries = max(held - self.states, 0.0) if phase == "optimizer" else 0.0
            optimizer = OPTIMIZERS[sharing.optimizer]
            powers = {(0, 0): self._states(optimizer) + optimizer.temporaries * temporaries}
        if part == "logits" and sharing.head_chunks > 1 and phase.startswith("head"):
            share = in_pieces(phase, sharing.head_chunks)
            powers = {key: value * share if key[0] else value for key, value in powers.items()}
        if part == "overhead":
            powers = added(powers, {(0, 0): self.widest + self._exchanged(sharing)})
        if part in SHARED and sharing.shards > 1:
            powers = {key: value if key[0] else value / sharing.shards for key, value in powers.items()}
        return powers

    def _states(self, optimizer: Optimizer) -> float:
        if optimizer.state is None:
            return self.states
        size = BF16 if self.form.implementation == "ours" else FP32
        return optimizer.state * self.gradients / size

    def _exchanged(self, sharing: Sharing) -> float:
        """Buffers of training on several cards: a copy of the gradients, or two gathered blocks and the embedding."""
        about, model = self.about, self.about.model
        if sharing.shards > 1:
            block = BYTES[self.storage] * about.quantised / max(model.layers, 1)
            return 2 * block + BF16 * model.vocab * model.d
        return self.gradients if sharing.replicas > 1 else 0.0

    def line(self, setting: Setting) -> Line:
        """Peak memory as a function of the micro-batch."""
        return Line(self, setting)


class Line:
    """Reserved bytes of one card over the examples of a micro-batch: the highest of a few straight lines."""

    __slots__ = ("_carrying", "_peaks", "of", "setting")

    def __init__(self, of: Formula, setting: Setting) -> None:
        self.of, self.setting = of, setting
        self._peaks: Heights | None = None
        self._carrying: tuple[float, ...] | None = None

    @property
    def peaks(self) -> Heights:
        """The instants of the form; behind these that at which all weights are scored, where they are."""
        found = self._peaks
        if found is None:
            of, sharing = self.of, self.setting.sharing
            found = of.heights(sharing, self.setting.seq)
            if of.scoring:
                standing, each = found
                found = (*standing, (of.weights + of.scoring) / sharing.shards), (*each, 0.0)
            self._peaks = found
        return found

    def _by_part(self, number: int) -> dict[str, Ends]:
        """Every part at an instant as bytes that stand still and that each example adds, on one card."""
        of, (seq, sharing) = self.of, self.setting
        return {part: at_length(of.shared(number, part, sharing), seq) for part in PARTS}

    def _scored(self) -> dict[str, Ends]:
        """All weights, their gradients, and a score of each in fp32."""
        of, shards = self.of, self.setting.sharing.shards
        gradients = of.scoring * BF16 / (BF16 + FP32)
        return {
            "weights": (of.weights / shards, 0.0),
            "gradients": (gradients / shards, 0.0),
            "adapter": ((of.scoring - gradients) / shards, 0.0),
        }

    @property
    def carrying(self) -> tuple[float, ...]:
        """What stands still at the peaks when earlier micro-batches have left their gradients."""
        found = self._carrying
        if found is None:
            shards = self.setting.sharing.shards
            more = [one / shards for one in self.of.missing]
            found = self._carrying = tuple(map(add, self.peaks[0], (*more, 0.0)))  # the last is that of scoring
        return found

    def reserved(self, examples: int, carried: bool = False) -> float:
        """Peak of reserved bytes with ``examples`` in a micro-batch; ``carried``: gradients of earlier ones are alive."""
        standing, each = self.peaks
        found: float = max(map(add, self.carrying if carried else standing, [examples * one for one in each]))
        return found

    def largest(self, room: float, share: int) -> int:
        """The largest micro-batch whose peak stays within ``room`` reserved bytes.

        That is the whole ``share`` of a card if it fits at once, else a power of two (gradients are then carried from
        one micro-batch to the next), else 0.
        """
        standing, each = self.peaks
        if max(map(add, standing, each)) > room:
            return 0
        if self.reserved(share) <= room:
            return share
        standing = self.carrying
        if max(map(add, standing, each)) > room:
            return 0
        fitting = min([(room - one) / more for one, more in zip(standing, each, strict=True) if more > 0])
        return 1 << (int(min(fitting, share)).bit_length() - 1)

    def top(self, examples: int, carried: bool = False) -> int:
        """The number of the instant that is the peak with ``examples`` in a micro-batch."""
        standing, each = self.peaks
        levels = list(map(add, self.carrying if carried else standing, [examples * one for one in each]))
        return levels.index(max(levels))

    def memory(self, examples: int, carried: bool = False, context: Context = ANY) -> Memory:
        """The prediction for a micro-batch of ``examples`` sequences, by part. The parts add up to the allocated bytes.

        ``context`` is that of the card.
        """
        top = self.top(examples, carried)
        scoring = top == len(self.of.form.instants)
        ends = self._scored() if scoring else self._by_part(top)
        sizes = {name: int(standing + examples * example) for name, (standing, example) in ends.items()}
        if carried:
            sizes["gradients"] += 0 if scoring else int(self.of.missing[top] / self.setting.sharing.shards)
        reserved = int(self.reserved(examples, carried))
        moment = _WHILE_SCORING if scoring else self.of.form.instants[top].words
        parts = Parts(**{name: sizes.get(name, 0) for name in PARTS})
        return ranged(parts, reserved, moment, "closed_form", context=context)

    def device(self, examples: int, carried: bool = False, context: Context = ANY) -> tuple[int, int]:
        """The device bytes that ``memory`` predicts, and the upper end of their range."""
        reserved = int(self.reserved(examples, carried))
        return reserved + context.usual, int(reserved * prediction_range()[1]) + context.high

    def formula(self, examples: int, carried: bool = False) -> tuple[str, ...]:
        """The closed form at the peak in words, one line per part."""
        number = self.top(examples, carried)
        if number == len(self.of.form.instants):
            return ("gradients, once: 2·all weights bytes", "adapter, once: 4·all weights bytes")
        return described(self.of.form.instants[number])

    def largest_seq(self, room: float, examples: int) -> int:
        """The longest sequences, in steps of 64 tokens, whose peak stays within ``room`` reserved bytes; 0 if none."""
        of, sharing = self.of, self.setting.sharing
        if of.scoring and (of.weights + of.scoring) / sharing.shards > room:
            return 0
        courses = [_over_tokens(powers, examples) for powers in of.course(sharing)]
        spares = of.spares
        above = [one + examples * more for one, more in zip(*spares, strict=True)]
        guess = min([_reaching(room - of.fixed, map(add, course, above)) for course in courses])
        low, high = 0, 1 << 15  # in steps of 64
        first = iter((guess // 64, guess // 64 + 1))  # where the guess is right, these two tell
        while low < high:
            middle = min(max(next(first, (low + high + 1) // 2), low + 1), high)
            seq = 64 * middle
            spare, each = (max(once + seq * (token + seq * pair), 0.0) for once, token, pair in spares)
            left = room - of.fixed - spare - examples * each
            fits = max([once + seq * (token + seq * pair) for once, token, pair in courses]) <= left
            low, high = (middle, high) if fits else (low, middle - 1)
        return 64 * low


def _raised(heights: tuple[Sequence[float], Sequence[float]], by: Sequence[Ends]) -> Heights:
    """Heights with something added at each instant."""
    standing, each = heights
    return (
        tuple([one + more for one, (more, _) in zip(standing, by, strict=True)]),
        tuple([one + more for one, (_, more) in zip(each, by, strict=True)]),
    )


def _reaching(level: float, over: Iterable[float]) -> int:
    """About the length of sequences at which bytes over lengths reach ``level``."""
    once, token, pair = over
    slope = token + sqrt(max(token * token + 4 * pair * (level - once), 0.0))
    return int(2 * max(level - once, 0.0) / slope) if slope > 0 else 0


def _over_tokens(powers: Powers, examples: int = 1) -> OverTokens:
    """A polynomial for a number of examples."""
    found = [0.0, 0.0, 0.0]
    for (batches, power), value in powers.items():
        found[power] += value * examples if batches else value
    once, token, pair = found
    return once, token, pair


def ranged(parts: Parts, reserved: int, moment: str, basis: Basis, above: int = 0, context: Context = ANY) -> Memory:
    """A prediction with its three quantities and their range; ``above`` bytes are added to the upper end."""
    low, high = prediction_range()
    allocated = sum(size for _, size in parts)

    def end(share: float, beside: int, more: int = 0) -> Sizes:
        held = int(reserved * share) + more
        return Sizes(allocated_bytes=int(allocated * share) + more, reserved_bytes=held, device_bytes=held + beside)

    return Memory(
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        device_bytes=reserved + context.usual,
        low=end(low, context.low),
        high=end(high, context.high, above),
        parts=parts,
        moment=moment,
        basis=basis,
    )


def room(budget: float, sure: bool, context: Context = ANY) -> float:
    """Reserved bytes that ``budget`` bytes of device memory leave: to the upper prediction if ``sure``, else to the middle."""
    return (budget - context.high) / prediction_range()[1] if sure else budget - context.usual

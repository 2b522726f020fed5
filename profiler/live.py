"""What is alive when: every storage from its creation to its release, and the work done in between.

``Live`` is a dispatch mode. Under fake tensors it sees each operation of a training step without any value being
computed, and writes a trace: so many bytes begin here, end there. ``Trace.segments`` then cuts the trace at the borders
of phases and blocks and finds the peak of each segment, split by what the bytes hold.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from profiler.kernel import FREE, inside, passes, solver_steps, workspace

PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "overhead")
LIMIT = 300  # seconds of a processor core, after which a run is given up
BLOCK = 512  # bytes; CUDA's caching allocator hands out multiples of it


@dataclass(frozen=True, order=True)
class Moment:
    """A stretch of the trace: which step, which phase of it, and which block of which stack, if any."""

    step: int  # 0 while the model is built, then 1, 2, …
    phase: str  # "build", "forward", "head", "head backward", "backward", "optimizer"
    stack: str = ""  # dotted name of the list of blocks
    block: int = -1  # index in it


@dataclass
class Held:
    """One storage: bytes, as the allocator rounds them, where it was made, and what it turned out to hold."""

    size: int
    exact: int  # bytes as they were asked for, before rounding
    born: int  # number of its event
    moment: Moment
    part: str | None = None  # None until known


@dataclass(frozen=True)
class Peak:
    """The highest sum within a segment, by part."""

    total: int
    parts: dict[str, int]
    at: int = -1  # events before and with the one that reached it


@dataclass(frozen=True)
class Work:
    """What a step costs besides memory."""

    kernels: int = 0
    flops: int = 0
    bytes_moved: int = 0
    flops_fp32: int = 0  # of ``flops``, those of products of fp32 matrices, which tensor cores do not do by default
    kernels_inside: int = 0  # that operations launch beside the one that Python does
    solver_steps: int = 0  # columns that decompositions and solvers go through one after the other
    bytes_host: int = 0  # that are read in the computer's memory, to be converted there and to be copied

    def __add__(self, other: Work) -> Work:
        """The work of both."""
        return Work(
            self.kernels + other.kernels,
            self.flops + other.flops,
            self.bytes_moved + other.bytes_moved,
            self.flops_fp32 + other.flops_fp32,
            self.kernels_inside + other.kernels_inside,
            self.solver_steps + other.solver_steps,
            self.bytes_host + other.bytes_host,
        )


@dataclass
class Trace:
    """Events in order: a storage's number begins (+), ends (-); ``marks`` says from which event on a moment lasts."""

    events: list[int] = field(default_factory=list)  # number + 1, negative at its end
    held: list[Held] = field(default_factory=list)
    extra: dict[int, int] = field(default_factory=dict)  # event -> bytes of a kernel's workspace at that instant
    marks: list[tuple[int, Moment]] = field(default_factory=list)

    def _instants(self) -> Iterator[tuple[int, Moment, int, dict[str, int]]]:
        """After every event: how many there were, the moment, the bytes alive in all and by part, which change later on.

        A moment begins with an instant of its own, before its first event.
        """
        now = dict.fromkeys(PARTS, 0)
        total = 0
        marks = [*self.marks, (len(self.events), Moment(-1, "end"))]
        for (start, moment), (end, _) in itertools.pairwise(marks):
            yield start, moment, total, now
            for at in range(start, end):
                event = self.events[at]
                held = self.held[abs(event) - 1]
                size = held.size if event > 0 else -held.size
                total += size
                now[held.part or "overhead"] += size
                lent = self.extra.get(at)
                if lent:
                    yield at + 1, moment, total + lent, {**now, "overhead": now["overhead"] + lent}
                elif size > 0:
                    yield at + 1, moment, total, now

    def segments(self) -> dict[Moment, Peak]:
        """The peak of every moment that was marked; a moment that comes back counts once, with its higher peak."""
        found: dict[Moment, Peak] = {}
        for at, moment, total, parts in self._instants():
            best = found.get(moment)
            if best is None or total > best.total:
                found[moment] = Peak(total, dict(parts), at)
        return found

    def samples(self, step: int, count: int) -> list[tuple[Moment, dict[str, int]]]:
        """The highest instant of each of at most ``count`` equal stretches of the events of ``step``, by part."""
        starts = [at for at, moment in self.marks if moment.step == step]
        end = next((at for at, moment in self.marks if moment.step > step), len(self.events))
        width = max(1, -(-(end - starts[0]) // count))
        best: dict[int, tuple[int, Moment, dict[str, int]]] = {}
        for at, moment, total, parts in self._instants():
            if moment.step == step:
                place = min((at - starts[0]) // width, count - 1)
                if place not in best or total > best[place][0]:
                    best[place] = (total, moment, dict(parts))
        return [(moment, parts) for _, moment, parts in best.values()]

    def alive_at(self, at: int) -> list[int]:
        """Numbers of the storages alive after ``at`` events."""
        alive: dict[int, None] = {}
        for event in self.events[:at]:
            if event > 0:
                alive[event - 1] = None
            else:
                alive.pop(-event - 1, None)
        return [*alive]


class Live(TorchDispatchMode):
    """Follows storages and counts work while it is active. ``enter`` says which moment begins."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the wrapper would be passed at every operation

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()
        self.works: dict[Moment, Work] = {}
        self._numbers: dict[int, int] = {}  # address of a live storage -> its number
        self._away: set[int] = set()  # numbers of storages that are copied to the card when they are used
        self._work = Work()
        self.full = False  # whether the kernel that is being counted multiplies fp32 matrices
        self._deadline = time.thread_time() + LIMIT
        self.moment = Moment(0, "build")
        self.enter(self.moment)

    def enter(self, moment: Moment) -> None:
        """From the next event on it is ``moment``."""
        self._bank()
        self.moment = moment
        self.trace.marks.append((len(self.trace.events), moment))

    def _bank(self) -> None:
        """Adds the work since the last border to the moment that ends."""
        if self._work.kernels:
            self.works[self.moment] = self.works.get(self.moment, Work()) + self._work
            self._work = Work()

    def close(self) -> None:
        """From now on nothing is noted: the training is over, what ends does so because the run is given up."""
        self._bank()
        self._numbers.clear()

    def hold(self, tensors: Iterable[Tensor], part: str) -> None:
        """Says what these tensors hold, from their beginning; storages made outside the mode begin now."""
        for tensor in tensors:
            self._add(tensor)
            number = self._numbers.get(tensor.untyped_storage()._cdata)
            if number is not None:
                self.trace.held[number].part = part

    def part(self, tensor: Tensor) -> str | None:
        """What ``tensor`` holds, or ``None`` if that has not been said yet."""
        number = self._numbers.get(tensor.untyped_storage()._cdata)
        return None if number is None else self.trace.held[number].part

    def ignore(self, tensors: Iterable[Tensor], copied: bool = False) -> None:
        """These tensors are not on the card: their bytes do not count; ``copied`` says that they are when they are used."""
        for tensor in tensors:
            number = self._numbers.get(tensor.untyped_storage()._cdata)
            if number is not None:
                self.trace.held[number].size = 0
                if copied:
                    self._away.add(number)

    def alive(self, phases: Iterable[str], step: int) -> list[Held]:
        """Storages alive now, of unknown content, that were made in one of ``phases`` of ``step``."""
        wanted = {*phases}
        held = (self.trace.held[number] for number in self._numbers.values())
        return [one for one in held if one.part is None and one.moment.step == step and one.moment.phase in wanted]

    def total(self, step: int) -> Work:
        """The work of a whole step."""
        self._bank()
        return sum((work for moment, work in self.works.items() if moment.step == step), Work())

    def count(self, flops: int, moved: list[int]) -> None:
        """Notes the work of one kernel: operations, and the bytes of each tensor that it reads or writes."""
        self.add(Work(1, flops, sum(moved), flops if self.full else 0))

    def add(self, work: Work) -> None:
        """Notes work of the present moment."""
        self._work += work

    def _lies_away(self, tensor: Tensor) -> bool:
        return self._numbers.get(tensor.untyped_storage()._cdata) in self._away

    def _copied(self, read: list[Tensor], made: list[Tensor]) -> None:
        """A tensor of the computer's memory that the card needs: converted there if its type changes, then copied."""
        source = sum(_bytes(tensor) for tensor in read if self._lies_away(tensor))
        copied = sum(map(_bytes, made))
        converted = source if {one.dtype for one in read} != {one.dtype for one in made} else 0
        self.add(Work(kernels=1, bytes_moved=copied, bytes_host=converted + copied))

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._numbers:
            return
        number = len(self.trace.held)
        exact = storage.nbytes()
        size = (exact + BLOCK - 1) // BLOCK * BLOCK
        self._numbers[key] = number
        self.trace.held.append(Held(size, exact, len(self.trace.events), self.moment))
        self.trace.events.append(number + 1)
        weakref.finalize(storage, self._release, key, number).atexit = False

    def _release(self, key: int, number: int) -> None:
        if self._numbers.get(key) == number:
            del self._numbers[key]
            self.trace.events.append(-number - 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and notes what it made and cost; ``TimeoutError`` when the run takes too long."""
        if time.thread_time() > self._deadline:
            raise TimeoutError(f"a dry run takes more than {LIMIT} seconds of a processor core")
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [out] if isinstance(out, Tensor) else tensors_of(out)
        for tensor in made:
            self._add(tensor)
        name, free, counted = _known(func)
        if free:
            return out
        read = tensors_of((args, kwargs))
        flops = counted(*args, **kwargs, out_val=out) if counted else 0
        self.full = bool(flops) and bool(made) and made[0].element_size() > 2
        if not made:  # an operation on lists of tensors, in place: it writes what it does not return
            made = [leaf for at in _written(func) if at < len(args) for leaf in tensors_of(args[at])]
        if self._away and any(self._lies_away(tensor) for tensor in read):
            self._copied(read, made)
        else:
            self.count(flops, [_bytes(tensor) * passes(name, args) for tensor in (*read, *made)])
        more, steps = inside(name, args), solver_steps(name, args)
        if more or steps:
            self.add(Work(kernels_inside=more, solver_steps=steps))
        lent = workspace(name, args)
        if lent:
            self.trace.extra[len(self.trace.events) - 1] = lent
        return out


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@cache
def _known(func: Any) -> tuple[str, bool, Callable[..., int] | None]:
    """The name of an operation, whether it launches no kernel, and what counts its floating-point operations, if anything."""
    packet = getattr(func, "_overloadpacket", None)
    name = getattr(packet, "__name__", "")
    return name, func.is_view or name in FREE or func.namespace == "prim", flop_registry.get(packet)


@cache
def _written(func: Any) -> tuple[int, ...]:
    """Positions of the arguments that an operation writes to."""
    arguments = func._schema.arguments
    return tuple(at for at, one in enumerate(arguments) if one.alias_info is not None and one.alias_info.is_write)


def tensors_of(value: object) -> list[Tensor]:
    """Every tensor in nested lists, tuples and dicts."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]

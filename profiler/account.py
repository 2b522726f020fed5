"""A run in words: what was alive at its peak, and what an allocator holds for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kb import device
from kb.closed_form import Implementation
from profiler import sharding
from profiler.allocator import EMPTY, MIB, replay
from profiler.live import PARTS, Moment, Peak, Trace
from profiler.report import Layer, Report, Timeline
from profiler.run import STEPS, Run, peaks
from profiler.settings import Settings

SAMPLES = 300  # of a timeline
_KEPT = ("weights", "adapter", "optimizer")  # told by the parameters that they belong to
CUBLAS = 8 * MIB + 128 * 1024  # bytes; cuBLAS's workspace, ":4096:2:16:8", which it takes from the allocator


def reported(
    done: Run, slug: str, settings: Settings, implementation: Implementation, depths: tuple[int, ...]
) -> Report:
    """A run in words, on one of as many cards as were asked for."""
    trace, found = done.trace, done.peaks
    if settings.devices > 1:
        trace = sharding.share(trace, _sizes(done), settings)
        found = peaks(trace)
    moment, peak = max(found.items(), key=lambda item: item[1].total)
    reserved = replay(requests(trace, settings.emptied))
    return Report(
        slug=slug,
        implementation=implementation,
        settings=settings,
        allocated_bytes=peak.total,
        reserved_bytes=reserved,
        device_bytes=reserved + device.CONTEXT,
        device_range=(reserved + device.CONTEXT_LOW, reserved + device.CONTEXT_HIGH),
        parts={part: peak.parts[part] for part in PARTS},
        moment=in_words(moment, done.lengths),
        trainable=done.trainable,
        **vars(done.work),
        by_layer=_by_layer(done, trace, peak, settings),
        timeline=_timeline(trace, done.lengths),
        depths=depths,
    )


def _sizes(done: Run) -> sharding.Sizes:
    """What sharding has to know of the model."""
    blocks = [block for blocks in done.owned.values() for block in blocks]
    whole = [block.get("weights", 0) + block.get("adapter", 0) for block in blocks]
    trained = [block.get("gradients", 0) for block in blocks]
    total = sum(trained) + done.outside.get("gradients", 0)
    return sharding.Sizes(
        block=max(whole, default=0),
        trained_block=max(trained, default=0),
        outside=done.outside.get("weights", 0) + done.outside.get("adapter", 0),
        trained=total,
        width=max(1, total // max(1, done.trainable)),
    )


def _by_layer(done: Run, trace: Trace, peak: Peak, settings: Settings) -> tuple[Layer, ...]:
    """What was alive when ``peak`` was reached, by block: parameters where they belong, the rest where it was made."""
    shared = dict.fromkeys(sharding.DIVIDED[settings.sharding], settings.devices) if settings.devices > 1 else {}
    found = {
        (stack, index): {part: size // shared.get(part, 1) for part, size in parts.items() if part != "gradients"}
        for stack, blocks in done.owned.items()
        for index, parts in enumerate(blocks)
    }
    for number in trace.alive_at(peak.at):
        held = trace.held[number]
        own = found.get((held.moment.stack, held.moment.block))
        if own is None or held.part in _KEPT or not held.size:
            continue
        part = held.part or "overhead"
        own[part] = own.get(part, 0) + held.size
    for (stack, index), own in found.items():  # what follows the first block backwards is not the block's
        limit = done.owned[stack][index].get("gradients", 0) // shared.get("gradients", 1)
        if "gradients" in own:
            own["gradients"] = min(own["gradients"], limit)
    rest = {part: peak.parts[part] - sum(own.get(part, 0) for own in found.values()) for part in PARTS}
    layers = [(f"{stack}.{index}", own) for (stack, index), own in found.items()]
    return tuple(Layer(name=name, parts={k: v for k, v in own.items() if v}) for name, own in [*layers, ("", rest)])


def _timeline(trace: Trace, lengths: Mapping[str, int]) -> Timeline:
    """About ``SAMPLES`` instants of the last step."""
    rows = trace.samples(STEPS, SAMPLES)
    return Timeline(
        parts=PARTS,
        moments=tuple(in_words(moment, lengths) for moment, _ in rows),
        bytes=tuple(tuple(parts[part] for part in PARTS) for _, parts in rows),
    )


def requests(trace: Trace, emptied: bool) -> Iterator[tuple[int, int]]:
    """The trace as an allocator sees it: kernels' workspaces come and go, the cache is emptied before the last step.

    What was made and dropped while the model was built is left out: weights are loaded, not computed.
    """
    starts = {moment.step: at for at, moment in reversed(trace.marks)}
    built, last = trace.events[: starts[1]], starts[STEPS]
    lent = len(trace.held)
    yield lent, CUBLAS
    gone = {-event for event in built if event < 0}
    for event in built:
        if event > 0 and event not in gone and trace.held[event - 1].size:
            yield event - 1, trace.held[event - 1].size
    for at, event in enumerate(trace.events[starts[1] :], starts[1]):
        if emptied and at == last:
            yield EMPTY
        held = trace.held[abs(event) - 1]
        if at in trace.extra:
            lent += 1
            yield lent, -(-trace.extra[at] // 512) * 512
            yield lent, 0
        if held.size:
            yield abs(event) - 1, held.size if event > 0 else 0


def in_words(moment: Moment, lengths: Mapping[str, int]) -> str:
    """A moment as a person would say it."""
    place = {
        "forward": "in the forward pass",
        "head": "while logits and loss are computed",
        "head backward": "at the start of the backward pass, with the gradient of the logits",
        "backward": "in the backward pass",
        "optimizer": "in the optimizer's step",
    }[moment.phase]
    if moment.block >= 0:
        place += f", in block {moment.block + 1} of {lengths[moment.stack]}"
    return f"{place} (step {moment.step} of {STEPS})"

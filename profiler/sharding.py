"""What one of several cards holds, computed from the trace of one card that does the same work alone.

``batch`` is that of one card. Rules, for ``n`` cards:

- ddp: as alone, and one more copy of the gradients, in buckets of 25 MiB that are reduced together (PyTorch's
  ``DistributedDataParallel``: ``bucket_cap_mb`` 25, ``gradient_as_bucket_view`` off, the defaults).
- zero1: states of the optimizer, and what it makes while it steps, are divided by n; gradients are reduced through a
  bucket of at most 5·10⁸ numbers (DeepSpeed's ``reduce_bucket_size``; arXiv:1910.02054, section 5).
- zero2: so are gradients, whose bucket stays whole.
- zero3 and fsdp2: so are all parameters, tensor by tensor; two blocks' parameters are whole at a time, the one that runs
  and the next one, and so are parameters outside of the blocks, which FSDP2 does not give back between the passes
  (``fully_shard`` on every block and on the root, ``reshard_after_forward`` left at its default); two blocks'
  gradients are whole until they are reduced and scattered.

Not counted: buffers of NCCL, and the fp32 copy of bf16 parameters that DeepSpeed's own optimizer keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from profiler.live import BLOCK, Held, Moment, Trace
from profiler.settings import Settings

BUCKET = 25 << 20  # bytes, of DDP
REDUCED = 500_000_000  # numbers, of ZeRO
DIVIDED = {
    "ddp": (),
    "zero1": ("optimizer",),
    "zero2": ("optimizer", "gradients"),
    "zero3": ("optimizer", "gradients", "weights", "adapter"),
    "fsdp2": ("optimizer", "gradients", "weights", "adapter"),
}


@dataclass(frozen=True)
class Sizes:
    """Bytes of a model that is ready to be trained."""

    block: int  # parameters of its largest block
    trained_block: int  # of these, what trains
    outside: int  # parameters outside of the blocks
    trained: int  # all that trains
    width: int  # bytes of one trained number


def share(trace: Trace, sizes: Sizes, settings: Settings) -> Trace:
    """The trace of one of ``settings.devices`` cards."""
    if settings.devices == 1:
        return trace
    divided = DIVIDED[settings.sharding]
    held = [
        replace(one, size=-(-one.size // settings.devices // BLOCK) * BLOCK) if one.part in divided else one
        for one in trace.held
    ]
    start = next(at for at, moment in trace.marks if moment.step > 0)
    moment = Moment(0, "build")
    events = trace.events[:start]
    for size, part in _buffers(sizes, settings):
        held.append(Held(-(-size // BLOCK) * BLOCK, size, len(events), moment, part))
        events.append(len(held))
    more = len(events) - start
    return Trace(
        events=events + trace.events[start:],
        held=held,
        extra={at + more * (at >= start): size for at, size in trace.extra.items()},
        marks=[(at + more * (mark.step > 0), mark) for at, mark in trace.marks],
    )


def _buffers(sizes: Sizes, settings: Settings) -> list[tuple[int, str]]:
    """What is there besides, all the time: bytes and what they hold."""
    if settings.sharding == "ddp":
        whole, rest = divmod(sizes.trained, BUCKET)
        return [*[(BUCKET, "gradients")] * whole, *[(rest, "gradients")] * (rest > 0)]
    if settings.sharding in ("zero1", "zero2"):
        return [(min(REDUCED * sizes.width, sizes.trained), "gradients")]
    gathered = [(sizes.block, "weights")] * 2 + [(sizes.outside, "weights")]
    return gathered + [(sizes.trained_block, "gradients")] * 2

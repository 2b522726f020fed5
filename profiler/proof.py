"""Which batch of Llama-2-7B at 2,048 tokens fits into 24, 40 and 80 GB: as the dry run predicts it, and as a card finds it.

A large card plays a small one: PyTorch's allocator is held to the small card's memory less a CUDA context, and two training
steps are tried with the batch that is predicted to be the largest, and with one example more. The prediction is right if
the first fits and the second does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from kb import device
from kb.measurement import Fit, Machine, Setting
from profiler.build import kind_of
from profiler.dry_run import dry_run
from profiler.measure import Measured, config_of, measure, now, overrides_of, settings_of

METHODS = ("qlora", "lora", "dora", "ia3", "ladder_side_tuning", "prefix_tuning", "full_fine_tuning")
LIMITS = (24, 40, 80)  # 10⁹ bytes
SETTING = Setting(model="llama-2-7b", batch=1, seq=2048, checkpointing=True)
LARGEST = 256  # examples; no batch beyond is looked for


def room(limit_gb: int) -> int:
    """Bytes that the allocator of a card of that size may reserve."""
    return limit_gb * 10**9 - device.CONTEXT


def predicted(slug: str, setting: Setting) -> int:
    """Reserved bytes of our implementation, by a dry run; ``ValueError`` as that raises it."""
    config = config_of(setting)
    overrides = overrides_of(slug, "ours", kind_of(config), setting.small)
    return dry_run(config, slug, settings_of(setting), "ours", overrides).reserved_bytes


def largest(needs: Callable[[int], int], room: int, most: int = LARGEST) -> int:
    """The largest batch up to ``most`` whose bytes, which grow with it, are within ``room``; 0 if not even one is."""
    if needs(1) > room:
        return 0
    low, high = 1, 2
    while high <= most and needs(high) <= room:
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needs(middle) <= room else (low, middle)
    return low


def attempts(slug: str, limit_gb: int, setting: Setting = SETTING) -> Iterator[tuple[Setting, int, bool]]:
    """The batches to try: the largest predicted to fit, and the next; with the bytes predicted, and whether they fit."""
    known: dict[int, int] = {}

    def needs(batch: int) -> int:
        if batch not in known:
            known[batch] = predicted(slug, setting.model_copy(update={"batch": batch}))
        return known[batch]

    best = largest(needs, room(limit_gb))
    for batch in (best, best + 1):
        if batch > 0:
            yield setting.model_copy(update={"batch": batch}), needs(batch), batch <= best


def prove(
    slug: str,
    limit_gb: int,
    where: Machine,
    on: torch.device,
    setting: Setting = SETTING,
    run: Callable[..., Measured] | None = None,
) -> Iterator[Fit]:
    """Tries both batches on a card with at least ``limit_gb``; ``ValueError`` on a smaller one, or on none."""
    if where.gpu is None or where.memory_bytes is None or where.memory_bytes < room(limit_gb):
        raise ValueError(f"a card with {limit_gb} GB at least is needed to play one of {limit_gb} GB")
    run = run or partial(_held, share=min(1.0, room(limit_gb) / where.memory_bytes))
    for tried, reserved, fits in attempts(slug, limit_gb, setting):
        found = run(slug, tried, "ours", on, 0)
        if found.outcome == "failed":
            raise ValueError(f"{slug} cannot be tried: {found.message}")
        yield Fit(
            at=now(),
            machine=where,
            slug=slug,
            setting=tried,
            limit_gb=limit_gb,
            predicted_bytes=reserved,
            predicted=fits,
            fitted=found.outcome == "measured",
            reserved_bytes=found.reserved_bytes,
        )


def _held(slug: str, setting: Setting, implementation: str, on: torch.device, timed: int, share: float) -> Measured:
    """A measurement with the allocator held to a share of the card; the model is built within it, as on a small card."""
    torch.cuda.set_per_process_memory_fraction(share, on)
    try:
        return measure(slug, setting, "ours", on, timed)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, on)

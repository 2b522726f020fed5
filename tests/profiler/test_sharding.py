"""Several cards: what each rule divides and adds, by hand."""

from __future__ import annotations

import pytest

from profiler.live import Held, Moment, Trace
from profiler.settings import Settings
from profiler.sharding import BUCKET, Sizes, share

MIB = 1 << 20
PARTS = {"weights": 800, "adapter": 80, "gradients": 40, "optimizer": 160, "activations": 400}  # MiB
SIZES = Sizes(block=100 * MIB, trained_block=10 * MIB, outside=80 * MIB, trained=40 * MIB, width=4)


def _trace() -> Trace:
    moments = {"weights": Moment(0, "build"), "adapter": Moment(0, "build")}
    held = [
        Held(size * MIB, size * MIB, at, moments.get(part, Moment(1, "forward")), part)
        for at, (part, size) in enumerate(PARTS.items())
    ]
    return Trace([1, 2, 3, 4, 5], held, {4: 512}, [(0, Moment(0, "build")), (2, Moment(1, "forward"))])


@pytest.mark.parametrize(
    ("sharding", "want"),
    [
        ("ddp", {**PARTS, "gradients": 40 + 40}),
        ("zero1", {**PARTS, "optimizer": 40, "gradients": 40 + 40}),
        ("zero2", {**PARTS, "optimizer": 40, "gradients": 10 + 40}),
        (
            "zero3",
            {"weights": 200 + 200 + 80, "adapter": 20, "gradients": 10 + 20, "optimizer": 40, "activations": 400},
        ),
        (
            "fsdp2",
            {"weights": 200 + 200 + 80, "adapter": 20, "gradients": 10 + 20, "optimizer": 40, "activations": 400},
        ),
    ],
)
def test_four_cards_hold_their_share_and_the_buffers(sharding: str, want: dict[str, int]) -> None:
    shared = share(_trace(), SIZES, Settings(devices=4, sharding=sharding))
    peak = shared.segments()[Moment(1, "forward")]
    assert peak.parts["overhead"] == 512  # the workspace stays with its event
    assert {part: peak.parts[part] for part in want} == {part: size * MIB for part, size in want.items()}


def test_gradients_are_reduced_in_buckets() -> None:
    shared = share(_trace(), SIZES, Settings(devices=2))
    assert [one.size for one in shared.held[5:]] == [BUCKET, 40 * MIB - BUCKET]
    assert share(_trace(), SIZES, Settings()).held == _trace().held

"""Optimizers: bytes of their states by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from profiler import optimizers
from profiler.fake import without_values
from profiler.live import Live, Moment

BIG, SMALL = 1 << 20, 1 << 10  # numbers of a weight and of a bias
FP32 = 2 * 4


def _held(name: optimizers.Name) -> tuple[int, int]:
    """Bytes on the card after two steps on both tensors, and the most that a step took beyond them."""
    optimizers.ready(name)
    with without_values(), Live() as live:
        layer = nn.Linear(BIG // SMALL, SMALL, dtype=torch.bfloat16)
        optimizer = optimizers.make(name, layer)
        for step in (1, 2):
            live.enter(Moment(step, "backward"))
            for parameter in layer.parameters():
                parameter.grad = torch.zeros_like(parameter)
            live.enter(Moment(step, "optimizer"))
            before = live.trace.segments()[Moment(step, "optimizer")].total
            optimizer.step()
            live.ignore(getattr(optimizer, "elsewhere", ()))
            live.ignore(
                state for one in optimizer.state.values() for state in one.values()
                if isinstance(state, torch.Tensor) and state.dim() == 0
            )  # fmt: skip
            live.enter(Moment(step, "end"))
    peaks = live.trace.segments()
    start = 2 * 2 * (BIG + SMALL)  # parameters and gradients
    return peaks[Moment(2, "end")].total - start, peaks[Moment(2, "optimizer")].total - before


@pytest.mark.parametrize(
    ("name", "states"),
    [
        ("adamw", 2 * 2 * (BIG + SMALL)),  # in the parameter's own type
        ("adamw_fused", 2 * 2 * (BIG + SMALL)),
        ("adamw_8bit", 2 * BIG + 2 * 4 * BIG // 256 + FP32 * SMALL + 2 * 1024),  # two tables of 256 codes
        ("adamw_paged", FP32 * SMALL),
        ("adamw_paged_8bit", 2 * 4 * BIG // 256 + FP32 * SMALL + 2 * 1024),
        ("adafactor", 4 * (SMALL + SMALL) + 4 * SMALL),  # a row and a column of the weight, the bias whole
        ("sgd", 0),
    ],
)
def test_states_take_the_bytes_of_their_kind(name: optimizers.Name, states: int) -> None:
    assert _held(name)[0] == states


def test_blockwise_updates_make_nothing_and_lists_make_a_copy() -> None:
    assert _held("adamw_8bit")[1] == 0
    assert _held("adamw_fused")[1] == 0
    assert _held("adamw")[1] >= 2 * BIG
    assert _held("adafactor")[1] >= 2 * 4 * BIG  # fp32 copies of the gradient and of the weight

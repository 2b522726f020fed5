"""Following storages: on cases small enough to be counted by hand."""

from __future__ import annotations

import torch
from torch import nn

from profiler.fake import without_values
from profiler.live import Live, Moment

KIB = 1024


def test_peak_and_release_are_counted_in_blocks_of_512_bytes() -> None:
    with without_values(), Live() as live:
        live.enter(Moment(1, "forward"))
        one = torch.empty(100)  # 400 bytes -> 512
        two = one + 1  # 512 more
        del one
        three = two.exp()  # 512 again: two are alive
        live.enter(Moment(1, "backward"))
        del two, three
        four = torch.zeros(129)  # 516 bytes -> 1024
    peaks = live.trace.segments()
    assert peaks[Moment(1, "forward")].total == 1024
    assert peaks[Moment(1, "backward")].total == 1024
    assert four.numel() == 129


def test_views_and_in_place_operations_hold_nothing_new() -> None:
    with without_values(), Live() as live:
        live.enter(Moment(1, "forward"))
        x = torch.zeros(64, 64)
        y = x.t().reshape(-1, 32)[1:]  # the reshape of a transposed matrix copies, the slice does not
        y.add_(1)
        x.view(-1).mul_(2)
    assert live.trace.segments()[Moment(1, "forward")].total == 2 * 16 * KIB


def test_parts_add_up_and_are_named_afterwards() -> None:
    with without_values(), Live() as live:
        live.enter(Moment(1, "forward"))
        weight, kept = torch.zeros(256, 4), torch.zeros(256)
        live.hold([weight], "weights")
        live.hold([kept], "activations")
        scratch = kept * 2
    peak = live.trace.segments()[Moment(1, "forward")]
    assert {part: size for part, size in peak.parts.items() if size} == {
        "weights": 4 * KIB,
        "activations": KIB,
        "overhead": KIB,
    }
    assert peak.total == sum(peak.parts.values())
    assert scratch.numel() == 256


def test_work_of_a_linear_layer_is_two_operations_per_weight_and_row() -> None:
    with without_values(), Live() as live:
        layer, x = nn.Linear(32, 16, bias=False), torch.zeros(8, 32, requires_grad=True)
        live.enter(Moment(1, "forward"))
        y = layer(x)
        live.enter(Moment(2, "backward"))
        y.backward(torch.ones_like(y))
    assert live.total(1).flops == 2 * 8 * 32 * 16
    assert live.total(2).flops == 2 * (2 * 8 * 32 * 16)
    assert live.total(1).kernels == 1
    assert live.total(1).bytes_moved == 4 * (8 * 32 + 32 * 16 + 8 * 16)


def test_a_tensor_of_the_computers_memory_is_copied_when_it_is_used() -> None:
    with without_values(), Live() as live:
        away = torch.zeros(100, 100)
        live.ignore([away], copied=True)
        live.enter(Moment(1, "forward"))
        away.to(torch.bfloat16)  # converted there, then copied
        away.clone()  # copied
        live.enter(Moment(1, "end"))
    work = live.total(1)
    assert work.bytes_host == (40_000 + 20_000) + 40_000
    assert work.bytes_moved == 20_000 + 40_000
    assert work.kernels == 2


def test_work_of_solvers_and_transforms_is_told_apart() -> None:
    with without_values(), Live() as live:
        live.enter(Moment(1, "forward"))
        torch.linalg.solve(torch.zeros(5, 8, 8), torch.zeros(5, 8, 3))
        torch.fft.fft2(torch.zeros(16, 16, dtype=torch.complex64))
        torch.block_diag(*torch.zeros(6, 4, 4).unbind())
    work = live.total(1)
    assert work.solver_steps == 8
    assert work.kernels_inside == 1 + 6  # the second pass of the transform, and a copy for every block

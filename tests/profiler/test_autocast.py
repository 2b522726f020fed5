"""Autocast of the processor as a card has it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from profiler.autocast import as_on_a_card

HALF, FULL = torch.bfloat16, torch.float32
OPERATIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], torch.dtype]] = {
    "softmax": (lambda x, w: functional.softmax(x, -1), FULL),
    "power": (lambda x, w: x.pow(3.0), FULL),
    "sum": (lambda x, w: x.sum(-1), FULL),
    "norm": (lambda x, w: torch.linalg.norm(x, dim=1), FULL),
    "layer norm": (lambda x, w: functional.layer_norm(x, (4,)), FULL),
    "RMS norm": (lambda x, w: functional.rms_norm(x, (4,)), FULL),
    "linear": (lambda x, w: functional.linear(x, w), HALF),
    "einsum": (lambda x, w: torch.einsum("ij,jk->ik", x, w), HALF),
    "tensordot": (lambda x, w: torch.tensordot(x, w, 1), FULL),
    "concatenation": (lambda x, w: torch.cat([x, w]), FULL),
    "gelu": (lambda x, w: functional.gelu(x), HALF),
}
"""What is done to numbers in bf16 and a weight in fp32, and the type that comes out on a card (documentation of ``torch.amp``)."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_give_the_type_that_they_give_on_a_card(name: str) -> None:
    operation, dtype = OPERATIONS[name]
    x, w = torch.ones(4, 4, dtype=HALF, requires_grad=True), torch.ones(4, 4, requires_grad=True)
    with as_on_a_card(), torch.autocast("cpu", HALF):
        out = operation(x, w)
        out.float().sum().backward()
    assert out.dtype is dtype
    assert x.grad is not None
    assert x.grad.dtype is HALF


def test_a_type_that_is_asked_for_is_given() -> None:
    x = torch.ones(4, 4, dtype=HALF)
    with as_on_a_card(), torch.autocast("cpu", HALF):
        assert x.sum(dtype=torch.float64).dtype is torch.float64
        assert functional.softmax(x, -1, dtype=HALF).dtype is HALF


def test_what_a_card_cannot_do_in_bf16_fails_as_there() -> None:
    with as_on_a_card(), torch.autocast("cpu", HALF), pytest.raises(RuntimeError, match="BFloat16"):
        torch.fft.rfft(torch.ones(4, dtype=HALF))


def test_without_autocast_and_afterwards_all_is_as_before() -> None:
    x = torch.ones(4, 4, dtype=HALF)
    with as_on_a_card():
        assert x.softmax(-1).dtype is HALF
    with torch.autocast("cpu", HALF):
        assert x.softmax(-1).dtype is HALF
        assert torch.fft.rfft(x).dtype is torch.complex64

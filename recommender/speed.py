"""Step time from work: operations, bytes moved and kernels of a closed form against a card's rates.

The efficiencies say which share of a card's peak rates a training step reaches. They were fitted on step times that
Hugging Face published for one card, an L40S (see kb/validation), and are assumed for every card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kb.speed import step_seconds
from recommender.answer import Plan
from recommender.constraints import Constraints
from recommender.memory import Formula


@dataclass(frozen=True)
class Rates:
    """What a card can do: dense 16-bit and fp32 operations, and bytes, per second."""

    operations: float
    bandwidth: float
    operations_fp32: float
    link: float  # between equal cards of one machine, both directions together


_PASSES = 20  # copies of what trains that AdamW on lists reads and writes, counted in torch's _multi_tensor_adam

PCI_EXPRESS = 64e9  # version 4 with 16 lanes, both directions: what is assumed where a card's link is not known
_REACHED = 0.75  # share of a link's rate that collective operations reach, chosen by us
TYPICAL = Rates(operations=165e12, bandwidth=1.0e12, operations_fp32=40e12, link=PCI_EXPRESS)
"""A 24 GB card of 2022; only ratios are shown when no card is named."""


class Work(NamedTuple):
    """The work of one micro-batch at one length: what it costs at least, and what each example adds."""

    flops: float
    each_flops: float
    fp32: float  # of the operations, those on fp32 matrices
    each_fp32: float
    moved: float  # bytes
    each_moved: float
    kernels: float
    stepping: float  # of the bytes moved, those of the optimizer's step

    def operations(self, examples: int) -> float:
        """Floating-point operations of a micro-batch, forward and backward."""
        return self.flops + examples * self.each_flops

    def bytes(self, examples: int) -> float:
        """Bytes that the kernels of a micro-batch read and write."""
        return self.moved + examples * self.each_moved

    def seconds(self, rates: Rates, examples: int, passes: int) -> float:
        """Seconds of one optimizer step on one card: ``passes`` micro-batches of ``examples`` sequences each."""
        moved = self.moved + examples * self.each_moved
        return passes * step_seconds(
            self.flops + examples * self.each_flops,
            moved,
            self.kernels,
            tensor_tflops=rates.operations / 1e12,
            fp32_tflops=rates.operations_fp32 / 1e12,
            bandwidth_gbs=rates.bandwidth / 1e9,
            flops_fp32=self.fp32 + examples * self.each_fp32,
            bytes_optimizer=min(self.stepping, moved),
        )


NO_WORK = Work(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def work(of: Formula, seq: int) -> Work:
    """The work of training a form on its model with sequences of ``seq`` tokens."""
    flops, each_flops, fp32, each_fp32, moved, each_moved = of.effort(seq)
    return Work(flops, each_flops, fp32, each_fp32, moved, each_moved, of.kernels, _PASSES * of.gradients)


def exchange(weights: float, gradients: float, passes: int, gpus: int, sharded: bool, rates: Rates) -> float:
    """Seconds in which equal cards exchange bytes of weights and gradients for one optimizer step of ``passes`` micro-batches.

    Sharded weights are gathered before the forward and again before the backward pass of each micro-batch, and each card
    keeps its share of the gradients (FSDP, arXiv:2304.11277, section 3.2); else gradients alone are summed, twice their
    bytes in a ring.
    """
    received = (2 * passes * weights + gradients if sharded else 2 * gradients) * (gpus - 1) / gpus
    return received / (_REACHED * rates.link / 2)


def times(seconds: float | None, plan: Plan, constraints: Constraints) -> dict[str, float | None]:
    """A step of ``seconds`` as an answer states it, with its tokens per second and the whole run; unknown ones null."""
    if seconds is None:
        return dict.fromkeys(("step_seconds", "tokens_per_second", "run_seconds"))
    tokens = plan.micro_batch * plan.accumulation * plan.gpus * plan.seq
    examples = constraints.data * constraints.epochs if constraints.data and constraints.epochs else None
    return {
        "step_seconds": round(seconds, 4),
        "tokens_per_second": round(tokens / seconds, 1),
        "run_seconds": None if examples is None else round(examples / constraints.batch * seconds, 1),
    }

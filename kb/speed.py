"""How long a training step takes: the work of the step against the rates of a card, in closed form.

The card multiplies matrices and moves bytes; meanwhile the computer's processor launches kernels, one after the other. The
step lasts as long as the slower of both::

    card     = flops_16 / (e_16 · tensor rate) + flops_32 / (e_32 · fp32 rate)
               + bytes / (e_b · bandwidth) + bytes of the optimizer / (e_o · bandwidth)
               + kernels · least time of a kernel + steps of solvers · time of one
    launches = kernels that Python launches · time per launch
    seconds  = max(card, launches) + bytes that the computer's memory gives / rate of that

The optimizer's bytes are counted apart, because it touches each of them once, while the bytes of the passes are read again
soon and come from the card's cache: ``e_b`` may exceed 1. A library that decomposes a matrix or solves equations goes from
column to column, each waiting for the last. A tensor that lies in the computer's memory is copied while both wait. The
rates are the card's (``kb/gpus.yaml``); the efficiencies
``e`` and the time per launch were fitted to published steps of one card (``kb/validation/speed.json`` names the rows), but
for ``e_o``, which is what such kernels commonly reach. Cards without measurements inherit them.
"""

from __future__ import annotations

import json
from functools import lru_cache

from pydantic import Field

from kb.loader import KB
from kb.schema import Record

FILE = KB / "validation" / "speed.json"


class Efficiency(Record):
    """What a card reaches of its rates, and what a launch costs."""

    tensor: float = Field(gt=0, description="share of the 16-bit tensor rate that matrix products reach")
    fp32: float = Field(gt=0, description="share of the fp32 rate that products of fp32 matrices reach")
    bandwidth: float = Field(gt=0, description="bytes of both passes per second, as a share of the memory bandwidth")
    optimizer: float = Field(gt=0, description="bytes of the optimizer per second, as a share of the memory bandwidth")
    kernel_seconds: float = Field(ge=0, description="seconds that a kernel takes at least, whatever it does")
    solver_seconds: float = Field(ge=0, description="seconds of one step of a solver, a column of its matrix")
    host_gbs: float = Field(gt=0, description="10^9 bytes per second that the computer's memory gives to the card")
    launch_seconds: float = Field(ge=0, description="seconds that the processor needs to launch a kernel")
    card: str = Field(description="card that it was fitted on")
    source: str = Field(description="what it was fitted on")


@lru_cache(maxsize=1)
def efficiency() -> Efficiency:
    """The fitted constants, of the one card that has them. Raises ``FileNotFoundError`` if they were never fitted."""
    return Efficiency.model_validate(json.loads(FILE.read_text(encoding="utf-8"))["efficiency"])


def step_seconds(
    flops: float,
    bytes_moved: float,
    kernels: float,
    *,
    tensor_tflops: float,
    fp32_tflops: float,
    bandwidth_gbs: float,
    flops_fp32: float = 0.0,
    bytes_optimizer: float = 0.0,
    kernels_inside: float = 0.0,
    solver_steps: float = 0.0,
    bytes_host: float = 0.0,
    reached: Efficiency | None = None,
) -> float:
    """Seconds of one step.

    ``flops`` are all floating-point operations, ``flops_fp32`` those among them that multiply fp32 matrices;
    ``bytes_moved`` what all kernels read and write, ``bytes_optimizer`` the optimizer's share of them; ``kernels_inside``
    are launched by operations, not by Python; ``bytes_host`` are read in the computer's memory. Rates are the card's: 10¹² operations and 10⁹ bytes per second.
    """
    reached = reached or efficiency()
    card = (
        (flops - flops_fp32) / (reached.tensor * tensor_tflops * 1e12)
        + flops_fp32 / (reached.fp32 * fp32_tflops * 1e12)
        + (bytes_moved - bytes_optimizer) / (reached.bandwidth * bandwidth_gbs * 1e9)
        + bytes_optimizer / (reached.optimizer * bandwidth_gbs * 1e9)
        + (kernels + kernels_inside) * reached.kernel_seconds
        + solver_steps * reached.solver_seconds
    )
    return max(card, kernels * reached.launch_seconds) + bytes_host / (reached.host_gbs * 1e9)

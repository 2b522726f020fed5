"""The constants of ``kb.speed``, fitted on a third of the published runs: every third by name, the first included.

Two are not fitted, because the rows do not determine them. The optimizer's bytes are few in almost all runs: ``STREAMED`` is
what a kernel that reads and writes everything once commonly reaches of a card's bandwidth. The number of kernels hardly
differs among the runs that the card decides: ``SHORTEST`` is the published length of a kernel that does little.

What is minimised is the sum of absolute relative errors, so that a few runs that do what no dry run sees do not pull the
constants away. Among the rows of the fit one copies from the computer's memory (FRoD) and one solves equations (PSOFT): they
alone say what either costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kb.catalogue import load_gpus
from kb.speed import Efficiency, step_seconds

CARD = "l40s"
EVERY = 3
STREAMED = 0.85
SHORTEST = 3e-6  # seconds of a kernel that does next to nothing: 2.9 in NVIDIA's "Getting Started with CUDA Graphs"
SMALLEST = 1e-9  # stands for a coefficient that the rows would make zero or less
SOURCE = (
    "every third, by name, of the MetaMathQA runs of Hugging Face PEFT's method comparison (kb/validation/peft_runs.csv), "
    "training steps only"
)
Work = Mapping[str, float]


def rates() -> dict[str, float]:
    """The card's rates, as ``step_seconds`` takes them."""
    card = load_gpus()[CARD]
    found = {
        "tensor_tflops": card.tensor_tflops.value,
        "fp32_tflops": card.fp32_tflops.value,
        "bandwidth_gbs": card.bandwidth_gbs.value,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def fitted_on(names: Sequence[str]) -> set[str]:
    """The names whose rows the constants are fitted on."""
    return set(sorted(names)[::EVERY])


def fit(works: Mapping[str, Work], seconds: Mapping[str, float]) -> Efficiency:
    """The constants from the rows of ``fitted_on``; ``works`` are a step's counts by run, ``seconds`` its length."""
    names = sorted(fitted_on(list(works)))
    measured = np.array([seconds[name] for name in names])
    columns = np.array([_columns(works[name]) for name in names])
    known = np.array([_known(works[name]) for name in names])
    kernels = np.array([works[name]["kernels"] for name in names])
    best: tuple[float, np.ndarray, float] | None = None
    for micro in np.arange(10.0, 30.0, 0.5):
        launches = kernels * micro * 1e-6
        busy = launches < measured  # rows that the card, not the processor, may have decided
        found = _relative(columns[busy], (measured - known)[busy])
        card = columns[:, :-1] @ found[:-1] + known
        wrong = float(np.mean(np.abs((np.maximum(card, launches) + columns[:, -1] * found[-1]) / measured - 1)))
        if best is None or wrong < best[0]:
            best = wrong, found, micro * 1e-6
    if best is None or (best[1] <= SMALLEST).any():
        raise ValueError("the rows do not determine the constants")
    rate, (tensor, fp32, moved, solver, host) = rates(), best[1]
    return Efficiency(
        tensor=_rounded(1 / tensor / rate["tensor_tflops"]),
        fp32=_rounded(1 / fp32 / rate["fp32_tflops"]),
        bandwidth=_rounded(1 / moved / rate["bandwidth_gbs"]),
        optimizer=STREAMED,
        kernel_seconds=SHORTEST,
        solver_seconds=_rounded(solver / 1e6),
        host_gbs=_rounded(1 / host),
        launch_seconds=best[2],
        card=CARD,
        source=SOURCE,
    )


def _columns(work: Work) -> tuple[float, ...]:
    """What the constants multiply: 10¹² operations, twice, 10⁹ bytes, 10⁶ steps, 10⁹ bytes of the host."""
    return (
        (work["flops"] - work["flops_fp32"]) / 1e12,
        work["flops_fp32"] / 1e12,
        (work["bytes_moved"] - work["bytes_optimizer"]) / 1e9,
        work["solver_steps"] / 1e6,
        work["bytes_host"] / 1e9,
    )


def _known(work: Work) -> float:
    """Seconds that no constant of the fit changes."""
    update = work["bytes_optimizer"] / (STREAMED * rates()["bandwidth_gbs"] * 1e9)
    return update + (work["kernels"] + work["kernels_inside"]) * SHORTEST


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _relative(columns: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Coefficients above zero that minimise the absolute relative errors: least squares with ever new weights."""
    weights = 1 / measured
    found = np.zeros(columns.shape[1])
    kept = np.ones(columns.shape[1], dtype=bool)
    for _ in range(80):
        part = np.linalg.lstsq(columns[:, kept] * weights[:, None], measured * weights, rcond=None)[0]
        found[:] = SMALLEST
        found[kept] = part
        if (part <= 0).any():
            kept &= found > 0
            continue
        wrong = np.abs(columns @ found / measured - 1)
        weights = 1 / measured / np.sqrt(np.maximum(wrong, 0.01))
    return found


def predicted(work: Work, reached: Efficiency) -> float:
    """Seconds of a step on the card of the published runs."""
    return step_seconds(
        work["flops"],
        work["bytes_moved"],
        work["kernels"],
        flops_fp32=work["flops_fp32"],
        bytes_optimizer=work["bytes_optimizer"],
        kernels_inside=work["kernels_inside"],
        solver_steps=work["solver_steps"],
        bytes_host=work["bytes_host"],
        reached=reached,
        **rates(),
    )


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

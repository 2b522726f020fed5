"""The constants of ``kb.speed``, fitted on a third of the published runs: every third by name, the first included.

The optimizer's bytes are few in almost all runs, so that they determine no constant: ``STREAMED`` is what a kernel that reads
and writes everything once commonly reaches of a card's bandwidth, and is not fitted. What is minimised is the sum of absolute relative errors, so that a few runs that do what no dry run sees (BOFT and FRoD
copy bases from the computer's memory in every step) do not pull the constants away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kb.catalogue import load_gpus
from kb.speed import Efficiency, step_seconds

CARD = "l40s"
EVERY = 3
STREAMED = 0.85
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
    columns = np.array(
        [
            [
                (work["flops"] - work["flops_fp32"]) / 1e12,
                work["flops_fp32"] / 1e12,
                (work["bytes_moved"] - work["bytes_optimizer"]) / 1e9,
            ]
            for work in (works[name] for name in names)
        ]
    )
    update = np.array([works[name]["bytes_optimizer"] for name in names]) / (STREAMED * rates()["bandwidth_gbs"] * 1e9)
    kernels = np.array([works[name]["kernels"] for name in names])
    best: tuple[float, np.ndarray, float] | None = None
    for micro in np.arange(10.0, 30.0, 0.5):
        launches = kernels * micro * 1e-6
        busy = launches < measured  # rows that the card, not the processor, may have decided
        found = _relative(columns[busy], (measured - update)[busy])
        wrong = float(np.mean(np.abs(np.maximum(columns @ found + update, launches) / measured - 1)))
        if best is None or wrong < best[0]:
            best = wrong, found, micro * 1e-6
    if best is None or (best[1] <= 0).any():
        raise ValueError("the rows do not determine the constants")
    rate = rates()
    per_second = 1 / best[1]
    return Efficiency(
        tensor=_rounded(per_second[0] / rate["tensor_tflops"]),
        fp32=_rounded(per_second[1] / rate["fp32_tflops"]),
        bandwidth=_rounded(per_second[2] / rate["bandwidth_gbs"]),
        optimizer=STREAMED,
        launch_seconds=best[2],
        card=CARD,
        source=SOURCE,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _relative(columns: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Coefficients above zero that minimise the absolute relative errors: least squares with ever new weights."""
    weights = 1 / measured
    found = np.zeros(columns.shape[1])
    kept = np.ones(columns.shape[1], dtype=bool)
    for _ in range(80):
        part = np.linalg.lstsq(columns[:, kept] * weights[:, None], measured * weights, rcond=None)[0]
        found[:] = 1e-9
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
        reached=reached,
        **rates(),
    )


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

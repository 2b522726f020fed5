"""How long one recommendation over all methods and plans takes, without HTTP around it.

    python -m tests.bench.answers

prints a line of JSON for each kind of request. It is run in a fresh process, after one answer as a warm-up and with the
collector as the server sets it; no two requests of a kind are alike.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from random import Random
from typing import Any

from kb.architecture import from_config
from kb.catalogue import load_models
from kb.collector import seldom
from recommender import Constraints, recommend
from tests.bench.process import ROOT, BenchError, environment

ASKED = 60
_SPREAD = 16 ** (1 / ASKED)  # from 1 to 16 billion parameters, each as much larger than the last


@lru_cache(maxsize=1)
def _mixed() -> tuple[str, ...]:
    """Models of the catalogue, no two of one shape, in an order that has nothing to do with their families."""
    shapes = {from_config(model.config): name for name, model in sorted(load_models().items())}
    return tuple(Random(0).sample(sorted(shapes.values()), ASKED))


def _size(number: int) -> str:
    return f"{_SPREAD**number:.6f}B"


KINDS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "a size of model not asked for before": lambda number: {"gpu_mem": "24GB", "params": _size(number)},
    "a size and a length of sequence not asked for before": lambda number: {
        "gpu_mem": "24GB", "params": _size(number + 0.5), "seq": 768 + 16 * number,
    },
    "a model asked for before, with another card": lambda number: {"gpu_mem": f"{12 + number}GB", "params": "7B"},
    "a model of the catalogue, families mixed": lambda number: {"gpu_mem": "24GB", "model": _mixed()[number]},
}  # fmt: skip
"""Requests of each kind by their number."""
TARGETS = {"a size of model not asked for before": 10.0}  # milliseconds; the others have none
STEPS = len(KINDS)


def measure(advance: Callable[[str], None]) -> dict[str, Any]:
    """Milliseconds of an answer to each kind of request."""
    command = [sys.executable, "-m", "tests.bench.answers"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    kinds = []
    for line in map(json.loads, done.stdout.splitlines()):
        kinds.append(summed_up(**line, target=TARGETS.get(line["kind"])))
        advance(f"{kinds[-1]['median_ms']:.1f} ms")
    return {"kinds": kinds}


def summed_up(kind: str, elapsed_ms: list[float], cpu_ms: list[float], target: float | None) -> dict[str, Any]:
    """The figures of one kind of request; the target is held against the median."""
    median = statistics.median(elapsed_ms)
    return {
        "kind": kind,
        "requests": len(elapsed_ms),
        "best_ms": min(elapsed_ms),
        "median_ms": median,
        "percentile_90_ms": statistics.quantiles(elapsed_ms, n=10, method="inclusive")[-1],
        "cpu_median_ms": statistics.median(cpu_ms),
        "target_ms": target,
        "reached": None if target is None else median <= target,
    }


def timed(request: Mapping[str, Any]) -> tuple[float, float]:
    """Milliseconds of one answer, by the clock and of the processor."""
    constraints = Constraints(**request)
    began, spent = time.perf_counter(), time.process_time()
    recommend(constraints)
    return 1000 * (time.perf_counter() - began), 1000 * (time.process_time() - spent)


def main() -> None:
    """Asks all kinds and prints what each took."""
    recommend(Constraints(gpu_mem="24GB", params="7B"))
    with seldom():
        for kind, request in KINDS.items():
            elapsed, spent = zip(*(timed(request(number)) for number in range(ASKED)), strict=True)
            sys.stdout.write(json.dumps({"kind": kind, "elapsed_ms": elapsed, "cpu_ms": spent}) + "\n")


if __name__ == "__main__":
    main()

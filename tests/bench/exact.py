"""How long an exact estimate takes, from the command to its answer: small models and large ones."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.bench.process import ROOT, BenchError, environment

RUNS = 3
TARGETS = {"llama-2-7b": 5.0, "llama-3-70b": 8.0, "llama-3.1-405b": None}  # seconds; null where none was set
STEPS = 1 + RUNS * len(TARGETS)


def measure(advance: Callable[[str], None]) -> dict[str, Any]:
    """Elapsed and processor time of ``estimate lora --exact`` for each model, and the peak that it found."""
    asked(next(iter(TARGETS)))  # compiles modules and warms the system's file cache, as installing does
    advance("warm-up")
    models = []
    for model, target in TARGETS.items():
        elapsed, spent = [], []
        for _ in range(RUNS):
            seconds, processor, peak = asked(model)
            elapsed.append(seconds)
            spent.append(processor)
            advance(f"{model} in {seconds:.1f} s")
        models.append(
            {
                "model": model,
                "seconds": statistics.median(elapsed),
                "runs": elapsed,
                "cpu_seconds": statistics.median(spent),
                "reserved_bytes": peak,
                "target_seconds": target,
                "reached": None if target is None else statistics.median(elapsed) <= target,
            }
        )
    return {"models": models}


def asked(model: str) -> tuple[float, float, int]:
    """Seconds, processor seconds and reserved bytes of one estimate in a process of its own."""
    command = [sys.executable, "-m", "cli.main", "estimate", "lora", "--model", model, "--exact", "--json"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    elapsed, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise BenchError(f"{' '.join(command[2:])} failed:\n{done.stderr[-2000:]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return elapsed, spent, json.loads(done.stdout)["peak"]["reserved_bytes"]

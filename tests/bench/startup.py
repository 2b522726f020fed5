"""How long the server takes to be ready, and how much memory it holds after serving for a while."""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.bench.process import ROOT, BenchError, Server, environment, get, peak_mib, serving, stop

RUNS = 7
REQUESTS = 200
SECONDS_TARGET = 1.5
MEMORY_TARGET_MIB = 150
STEPS = 1 + 2 * RUNS + REQUESTS

LOAD = """
import time
import uvicorn
from kb.catalogue import load_gpus, load_models
from web.app import create_app, load
app = create_app()
load()
load_models(), load_gpus()
print("ready", time.process_time(), flush=True)
"""
_RECOMMENDATION = "/recommend?gpu_mem=24GB&params={size}B"
VISITED = (
    "/",
    "/taxonomy",
    "/methods",
    "/methods/lora",
    "/compare?m=lora&m=ia3",
    "/models",
    "/gpus",
    "/about",
    "/api",
    _RECOMMENDATION,
    "/recommend.json?gpu_mem=24GB&params={size}B",
    "/methods/{slug}",
    "/methods/{slug}.json",
)
"""What a visitor of the whole site asks for, again and again."""


def measure(advance: Callable[[str], None]) -> dict[str, Any]:
    """Loading, the command's first answer, and the server's peak memory."""
    loaded_in()  # compiles modules and warms the system's file cache, as installing does
    advance("warm-up")
    loading, spent = [], []
    for _ in range(RUNS):
        elapsed, processor = loaded_in()
        loading.append(elapsed)
        spent.append(processor)
        advance(f"loaded in {elapsed:.2f} s")
    answering = []
    for _ in range(RUNS):
        answering.append(answered_in())
        advance(f"answered in {answering[-1]:.2f} s")
    with serving() as server:
        idle = peak_mib(server.pid)
        visit(server, advance)
        peak = peak_mib(server.pid)
    return {
        "loading_seconds": statistics.median(loading),
        "loading_runs": loading,
        "loading_cpu_seconds": statistics.median(spent),
        "loading_target_seconds": SECONDS_TARGET,
        "loading_reached": statistics.median(loading) <= SECONDS_TARGET,
        "first_answer_seconds": statistics.median(answering),
        "first_answer_runs": answering,
        "memory_at_start_mib": idle,
        "memory_peak_mib": peak,
        "memory_requests": REQUESTS,
        "memory_target_mib": MEMORY_TARGET_MIB,
        "memory_reached": None if peak is None else peak <= MEMORY_TARGET_MIB,
    }


def loaded_in() -> tuple[float, float]:
    """Seconds, and processor time, from starting an interpreter until everything that the server needs is loaded."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said, _, processor = process.stdout.readline().strip().partition(" ")
    elapsed = time.perf_counter() - began
    _, errors = process.communicate(timeout=60)
    if said != "ready":
        raise BenchError(f"loading failed:\n{errors[-2000:]}")
    return elapsed, float(processor)


def answered_in() -> float:
    """Seconds from the command ``peft-atlas serve`` until its first recommendation has arrived."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cli.main", "serve", "--host", "127.0.0.1", "--port", str(port)]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )
    try:
        while process.poll() is None and time.perf_counter() - began < 60:
            try:
                get(port, "/recommend.json?gpu_mem=24GB&params=7B")
            except ConnectionRefusedError:
                time.sleep(0.005)
                continue
            return time.perf_counter() - began
    finally:
        stop(process)
    raise BenchError("peft-atlas serve gave no answer within a minute, or ended")


def visit(server: Server, advance: Callable[[str], None]) -> None:
    """Asks for ``REQUESTS`` pages of every kind, with other methods and sizes each time."""
    slugs = [each["slug"] for each in items(json.loads(get(server.port, "/methods.json")))]
    for number in range(REQUESTS):
        path = VISITED[number % len(VISITED)]
        get(server.port, path.format(slug=slugs[number % len(slugs)], size=f"{1 + number % 70}.{number}"))
        advance(path.partition("?")[0])


def items(page: dict[str, Any]) -> list[dict[str, Any]]:
    """The methods of the methods page, whatever the list is called."""
    for value in page.values():
        if isinstance(value, list) and value and isinstance(value[0], dict) and "slug" in value[0]:
            return value
    raise BenchError("methods.json lists no methods")

"""Requests per second and latency of the site, against an empty FastAPI route in the same server and run."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.bench.process import Server, asked, get, serving

ROUNDS = 12  # short windows in turn: what else the machine does meanwhile slows all routes alike
CONNECTIONS = 8


@dataclass(frozen=True)
class Route:
    """A path, and the share of the empty route's rate that it has to reach."""

    name: str
    path: str
    target: float | None = None


ROUTES = (
    Route("empty", "/empty"),
    Route("bare", "/bare"),
    Route("recommendation", "/recommend.json?gpu_mem=24GB&params=7.{n:06d}B&seq={seq}", 0.15),
    Route("repeated", "/recommend.json?gpu_mem=24GB&params=7B"),
    Route("record", "/methods/lora.json", 0.5),
)
STEPS = len(ROUTES) * (ROUNDS + 1)


def measure(
    advance: Callable[[str], None], seconds: float = 1.0, factory: str = "web.app:create_app"
) -> dict[str, Any]:
    """Every route in turn, ``ROUNDS`` times on several connections, then once on a single one for its own latency."""
    with serving(factory) as server:
        return measured(server, advance, seconds)


def measured(server: Server, advance: Callable[[str], None], seconds: float) -> dict[str, Any]:
    """The figures of a running server."""
    windows: dict[str, list[dict[str, Any]]] = {route.name: [] for route in ROUTES}
    alone: dict[str, dict[str, Any]] = {}
    number = 0
    for route in ROUTES:  # a first answer may load what later ones find ready, however long that takes
        get(server.port, route.path.format(n=900_000, seq=512))
    for _ in range(ROUNDS):
        for route in ROUTES:
            window = asked(server, route.path, CONNECTIONS, seconds, number)
            number += window["sent"]
            windows[route.name].append(window)
            advance(f"{route.name}: {window['requests_per_second']:.0f}/s")
    for route in ROUTES:
        alone[route.name] = asked(server, route.path, 1, seconds, number)
        number += alone[route.name]["sent"]
        advance(f"{route.name}: {alone[route.name]['median_latency_ms']:.2f} ms")
    rates = {name: [window["requests_per_second"] for window in seen] for name, seen in windows.items()}
    return {
        "connections": CONNECTIONS,
        "seconds_per_window": seconds,
        "routes": [_line(route, windows[route.name], alone[route.name], rates) for route in ROUTES],
    }


def _line(
    route: Route, windows: list[dict[str, Any]], alone: dict[str, Any], rates: dict[str, list[float]]
) -> dict[str, Any]:
    ratio = statistics.median(mine / base for mine, base in zip(rates[route.name], rates["empty"], strict=True))
    shares = [window["server_cpu_share"] for window in windows]
    spent = [window["server_cpu_ms"] for window in windows]
    return {
        "name": route.name,
        "path": route.path,
        "requests_per_second": statistics.median(rates[route.name]),
        "rounds": rates[route.name],
        "median_latency_ms": statistics.median(window["median_latency_ms"] for window in windows),
        "median_latency_alone_ms": alone["median_latency_ms"],
        "bytes": windows[-1]["bytes"],
        "ratio_to_empty": ratio,
        "ratio_to_bare": statistics.median(a / b for a, b in zip(rates[route.name], rates["bare"], strict=True)),
        "target": route.target,
        "reached": None if route.target is None else ratio >= route.target,
        "client_cpu_share": max(window["client_cpu_share"] for window in windows),
        "server_cpu_share": None if None in shares else min(shares),
        "server_cpu_ms": None if None in spent else statistics.median(spent),
    }

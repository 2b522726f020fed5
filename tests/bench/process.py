"""Processes that a benchmark starts: the server, clients, fresh interpreters; and what the system says of them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(RuntimeError):
    """Raised when something cannot be measured; the message says what went wrong."""


def environment() -> dict[str, str]:
    """The environment for what is measured: compiled modules may be kept, as for a user."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}


def peak_mib(pid: int | str) -> float | None:
    """The most memory that a process has held so far, in MiB; ``None`` where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def cpu_seconds(pid: int) -> float | None:
    """Processor time that a process has used so far; ``None`` where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS  # user and system time, fields 14 and 15 of the whole line


@dataclass(frozen=True)
class Server:
    """A running server."""

    pid: int
    port: int


@contextmanager
def serving(factory: str = "web.app:create_app") -> Iterator[Server]:
    """The server of ``tests.bench.served``, stopped afterwards. Raises ``BenchError`` when it does not start."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        command = [sys.executable, "-m", "tests.bench.served", "--factory", factory]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line.isdigit():
                process.wait(timeout=30)
                errors.seek(0)
                raise BenchError(f"the server of {factory} did not start:\n{errors.read()[-2000:]}")
            yield Server(process.pid, int(line))
        finally:
            stop(process)


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a process, first politely."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def get(port: int, path: str) -> bytes:
    """The body of an answer; ``BenchError`` unless it is 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers={"Accept": "application/json" if ".json" in path else "text/html"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"{path} answered {answer.status}: {body[:300].decode(errors='replace')}")
    return body


def asked(server: Server, path: str, connections: int, seconds: float, first: int = 0) -> dict[str, Any]:
    """What a client process measured on ``path``, and the processor time that the server took for it."""
    command = [sys.executable, "-m", "tests.bench.load", str(server.port), path]
    command += ["--connections", str(connections), "--seconds", str(seconds), "--first", str(first)]
    before = cpu_seconds(server.pid)
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=seconds + 60)
    after = cpu_seconds(server.pid)
    if done.returncode:
        raise BenchError(f"the client failed on {path}:\n{done.stderr[-2000:]}")
    seen: dict[str, Any] = json.loads(done.stdout)
    if "failure" in seen:
        raise BenchError(seen["failure"])
    known = before is not None and after is not None
    return seen | {
        "server_cpu_share": (after - before) / seconds if known else None,
        "server_cpu_ms": 1000 * (after - before) / seen["sent"] if known else None,
    }

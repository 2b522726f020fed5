"""The pieces of the benchmark do what they promise; nothing here holds a clock against a target."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from recommender import Constraints
from recommender.reading import read_model
from tests.bench import __main__ as command
from tests.bench import answers, pages, report, startup, throughput
from tests.bench.load import LoadError, drive
from tests.bench.process import BenchError, Server, asked, cpu_seconds, get, peak_mib, serving
from web.pages.every import EVERY_PAGE

PATH = "/recommend.json?params=7.{n:06d}B&seq={seq}"
Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
SETTING = {
    "measured": "2026-01-01 00:00 UTC",
    "commit": None,
    "processor": "a processor",
    "cores": 2,
    "load_average": None,
    "system": "Linux",
    "python": "3.11",
    "versions": {"fastapi": "1"},
}


def stand_in() -> FastAPI:
    """An application that counts how often each query was asked."""
    app, seen = FastAPI(), Counter[str]()

    @app.get("/recommend.json")
    def recommend(request: Request) -> dict[str, str]:
        seen[request.url.query] += 1
        return {"query": request.url.query}

    @app.get("/seen")
    def counts() -> dict[str, int]:
        return {"queries": len(seen), "most": max(seen.values())}

    return app


def driven(answer: Answer, path: str = PATH, connections: int = 2, seconds: float = 0.05) -> dict[str, Any]:
    """What the client says of a server on bare sockets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await answer(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def whole() -> dict[str, Any]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            return await drive(server.sockets[0].getsockname()[1], path, connections, seconds)

    return asyncio.run(whole())


def test_client_reads_answers_that_come_in_pieces() -> None:
    heads: list[bytes] = []

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        heads.append(head.partition(b"\r\n")[0])
        for piece in (b"HTTP/1.1 200 OK\r\nContent-", b"Length: 4\r\n\r\n", b"ab", b"cd"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    seen = driven(answer)
    assert 0 < seen["requests"] <= seen["sent"] == len(heads) == len(set(heads))
    assert seen["bytes"] == len("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd")
    assert seen["requests_per_second"] == pytest.approx(seen["requests"] / 0.05)
    assert heads[0] == b"GET /recommend.json?params=7.000000B&seq=512 HTTP/1.1"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 not found"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "lengths \\[\\]"),
    ],
    ids=["wrong status", "no length"],
)
def test_client_refuses_what_it_cannot_count(raw: bytes, message: str) -> None:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    with pytest.raises(LoadError, match=message):
        driven(answer)


def test_client_notices_that_the_server_hangs_up() -> None:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with pytest.raises(LoadError, match="hung up"):
        driven(answer)


def test_client_says_when_there_was_no_answer_in_time() -> None:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with pytest.raises(LoadError, match="no answer"):
        driven(answer)


def test_served_application_has_two_empty_routes_and_never_sees_a_query_twice() -> None:
    with serving("tests.bench.test_bench:stand_in") as server:
        for path in ("/empty", "/bare"):
            assert get(server.port, path) == b"{}"
        first = asked(server, PATH, connections=2, seconds=0.2)
        second = asked(server, PATH, connections=1, seconds=0.1, first=first["sent"])
        counts = json.loads(get(server.port, "/seen"))
        assert first["requests"] > 1
        assert 0 < first["client_cpu_share"] <= 1.05
        assert counts == {"queries": first["sent"] + second["sent"], "most": 1}
        with pytest.raises(BenchError, match="404"):
            asked(server, "/nothing", connections=1, seconds=0.1)
        if Path("/proc/self/status").exists():
            memory, seconds = peak_mib(server.pid), cpu_seconds(server.pid)
            assert memory is not None
            assert 10 < memory < 1000
            assert seconds is not None
            assert 0 < seconds < 60
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_server_that_does_not_start_is_reported_with_its_error() -> None:
    with pytest.raises(BenchError, match="no_such_module"), serving("tests.bench.no_such_module:create_app"):
        pass


def test_ratios_are_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round in which the whole machine is slow counts as any other, since all routes were slow in it."""
    speeds = {"/empty": 100.0, "/bare": 200.0, "/methods/lora.json": 60.0}
    factor = {"now": 1.0}
    numbers: list[int] = []

    def measured(server: Server, path: str, connections: int, seconds: float, first: int = 0) -> dict[str, Any]:
        numbers.append(first)
        if path == "/empty" and connections == throughput.CONNECTIONS:
            factor["now"] *= 0.5
        return {
            "sent": 10,
            "requests_per_second": factor["now"] * speeds.get(path, 14.0),
            "median_latency_ms": 1.0,
            "bytes": 2,
            "client_cpu_share": 0.2,
            "server_cpu_share": 0.9,
            "server_cpu_ms": None if path == "/bare" else 2.0,
        }

    warmed: list[str] = []
    monkeypatch.setattr(throughput, "asked", measured)
    monkeypatch.setattr(throughput, "get", lambda port, path: warmed.append(path))
    steps: list[str] = []
    part = throughput.measured(Server(0, 0), steps.append, 1.0)
    lines = {line["name"]: line for line in part["routes"]}
    assert lines["recommendation"]["ratio_to_empty"] == pytest.approx(0.14)
    assert lines["recommendation"]["reached"] is False
    assert lines["record"]["ratio_to_empty"] == pytest.approx(0.6)
    assert lines["record"]["ratio_to_bare"] == pytest.approx(0.3)
    assert lines["record"]["reached"] is True
    assert lines["empty"]["reached"] is None
    assert (lines["empty"]["server_cpu_ms"], lines["bare"]["server_cpu_ms"]) == (2.0, None)
    assert len(steps) == throughput.STEPS
    assert len(warmed) == len(throughput.ROUTES)
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("kind", answers.KINDS)
def test_recommendations_that_are_timed_are_all_different_and_valid(kind: str) -> None:
    asked = [Constraints(**answers.KINDS[kind](number)) for number in range(answers.ASKED)]
    assert len({constraints.model_dump_json() for constraints in asked}) == answers.ASKED
    shapes = {read_model(constraints)[0] for constraints in asked}
    assert len(shapes) == (1 if "another card" in kind else answers.ASKED)


def test_figures_of_a_recommendation_come_from_its_times() -> None:
    seen = answers.summed_up("wide", [float(number) for number in range(1, 102)], [2.0] * 101, None)
    assert (seen["best_ms"], seen["median_ms"], seen["percentile_90_ms"], seen["cpu_median_ms"]) == (1, 51, 91, 2)
    assert (seen["requests"], seen["reached"]) == (101, None)


def test_loading_and_visiting_speak_of_paths_of_the_site() -> None:
    assert startup.items({"total": 1, "methods": [{"slug": "lora"}]}) == [{"slug": "lora"}]
    with pytest.raises(BenchError, match="no methods"):
        startup.items({"total": 0, "methods": []})
    assert all(path.format(slug="lora", size="7").startswith("/") for path in startup.VISITED)


def parts() -> dict[str, Any]:
    """A report as the parts would write it."""
    line = {
        "name": "empty", "path": "/empty", "requests_per_second": 1234.4, "rounds": [1234.4], "median_latency_ms": 1.5,
        "median_latency_alone_ms": 0.5, "bytes": 2000, "ratio_to_empty": 1.0, "ratio_to_bare": 0.8, "target": None,
        "reached": None, "client_cpu_share": 0.5, "server_cpu_share": None,
        "server_cpu_ms": None,
    }  # fmt: skip
    slow = line | {"name": "record", "path": "/methods/lora.json", "target": 0.5, "reached": False}
    cell = {
        "method": "LoRA q,v", "slug": "lora", "model": "t5-large", "authors": "2.359M", "formula": 2359296,
        "attached": 2359296, "equal": True, "definition": None, "note": None,
    }  # fmt: skip
    other = cell | {"method": "KronA", "authors": "221,184", "equal": False, "definition": "It is another method."}
    wrong = cell | {"method": "Wrong", "attached": 1, "equal": False}
    return {
        "survey": {"setting": SETTING, "cells": [cell, other, wrong, cell | {"authors": None, "equal": None}]},
        "http": {"setting": SETTING, "connections": 8, "seconds_per_window": 4.0, "routes": [line, slow]},
        "answers": {
            "setting": SETTING,
            "kinds": [answers.summed_up("small", [4.0] * 60, [3.5] * 60, 5.0), answers.summed_up("wide", [9.0] * 60, [8.5] * 60, 5.0)],
        },
        "start": {
            "setting": SETTING, "loading_seconds": 1.0, "loading_runs": [1.0] * 7, "loading_cpu_seconds": 0.9, "loading_target_seconds": 1.5,
            "loading_reached": True, "first_answer_seconds": 1.25, "first_answer_runs": [1.25] * 7,
            "memory_at_start_mib": None, "memory_peak_mib": 160.0, "memory_requests": 200, "memory_target_mib": 150,
            "memory_reached": False,
        },
        "exact": {
            "setting": SETTING,
            "models": [
                {
                    "model": "llama-2-7b", "seconds": 4.0, "cpu_seconds": 3.9, "target_seconds": 5.0, "reached": True,
                    "reserved_bytes": 15 * 2**30, "runs": [4.0] * 3,
                },
                {
                    "model": "llama-3-70b", "seconds": 9.0, "cpu_seconds": 8.9, "target_seconds": 8.0, "reached": False,
                    "reserved_bytes": 150 * 2**30, "runs": [9.0] * 3,
                },
            ],
        },
        "web": {
            "setting": SETTING, "browser": "Chromium 1", "runs": 3,
            "targets": {"kb": 60.0, "paint_ms": 500.0, "shift": 0.02, "drawn_ms": 300.0},
            "pages": [
                {"path": "/", "gzip_kb": 8.0, "paint_ms": 90.0, "shift": 0.0, "drawn_after_load_ms": 0.0, "reached": True},
                {"path": "/gpus", "gzip_kb": 61.0, "paint_ms": 90.0, "shift": 0.0, "drawn_after_load_ms": 0.0, "reached": False},
            ],
        },
    }  # fmt: skip


@pytest.mark.parametrize("path", [page.path for page in EVERY_PAGE])
def test_every_kind_of_page_is_measured_in_the_browser(path: str) -> None:
    kind = re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)))
    assert [page for page in pages.PAGES if kind.fullmatch(page.partition("?")[0])] != []


def test_report_says_what_was_reached_and_what_missed() -> None:
    text = report.rendered({name: parts()[name] for name in report.TITLES})
    assert "| `/empty` | 1234 | 1.000 |  |" in text
    assert "| `/methods/lora.json` | 1234 | 1.000 | ≥ 0.5, **missed** |" in text
    assert "| small | 4.0 | 4.0 | 4.0 | 3.5 | ≤ 5 ms, reached |" in text
    assert "| wide | 9.0 | 9.0 | 9.0 | 8.5 | ≤ 5 ms, **missed** |" in text
    assert "| 1.00 s | ≤ 1.5 s, reached |" in text
    assert "| 160 MiB | ≤ 150 MiB, **missed** |" in text
    assert "| LoRA q,v, t5-large | 2.359M | 2,359,296 | 2,359,296 | equal |" in text
    assert "another definition" in text
    assert "- KronA: It is another method." in text
    assert "**formula and code disagree**" in text
    assert "no figure" in text
    assert "1 of the 3 figures" in text
    assert "| llama-2-7b | 4.0 s | 3.9 s | ≤ 5 s, reached | 15.0 GiB |" in text
    assert "| llama-3-70b | 9.0 s | 8.9 s | ≤ 8 s, **missed** | 150.0 GiB |" in text
    assert "| `/` | 8.0 | 90 | 0.000 | 0 | reached |" in text
    assert "| `/gpus` | 61.0 | 90 | 0.000 | 0 | **missed** |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows if "LoRA q,v" in line or "authors" in line}) == 1


def test_writing_one_part_keeps_the_others_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    report.write({"survey": parts()["survey"]}, tmp_path)
    report.write({"http": parts()["http"]}, tmp_path)
    assert list(report.read(tmp_path)) == ["http", "survey"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["REPORT.md", "report.json"]
    assert (tmp_path / "REPORT.md").read_text(encoding="utf-8") == report.rendered(report.read(tmp_path))


def test_report_of_the_project_is_made_from_its_figures() -> None:
    assert list(report.read()) == list(report.TITLES)
    assert (report.FOLDER / "REPORT.md").read_text(encoding="utf-8") == report.rendered(report.read())


def test_command_refuses_a_part_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["htpp"])
    assert stopped.value.code == 2
    assert "there is no part 'htpp'; choose from http, answers, start, exact, survey, web" in capsys.readouterr().err


def test_setting_names_machine_and_versions() -> None:
    seen = report.setting()
    assert seen.keys() == SETTING.keys()
    assert seen["cores"] >= 1
    assert {"fastapi", "uvicorn"} <= seen["versions"].keys()

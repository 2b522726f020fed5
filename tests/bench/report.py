"""The report: ``report.json`` with every figure, and ``REPORT.md`` made from it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kb.files import put
from tests.bench.process import ROOT

FOLDER = Path(__file__).parent
TITLES = {
    "http": "Requests per second and latency",
    "answers": "One recommendation",
    "start": "Start and memory",
    "exact": "Exact estimates",
    "survey": "The survey's table of trainable parameters",
    "web": "Pages in a browser",
}
_PACKAGES = ("fastapi", "starlette", "uvicorn", "pydantic", "h11", "httptools", "uvloop", "torch", "transformers")


def setting() -> dict[str, Any]:
    """Where and with what a part was measured."""
    return {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _commit() -> str | None:
    """The commit that is checked out, with ``-dirty`` where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    """The processor's model, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def read(folder: Path = FOLDER) -> dict[str, Any]:
    """The last report; empty when there is none."""
    path = folder / "report.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content


def write(parts: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Puts the measured ``parts`` in place of their predecessors; parts not measured now stay with their own date."""
    folder.mkdir(parents=True, exist_ok=True)
    known = read(folder) | dict(parts)
    report = {name: known[name] for name in TITLES if name in known}
    put(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    put(folder / "REPORT.md", rendered(report))


def rendered(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    lines = ["# Benchmark", "", "Written by `python -m tests.bench` (`make bench`); do not edit by hand.", ""]
    for name, part in report.items():
        lines += [f"## {TITLES[name]}", "", *_RENDERERS[name](part), "", _where(part["setting"]), ""]
    return "\n".join(lines)


def _where(seen: Mapping[str, Any]) -> str:
    load = "" if seen["load_average"] is None else f", load average {seen['load_average']} before the run"
    packages = ", ".join(f"{name} {number}" for name, number in seen["versions"].items())
    return (
        f"Measured {seen['measured']} at commit {seen['commit'] or 'unknown'}: {seen['processor']}, "
        f"{seen['cores']} cores{load}, {seen['system']}, Python {seen['python']}; {packages}."
    )


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    marks = ("---", *("---:" for _ in head[1:]))
    return [f"| {' | '.join(cells)} |" for cells in (head, marks, *rows)]


def verdict(reached: bool | None) -> str:
    """A target's fate in a word."""
    return {True: "reached", False: "**missed**", None: "not measured"}[reached]


def _http(part: Mapping[str, Any]) -> list[str]:
    head = (
        "route", "requests/s", "× empty", "target", "× bare", "median ms", "alone, ms", "kB", "CPU ms", "server CPU", "client CPU",
    )  # fmt: skip
    body = (
        (
            f"`{line['path']}`",
            f"{line['requests_per_second']:.0f}",
            f"{line['ratio_to_empty']:.3f}",
            "" if line["target"] is None else f"≥ {line['target']}, {verdict(line['reached'])}",
            f"{line['ratio_to_bare']:.3f}",
            f"{line['median_latency_ms']:.2f}",
            f"{line['median_latency_alone_ms']:.2f}",
            f"{line['bytes'] / 1000:.1f}",
            "unknown" if line["server_cpu_ms"] is None else f"{line['server_cpu_ms']:.2f}",
            _share(line["server_cpu_share"]),
            _share(line["client_cpu_share"]),
        )
        for line in part["routes"]
    )
    return [
        *table(head, body),
        "",
        f"One server process, {part['connections']} kept-open connections, {len(part['routes'][0]['rounds'])} windows of "
        f"{part['seconds_per_window']:g} s for each route in turn, the median of the rounds; *alone* is the median latency on "
        "a single connection. Recommendations with a number and a length are all different, one without was answered before. `/empty` is a route of the same application, behind the "
        "same middleware; `/bare` stands in the same process without any. *CPU ms* is the server's processor time per "
        "request, which a busy machine changes least. The client is a process of its own: while the server's share of a "
        "processor is near 100 % and the client's is not, the server sets the pace.",
    ]


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.0f} %"


def _answers(part: Mapping[str, Any]) -> list[str]:
    head = ("request", "best, ms", "median, ms", "90th percentile, ms", "processor, ms", "target")
    body = (
        (
            line["kind"],
            *(f"{line[name]:.1f}" for name in ("best_ms", "median_ms", "percentile_90_ms", "cpu_median_ms")),
            "" if line["target_ms"] is None else f"≤ {line['target_ms']:g} ms, {verdict(line['reached'])}",
        )
        for line in part["kinds"]
    )
    return [
        *table(head, body),
        "",
        f"`recommend` over all methods and plans in Python, without HTTP: {part['kinds'][0]['requests']} requests of each kind, no "
        "two alike, in a fresh process, after one answer and with the collector as the server sets it. *Processor* is the "
        "median of the processor's time, which a busy machine changes least.",
    ]


def _start(part: Mapping[str, Any]) -> list[str]:
    peak, idle = part["memory_peak_mib"], part["memory_at_start_mib"]
    rows = (
        (
            "interpreter, imports, all records, models and cards, the application",
            f"{part['loading_seconds']:.2f} s",
            f"≤ {part['loading_target_seconds']} s, {verdict(part['loading_reached'])}",
        ),
        ("processor time of that", f"{part['loading_cpu_seconds']:.2f} s", ""),
        ("`peft-atlas serve` until its first recommendation has arrived", f"{part['first_answer_seconds']:.2f} s", ""),
        ("memory of the server when it starts", _mib(idle), ""),
        (
            f"peak memory of the server after {part['memory_requests']} pages and answers of every kind",
            _mib(peak),
            f"≤ {part['memory_target_mib']} MiB, {verdict(part['memory_reached'])}",
        ),
    )
    runs = len(part["loading_runs"])
    return [
        *table(("what", "measured", "target"), iter(rows)),
        "",
        f"Seconds are medians of {runs} fresh processes, files in the system's cache and modules compiled; memory is the "
        "peak of the resident set.",
    ]


def _mib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} MiB"


def _exact(part: Mapping[str, Any]) -> list[str]:
    body = (
        (
            line["model"],
            f"{line['seconds']:.1f} s",
            f"{line['cpu_seconds']:.1f} s",
            "" if line["target_seconds"] is None else f"≤ {line['target_seconds']:g} s, {verdict(line['reached'])}",
            f"{line['reserved_bytes'] / 2**30:.1f} GiB",
        )
        for line in part["models"]
    )
    runs = len(part["models"][0]["runs"])
    return [
        *table(
            ("`peft-atlas estimate lora --exact --model …`", "elapsed", "processor", "target", "reserved peak"), body
        ),
        "",
        f"From the command to its answer, interpreter and imports included; medians of {runs} processes. A busy machine "
        "changes the processor's time least.",
    ]


def _survey(part: Mapping[str, Any]) -> list[str]:
    cells = part["cells"]
    body = (
        (
            f"{cell['method']}, {cell['model']}",
            cell["authors"] or "–",
            f"{cell['formula']:,}",
            f"{cell['attached']:,}",
            _comparison(cell),
        )
        for cell in cells
    )
    with_figure = [cell for cell in cells if cell["authors"] is not None]
    equal = sum(bool(cell["equal"]) for cell in cells)
    agree = sum(cell["formula"] == cell["attached"] for cell in cells)
    said = dict.fromkeys(
        f"- {cell['method']}: {text}" for cell in cells for text in (cell["definition"], cell["note"]) if text
    )
    return [
        f"{equal} of the {len(with_figure)} figures of the survey's authors (arXiv:2303.15647, their experiment code) equal "
        f"our count, exactly or to the last printed digit. In {agree} of {len(cells)} cells the record's formula and the "
        "numbers that train after attaching our implementation are the same.",
        "",
        *table(("method, model", "authors", "record's formula", "our code attached", "comparison"), body),
        "",
        *said,
    ]


def _comparison(cell: Mapping[str, Any]) -> str:
    if cell["authors"] is None:
        return "no figure"
    if cell["equal"]:
        return "equal"
    if cell["formula"] != cell["attached"]:
        return "**formula and code disagree**"
    return "another definition" if cell["definition"] else "**differs**"


def _web(part: Mapping[str, Any]) -> list[str]:
    targets = part["targets"]
    body = (
        (
            f"`{page['path']}`",
            f"{page['gzip_kb']:.1f}",
            f"{page['paint_ms']:.0f}",
            f"{page['shift']:.3f}",
            f"{page['drawn_after_load_ms']:.0f}",
            verdict(page["reached"]),
        )
        for page in part["pages"]
    )
    head = ("page", "kB, gzipped", "first paint, ms", "shift", "drawn after load, ms", "targets")
    return [
        *table(head, body),
        "",
        f"Targets: at most {targets['kb']:g} kB of HTML, the first contentful paint within {targets['paint_ms']:g} ms with a cold "
        f"cache, layout shift at most {targets['shift']:g}, drawings within {targets['drawn_ms']:g} ms of the load event. "
        f"{part['browser']}, a server of its own on the same machine, medians of {part['runs']} visits (the largest shift). "
        "Drawings are part of the page, so they stand when the document does.",
    ]


_RENDERERS = {"http": _http, "answers": _answers, "start": _start, "exact": _exact, "survey": _survey, "web": _web}

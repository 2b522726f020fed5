"""The report: ``report.json`` with every figure, ``REPORT.md`` and ``losses.svg`` made from it."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from kb.files import put
from tests.reference_impls.pretrained.plan import PLAN

FOLDER = Path(__file__).parent

_COLUMNS, _WIDE, _HIGH, _GAP, _LEFT, _TOP = 4, 180, 96, 34, 40, 62  # of the drawing, in pixels


def read(folder: Path = FOLDER) -> dict[str, Any]:
    """The runs of the last report by slug; empty when there is none."""
    path = folder / "report.json"
    return json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else {}


def write(runs: Mapping[str, Any], setting: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Puts ``runs`` in place of their predecessors and makes table and drawing anew; planned methods alone stay."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {**read(folder), **runs}
    report = {"made_by": "python -m tests.reference_impls.pretrained", **setting}
    report["runs"] = {slug: known[slug] for slug in PLAN if slug in known}
    put(folder / "report.json", _compact(report))
    put(folder / "REPORT.md", rendered(report))
    put(folder / "losses.svg", drawn(report["runs"]))


def _compact(report: Mapping[str, Any]) -> str:
    """JSON with a line for each figure, the losses of a run in one."""
    flat = {
        slug: {**entry, "losses": f"<{' '.join(map(str, entry['losses']))}>"} for slug, entry in report["runs"].items()
    }
    text = json.dumps({**report, "runs": flat}, indent=1, ensure_ascii=False)
    for entry in flat.values():
        row = entry["losses"]
        text = text.replace(json.dumps(row), f"[{row[1:-1].replace(' ', ', ')}]")
    return text + "\n"


def rendered(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    runs = report["runs"].values()
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        "# Methods on a real pretrained model",
        "",
        "Written by `make pretrained` (`python -m tests.reference_impls.pretrained`); do not edit by hand.",
        "",
        f"Model: {report['model']}. Text: {report['text']}, as in Python {report['python']}. {versions}; CPU, fp32.",
        "Loss and accuracy are those of the next token on rows that training never saw, before and after; every method",
        "read the same batches in the same order. The learning rates were not tuned, so this shows that each method",
        "trains a real model and is saved and loaded whole, not which is best. The steps are few: methods that do not",
        "start at the base's answers (prefixes, LoReFT, UniPELT) are still on their way back to them. The reference says",
        "one passage twice, so that one of the eight held-out rows is also learned from.",
        "",
        "| method | class | trained | share | loss before | after | tokens right before | after | processor seconds | learning rate |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_row(entry) for entry in runs),
        "",
        "![Training loss of every method](losses.svg)",
        "",
        "Any row again: its `command` in `report.json`, with `--model` and `--data` of your own.",
        "",
    ]
    return "\n".join(lines)


def _row(entry: Mapping[str, Any]) -> str:
    counts, before, after = entry["counts"], entry["before"], entry["after"]
    cells = (
        entry["name"],
        " + ".join(entry["classes"]),
        f"{counts['trained']:,}",
        f"{counts['trained'] / counts['total']:.3%}",
        f"{before['loss']:.3f}",
        f"{after['loss']:.3f}",
        f"{before['token']:.1%}",
        f"{after['token']:.1%}",
        f"{entry['cpu_seconds']:.0f}",
        f"{entry['learning_rate']:g}",
    )
    return f"| {' | '.join(cells)} |"


def drawn(runs: Mapping[str, Any]) -> str:
    """A small drawing for every method, to its own scale: its training loss, and the held-out loss before and after."""
    rows = -(-len(runs) // _COLUMNS)
    width = _LEFT + _COLUMNS * (_WIDE + _GAP)
    height = _TOP + rows * (_HIGH + _GAP)
    panels = (
        f'<g transform="translate({_LEFT + place % _COLUMNS * (_WIDE + _GAP)} {_TOP + place // _COLUMNS * (_HIGH + _GAP)})">'
        f"{''.join(_panel(entry))}</g>"
        for place, entry in enumerate(runs.values())
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'role="img" aria-label="Training loss of every method" font-family="system-ui, sans-serif" font-size="11">',
            _STYLE,
            f'<rect class="paper" width="{width}" height="{height}"></rect>',
            f'<text class="name" x="{_LEFT}" y="18">Training loss over the steps, one batch each (line); '
            "loss on held-out rows before (○) and after (●)</text>",
            *panels,
            "</svg>\n",
        ]
    )


_STYLE = """<style>
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1a1d21; --quiet: #565c64; --line: #d9dcd8; --mark: #2f6fa8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e8e9ea; --quiet: #a6adb6; --line: #353c45; --mark: #7db4e6; } }
text { fill: var(--ink); } .tick { fill: var(--quiet); font-size: 10px; } .name { font-weight: 600; } .paper { fill: var(--paper); }
.grid { stroke: var(--line); } .loss { fill: none; stroke: var(--mark); stroke-width: 1.5; } .before { fill: var(--paper); stroke: var(--ink); }
.after { fill: var(--ink); stroke: var(--ink); }
</style>"""


def _panel(entry: Mapping[str, Any]) -> Iterator[str]:
    every = (*entry["losses"], *_ends(entry))
    low, high = min(every), max(every)

    def y(loss: float) -> float:
        return round((high - loss) / (high - low or 1) * _HIGH, 1)

    losses = entry["losses"]
    step = _WIDE / max(1, len(losses) - 1)
    yield f'<text class="name" x="0" y="-6">{escape(entry["name"])}</text>'
    for value in (low, high):
        yield f'<line class="grid" x1="0" x2="{_WIDE}" y1="{y(value)}" y2="{y(value)}"></line>'
        yield f'<text class="tick" x="-4" y="{y(value) + 3}" text-anchor="end">{value:.1f}</text>'
    points = " ".join(f"{round(at * step, 1)},{y(loss)}" for at, loss in enumerate(losses))
    yield f'<polyline class="loss" points="{points}"></polyline>'
    before, after = _ends(entry)
    yield f'<circle class="before" cx="0" cy="{y(before)}" r="3.5"></circle>'
    yield f'<circle class="after" cx="{_WIDE}" cy="{y(after)}" r="3.5"></circle>'


def _ends(entry: Mapping[str, Any]) -> tuple[float, float]:
    return entry["before"]["loss"], entry["after"]["loss"]

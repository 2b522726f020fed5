"""The report: ``report.json`` with every figure, ``REPORT.md`` and a drawing for each part made from it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from kb.files import put
from tests.reference_impls.pretrained.plan import PARTS

FOLDER = Path(__file__).parent

_TEXT_FIGURES = {  # heading of a column -> which score, which figure of it
    "loss before": ("before", "loss"),
    "loss after": ("after", "loss"),
    "tokens right before": ("before", "token"),
    "tokens right after": ("after", "token"),
}
_LABEL_FIGURES = {
    "right before": ("before", "exact"),
    "head alone": ("head_alone", "exact"),
    "right after": ("after", "exact"),
    "loss head alone": ("head_alone", "loss"),
    "loss after": ("after", "loss"),
}

_COLUMNS, _WIDE, _HIGH, _GAP, _LEFT, _TOP = 4, 180, 96, 34, 40, 62  # of the drawing, in pixels


def read(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The runs of the last report by part and slug; empty when there is none."""
    path = folder / "report.json"
    if not path.is_file():
        return {}
    return {key: part["runs"] for key, part in json.loads(path.read_text(encoding="utf-8"))["parts"].items()}


def write(runs: Mapping[str, Mapping[str, Any]], setting: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Puts ``runs`` in place of their predecessors and makes tables and drawings anew; planned methods alone stay."""
    folder.mkdir(parents=True, exist_ok=True)
    before = read(folder)
    report: dict[str, Any] = {"made_by": "python -m tests.reference_impls.pretrained", **setting, "parts": {}}
    for key, part in PARTS.items():
        known = {**before.get(key, {}), **runs.get(key, {})}
        kept = {slug: known[slug] for slug in part.plan if slug in known}
        if kept:
            report["parts"][key] = {"title": part.title, "model": part.model, "text": part.text, "runs": kept}
            put(folder / drawing(key), drawn(kept))
    put(folder / "report.json", _compact(report))
    put(folder / "REPORT.md", rendered(report))


def drawing(key: str) -> str:
    """The file with the losses of a part."""
    return f"losses-{key}.svg"


def _compact(report: Mapping[str, Any]) -> str:
    """JSON with a line for each figure, the losses of a run in one."""
    rows = [entry["losses"] for part in report["parts"].values() for entry in part["runs"].values()]
    text = json.dumps(report, indent=1, ensure_ascii=False)
    for row in rows:
        spread = json.dumps(row, indent=1).replace("\n", "\n" + " " * 5)
        text = text.replace(spread, json.dumps(row))
    return text + "\n"


def rendered(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        "# Methods on real pretrained models",
        "",
        "Written by `make pretrained` (`python -m tests.reference_impls.pretrained`); do not edit by hand.",
        "",
        f"Python {report['python']}, {versions}; CPU, fp32. All figures are of rows that training never saw, a tenth of",
        "all, before and after. The methods of a part read the same batches in the same order; those with more steps read",
        "on. The learning rates were hardly tuned, so this shows that each method trains a real model and is saved and loaded",
        "whole, not which is best.",
        "",
        *(line for key, part in report["parts"].items() for line in _section(key, part)),
        "Any row again: its `command` in `report.json`, with `--model` and `--data` of your own.",
        "",
    ]
    return "\n".join(lines)


def _section(key: str, part: Mapping[str, Any]) -> Iterator[str]:
    runs = list(part["runs"].values())
    yield from (f"## {part['title']}", "", f"Model: {part['model']}. Text: {part['text']}.")
    yield f"{runs[0]['says']}."
    labelled = bool(runs[0]["labels"])
    figures = _LABEL_FIGURES if labelled else _TEXT_FIGURES
    yield from (_about_labels(runs) if labelled else _about_text(runs))
    names = ("method", "class", "trained", "share", *figures, "steps", "learning rate", "processor seconds")
    yield from ("", f"| {' | '.join(names)} |", f"| --- | --- | {' | '.join(['---:'] * (len(names) - 2))} |")
    yield from (_row(entry, figures) for entry in runs)
    yield from ("", f"![Training loss of every method]({drawing(key)})", "")


def _about_labels(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    head, majority = runs[0]["counts"]["head"], runs[0]["majority"]
    held_out = int(runs[0]["says"].rpartition(", ")[2].split()[0])
    best = max(entry["head_alone"]["exact"] for entry in runs)
    yield "A new linear head reads the pooler's output and trains beside every method; `head alone` is the frozen model with"
    yield f"a head that trained without the method, as long and at the same rate: at best {best:.1%} over these rates. Its"
    yield f"{head:,} numbers are not counted as trained. The commonest label would be right for {majority:.1%}; one row more"
    yield f"or less is {1 / held_out:.1%}. Diff pruning's training loss holds its penalty, until the mask is fixed halfway."


def _about_text(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    usual = min(entry["steps"] for entry in runs)
    longer = ", ".join(entry["name"] for entry in runs if entry["steps"] > usual)
    above = ", ".join(entry["name"] for entry in runs if entry["after"]["loss"] >= entry["before"]["loss"])
    yield "Loss and accuracy are those of the next token. Some methods do not start at the base's answers, have to come"
    yield f"back to them first, and got more steps, several over each row: {longer or 'none'}. Still above the base's"
    yield f"loss on held-out rows: {above or 'none'}. Prefix tuning, MAM and LoReFT run at a lower rate than was tried"
    yield "first (2e-3, 1e-3 and 5e-3), which took them away from the base's answers or left them above. AdaLoRA's"
    yield "training loss holds its penalty."


def _row(entry: Mapping[str, Any], figures: Mapping[str, tuple[str, str]]) -> str:
    counts = entry["counts"]
    trained = counts["trained"] - counts["head"]
    values = ((name, entry[source][name]) for source, name in figures.values())
    cells = (
        entry["name"],
        " + ".join(entry["classes"]),
        f"{trained:,}",
        f"{trained / counts['total']:.3%}",
        *(f"{value:.3f}" if name == "loss" else f"{value:.1%}" for name, value in values),
        f"{entry['steps']}",
        f"{entry['learning_rate']:g}",
        f"{entry['cpu_seconds']:.0f}",
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

"""Runs methods of all classes on real pretrained models with real text: ``python -m tests.reference_impls.pretrained``.

Each run is the command that anyone would type, ``peft-atlas run <slug> --model … --data …``, with a few steps on the
CPU, a minute or two each. ``report.json``, ``REPORT.md`` and the drawings beside this file are written anew after every
run; what they hold already is not run again unless its settings changed or it is named as an argument.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typer.testing import CliRunner

from cli.main import app
from kb.loader import KB, load_record
from kb.schema import Method
from tests.reference_impls.pretrained.plan import PARTS, Part
from tests.reference_impls.pretrained.report import FOLDER, read, write

RUNS = Path("runs/pretrained")
CHOICES = [f"{key}/{slug}" for key, part in PARTS.items() for slug in part.plan]


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing, or the runs named; 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.reference_impls.pretrained", description=__doc__)
    parser.add_argument(
        "runs", nargs="*", metavar="part/slug", help=f"of {', '.join(CHOICES)}; without it all that lack"
    )
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the report")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.runs if name not in CHOICES]
    if unknown:
        parser.error(f"there is no plan for {unknown[0]!r}; there is one for {', '.join(CHOICES)}")
    console = Console(stderr=True)
    failed = [failure for key in PARTS for failure in _run_part(key, options.runs, options.output, console)]
    for failure in failed:
        console.print(failure, style="red", markup=False)
    return int(bool(failed))


def _run_part(key: str, named: list[str], output: Path, console: Console) -> Iterator[str]:
    """Runs what is wanted of one part, and says what failed."""
    part, place = PARTS[key], RUNS / key
    place.mkdir(parents=True, exist_ok=True)
    data, fingerprint = part.rows(place)
    done = read(output).get(key, {})
    wanted = [slug for slug in part.plan if f"{key}/{slug}" in named] if named else []
    if not named:
        wanted = [slug for slug in part.plan if not current(done.get(slug), part, fingerprint)]
    if not wanted:
        return
    try:
        model = part.open_model(place)
    except ModuleNotFoundError as error:
        yield f"{part.title}: {error}"
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(wanted))
        for slug in wanted:
            progress.update(task, description=f"{key}/{slug}")
            try:
                entry = run(slug, part, model, data, place)
            except RuntimeError as error:
                yield f"{key}/{slug}: {error}"
            else:
                write({key: {slug: {**entry, "rows": fingerprint}}}, setting(), output)
            progress.advance(task)


def current(entry: dict[str, Any] | None, part: Part, fingerprint: str) -> bool:
    """Whether the report holds this run already."""
    return (
        entry is not None
        and entry["rows"] == fingerprint
        and entry["command"] == " ".join(command(entry["slug"], part))
    )


def command(slug: str, part: Part) -> Iterator[str]:
    """What a person types for this run, before ``--model`` and ``--data``."""
    steps, batch, longest = part.steps_of(slug), part.batch, part.longest
    yield from ("peft-atlas", "run", slug, "--steps", str(steps), "--batch", str(batch), "--longest", str(longest))
    yield from ("--lr", f"{part.plan[slug].lr:g}")
    for name, value in part.plan[slug].config.items():
        yield from ("--set", f"{name}={json.dumps(value)}")


def run(slug: str, part: Part, model: Path, data: Path, place: Path) -> dict[str, Any]:
    """One run as an entry of the report; ``RuntimeError`` with the command's own words when it fails."""
    words = list(command(slug, part))
    begun = time.process_time()
    more = ["--model", str(model), "--data", str(data), "--device", "cpu", "--output", str(place / slug), "--json"]
    done = CliRunner().invoke(app, [*words[1:], *more])
    if done.exit_code:
        raise RuntimeError(done.stderr.strip()[-2000:] or f"ended with status {done.exit_code}: {done.exception}")
    result = json.loads(done.stdout)
    outcome = result["outcomes"][0]
    record = load_record(KB / "methods" / f"{slug}.yaml", Method)
    kept = ("before", "head_alone", "after", "reloaded", "labels", "majority", "counts")
    return {
        "slug": slug,
        "name": result["name"],
        "classes": list(record.taxonomy.classes),
        "command": " ".join(words),
        "config": result["config"],
        "says": outcome["says"],
        **{key: outcome[key] for key in (*kept, "seconds", "steps", "learning_rate")},
        "cpu_seconds": round(time.process_time() - begun, 1),
        "losses": [round(loss, 4) for loss in outcome["losses"]],
    }


def setting() -> dict[str, Any]:
    """With what the last run was made."""
    packages = ("torch", "transformers", "gguf", *(part.package for part in PARTS.values()))
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": {name: version(name) for name in packages},
    }


if __name__ == "__main__":
    sys.exit(main())

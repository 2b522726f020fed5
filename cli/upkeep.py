"""``peft-atlas check`` and ``export``: the knowledge base held to its rules, and written down for others."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.terminal import console, envelope, near, stop, write_json
from kb.files import put


def check(
    folder: Annotated[
        Path | None, typer.Option(help="Project folder to check, the one that holds kb/; this one without it.")
    ] = None,
    write_schema: Annotated[bool, typer.Option(help="First bring kb/schema.json up to date.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> None:
    """Check every record of the knowledge base and say what to repair."""
    from kb import jsonschema
    from kb.loader import KB
    from kb.rules import RULES
    from kb.rules import check as problems_of

    root = folder or KB.parent
    if not (root / "kb").is_dir():
        stop(f"{root} has no folder kb/; name the project folder")
    if write_schema:
        jsonschema.write(root / "kb" / "schema.json")
    problems = problems_of(root)
    files = len(list((root / "kb" / "methods").glob("*.yaml")))
    if as_json:
        write_json(envelope(records=files, rules=len(RULES), problems=[asdict(each) for each in problems]))
    else:
        for problem in problems:
            sys.stdout.write(f"{problem}\n")
        if problems:
            console().print(f"[bold red]{len(problems)} problem(s)[/] in {files} records")
        else:
            console().print(f"[green]All well[/]: {files} records keep {len(RULES)} rules")
    if problems:
        raise typer.Exit(1)


def export(
    what: Annotated[
        str | None, typer.Argument(help="site: a still copy of the whole site, for any web server; without it, data.")
    ] = None,
    folder: Annotated[Path | None, typer.Argument(help="Folder for the copy of the site.")] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", "-f", help="json, graphml, mermaid, dot, csv or bib; else by the file's name."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; the terminal without it.")
    ] = None,
) -> None:
    """Write the taxonomy or the records in another format, or the whole site as files."""
    if what is not None:
        if what != "site":
            stop(f"there is nothing to export called {what!r}{near(what, ['site'])}; formats go with --format")
        if folder is None:
            stop("name the folder that gets the copy: peft-atlas export site DIR")
        _export_site(folder)
        return
    from taxonomy import build
    from taxonomy.exports import FORMATS

    if form is None:
        suffixes = {each.suffix: name for name, each in FORMATS.items()}
        form = suffixes.get(output.suffix.removeprefix("."), "json") if output else "json"
    if form not in FORMATS:
        stop(f"there is no format {form!r}{near(form, FORMATS)}")
    text = FORMATS[form].write(build())
    if output is None:
        sys.stdout.write(text)
        return
    try:
        put(output, text)
    except OSError as error:
        stop(f"{output} cannot be written: {error.strerror}", code=1)
    console().print(f"{escape(str(output))}: {len(text.encode()):,} bytes of {form}")


def _export_site(folder: Path) -> None:
    """The site as files, with a progress bar."""
    from rich.progress import Progress

    from web.still import CopyError, make_copy

    try:
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("Copying the site", total=None)
            count = 0
            for done, count in make_copy(folder):
                progress.update(task, completed=done, total=count)
    except CopyError as error:
        stop(str(error), code=1)
    except OSError as error:
        stop(f"{error.filename or folder} cannot be written: {error.strerror}", code=1)
    console().print(f"{escape(str(folder))}: {count} addresses; any web server can hand them out")

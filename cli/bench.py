"""``peft-atlas bench``: measure memory and time of the methods on this machine's GPU, ours beside Hugging Face PEFT's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.terminal import stop
from recommender.reading import near
from recommender.units import show_bytes

if TYPE_CHECKING:
    from kb.measurement import Fit, Step

NEEDS_TORCH = 'peft-atlas bench needs PyTorch and transformers: pip install "peft-atlas[peft]"'


def bench(
    methods: Annotated[list[str] | None, typer.Argument(help="Methods to measure; all without it.")] = None,
    device: Annotated[str, typer.Option(help="auto takes CUDA when there is one; else cpu, cuda, cuda:1 …")] = "auto",
    shape: Annotated[
        list[str] | None, typer.Option(help="Model of the plan, as llama-3.2-3b; may be repeated; all without it.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Begin no measurement that would end later than this.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Timed steps of each measurement.")] = 5,
    output: Annotated[
        Path | None, typer.Option(help="File of the results; what it holds is not measured again.")
    ] = None,
    proof: Annotated[
        bool, typer.Option(help="Instead: which batch of Llama-2-7B fits into 24, 40 and 80 GB, predicted and tried.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be measured, and measure nothing.")] = False,
) -> None:
    """Measure memory and time of the methods on this machine's GPU, ours beside PEFT's.

    Every result is written at once, and the same call goes on where it stopped.

    On a GPU the results go to kb/measurements. On a machine without one, the same code measures models cut small on the
    processor and writes to a scratch file: that shows that it works, not how a card behaves.
    """
    if find_spec("torch") is None or find_spec("transformers") is None:
        stop(NEEDS_TORCH, code=1)
    from profiler import campaign
    from profiler.measure import machine
    from reference_impls import slugs
    from reference_impls.training.loop import choose_device

    known = slugs()
    for slug in methods or []:
        if slug not in known:
            stop(f"there is no method {slug!r}{near(slug, known)}")
    models = list(dict.fromkeys(one.model for one in campaign.SHAPES))
    for name in shape or []:
        if name not in models:
            stop(f"there is no shape {name!r}{near(name, models)}; the plan has {', '.join(models)}")
    try:
        place = choose_device(device)
    except ValueError as error:
        stop(str(error))
    small = place.type != "cuda"
    shapes = [one for one in campaign.SHAPES if shape is None or one.model in shape]
    where = machine(place)
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    path = output or (_scratch() if small else campaign.file_for(where, date))
    if proof:
        _proof(methods, path, where, place)
        return
    try:
        todo = campaign.remaining(campaign.cases(methods, shapes, small), path)
    except ValueError as error:
        stop(str(error), code=1)
    if plan:
        for case in todo:
            typer.echo(case.said)
        return
    with _bar(len(todo)) as progress:
        found = campaign.work(todo, path, where, place, minutes=minutes, timed=steps, progress=progress)
    _show(found, len(todo))
    typer.echo(f"{len(found)} of {len(todo)} measured; written to {path}")
    if found and found[-1].outcome == "failed" and not campaign.usable(place):
        stop("the card no longer computes after the last error; call again to go on in a new process", code=1)


def _scratch() -> Path:
    return Path(tempfile.gettempdir()) / "peft-atlas-bench-cpu.jsonl"


@contextmanager
def _bar(total: int) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)

        def advance(said: str, done: int, of: int) -> None:
            bar.update(task, description=escape(said), completed=done, total=of)

        yield advance


def _show(found: Sequence[Step], planned: int) -> None:
    """A line for each measurement."""
    if not found:
        return
    table = Table(show_edge=False)
    for heading in ("method", "whose", "setting", "allocated", "reserved", "device", "step", ""):
        table.add_column(heading, justify="right" if heading in ("allocated", "reserved", "device", "step") else "left")
    for one in found:
        sizes = (one.allocated_bytes, one.reserved_bytes, one.device_bytes)
        table.add_row(
            one.slug,
            one.implementation,
            escape(one.setting.said),
            *("" if size is None else show_bytes(size) for size in sizes),
            "" if one.step_seconds is None else f"{1e3 * one.step_seconds:.1f} ms",
            escape("" if one.outcome == "measured" else f"{one.outcome}: {one.message}"),
        )
    Console(highlight=False).print(table)


def _proof(methods: Sequence[str] | None, path: Path, where: Any, place: Any) -> None:
    from kb.measurement import append, read
    from profiler import proof

    done = {row.key for row in read(path)} if path.is_file() else set()
    for slug in methods or proof.METHODS:
        for limit in proof.LIMITS:
            if any(key[0] == "fit" and key[1] == slug and key[3] == limit for key in done):
                continue
            try:
                for fit in proof.prove(slug, limit, where, place):
                    append(path, fit)
                    _say(fit)
            except ValueError as error:
                typer.echo(f"{slug}, {limit} GB: {error}", err=True)


def _say(fit: Fit) -> None:
    verdict = "right" if fit.predicted == fit.fitted else "WRONG"
    typer.echo(
        f"{fit.slug}, {fit.limit_gb} GB, batch {fit.setting.batch}: {show_bytes(fit.predicted_bytes)} predicted, "
        f"{'fits' if fit.predicted else 'too large'}; tried: {'fitted' if fit.fitted else 'too large'} ({verdict})"
    )

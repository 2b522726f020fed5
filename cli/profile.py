"""``peft-atlas profile``: what dry runs know of every method that runs, written down for those who have no torch.

``kb/profiles/<slug>.json`` holds its closed forms, ``kb/timelines/<slug>.json`` the course of one step on an example.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli import course
from cli.terminal import console, near, stop
from kb.closed_form import MADE_BY, WHOSE
from kb.collector import keep_aside
from kb.records import load_methods
from taxonomy import UnknownMethod, build

if TYPE_CHECKING:
    from kb.schema import Method

_WARM_UP = "lora"  # its attaching imports what all others need


@dataclass(frozen=True)
class Done:
    """What came of one method."""

    slug: str
    forms: int
    refused: int
    seconds: float
    error: str | None  # why nothing was written


def profile(
    slugs: Annotated[
        list[str] | None, typer.Argument(help="Methods, as in `peft-atlas list`; all that run without one.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Also methods whose file is current.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, max=256, help="Processes; one per core without it.")] = None,
) -> None:
    """Fit memory and work of the methods in closed form, from dry runs; writes kb/profiles and kb/timelines."""
    try:
        from profiler import profiles

        methods = _methods(slugs or [], profiles.runnable())
    except ModuleNotFoundError as error:
        stop(f"profile needs {error.name}; install peft-atlas[peft]")
    waiting = [method.slug for method in methods if fresh or not _current(method)]
    started = time.monotonic()
    results = _work(waiting, jobs or _cores(), fresh) if waiting else []
    _summary(results, len(methods) - len(waiting), time.monotonic() - started)
    if any(one.error for one in results):
        raise typer.Exit(1)


def _current(method: Method) -> bool:
    from profiler import profiles

    drawn = profiles.untrained(method) or course.committed(method.slug, profiles.fingerprint(method))
    return profiles.current(method) and drawn


def _methods(slugs: Sequence[str], runnable: Sequence[Method]) -> list[Method]:
    """The methods that are meant; ends the command when one does not exist or has no code."""
    if not slugs:
        return list(runnable)
    known = {method.slug: method for method in runnable}
    found: dict[str, Method] = {}
    for slug in slugs:
        try:
            own = build().method(slug).slug
        except UnknownMethod as error:
            stop(str(error))
        if own not in known:
            name = load_methods()[own].name
            stop(f"{name} cannot be profiled: neither this project nor PEFT has code of it{near(own, known)}")
        found[own] = known[own]
    return list(found.values())


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(slugs: Sequence[str], jobs: int, fresh: bool) -> list[Done]:
    """Profiles ``slugs`` in processes of their own. What is done is written: the command can be stopped and called again."""
    results: list[Done] = []
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(slugs)), mp_context=spawn, initializer=_ready)
    with _bar() as bar:
        task = bar.add_task("starting", total=len(slugs))
        waiting = {pool.submit(_one, slug, fresh): slug for slug in slugs}
        try:
            for future in as_completed(waiting):
                done = _result(future, waiting[future])
                results.append(done)
                bar.update(task, advance=1, description=done.slug)
                if done.error:
                    bar.console.print(f"[red]{escape(done.slug)}[/]: {escape(done.error)}", soft_wrap=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            stop(f"stopped after {len(results)} of {len(slugs)}; call again to go on", code=130)
    pool.shutdown()
    return results


def _bar() -> Progress:
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True, highlight=False))


def _result(future: Future[Done], slug: str) -> Done:
    """What a process found; its death is an error of the method that it worked on."""
    try:
        return future.result()
    except Exception as error:
        return Done(slug, 0, 0, 0.0, f"{type(error).__name__}: {error}")


def _ready() -> None:
    """Makes a process ready: one thread, everything imported, and the collector spared from walking through all that.

    Thousands of runs of tiny models follow, each of which collects; without ``keep_aside`` they take three times as long.
    """
    import torch

    from profiler.build import ready
    from profiler.shapes import SHAPES

    torch.set_num_threads(1)
    for shape in SHAPES.values():
        for implementation in WHOSE:
            ready(shape.config(2), _WARM_UP, implementation)
    load_methods()
    keep_aside()


def _one(slug: str, fresh: bool) -> Done:
    """Profiles one method and writes its files."""
    from profiler import profiles

    started, method, lost = time.monotonic(), load_methods()[slug], None
    try:
        if fresh or not profiles.current(method):
            found = profiles.profile(method, None if fresh else profiles.stored(slug))
            profiles.write(found)
            forms, refused = len(found.forms), len(found.refused)
            lost = None if forms else "no form could be read: " + "; ".join(dict.fromkeys(found.refused.values()))
        else:
            forms = refused = 0
        if profiles.untrained(method):
            return Done(slug, 0, refused, time.monotonic() - started, None)
        code = next(profiles.implementations(method))
        error = course.commit(method, code, profiles.fingerprint(method), MADE_BY)
    except Exception as problem:  # one method must not end the others; its name and error are said
        return Done(slug, 0, 0, time.monotonic() - started, f"{type(problem).__name__}: {problem}")
    said = f"its step cannot be drawn: {error}" if error else None
    return Done(slug, forms, refused, time.monotonic() - started, lost or said)


def _summary(results: Iterable[Done], current: int, seconds: float) -> None:
    written = [one for one in results if one.error is None]
    failed = [one.slug for one in results if one.error is not None]
    text = f"{len(written)} written with {sum(one.forms for one in written)} forms, {current} current"
    refused = sum(one.refused for one in written)
    text += f", {refused} settings refused by name" if refused else ""
    text += f", [red]{len(failed)} failed[/]: {', '.join(failed)}" if failed else ""
    console().print(f"{text}; {seconds:.0f} s", soft_wrap=True)

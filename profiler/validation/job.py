"""What has to be run: one job for each row, by goal; a row that was run is not run again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from functools import partial
from typing import TextIO

from profiler.validation import frameworks, image, language
from profiler.validation.cache import Cache
from profiler.validation.goals import FRAMEWORK_MEMORY, IMAGE_MEMORY, LANGUAGE_MEMORY, STEP_TIME
from profiler.validation.published import IMAGE, LANGUAGE, published_runs

Numbers = dict[str, float]


@dataclass(frozen=True)
class Job:
    """One row: which goal it belongs to, and how its numbers are made."""

    goal: str
    key: str
    settings: Hashable  # all that the numbers depend on
    make: Callable[[], Numbers]


def jobs() -> tuple[Job, ...]:
    """All of them."""
    language_runs, image_runs = published_runs(LANGUAGE), published_runs(IMAGE)
    return (
        *(Job(STEP_TIME, f"time/{one.name}", one.settings, partial(language.work, one)) for one in language_runs),
        *(
            Job(LANGUAGE_MEMORY, f"memory/{one.name}", one.settings, partial(language.memory, one))
            for one in language_runs
        ),
        *(Job(IMAGE_MEMORY, f"memory/{one.name}", one.settings, partial(image.memory, one)) for one in image_runs),
        *(
            Job(FRAMEWORK_MEMORY, f"framework/{one.name}", one.alike, partial(frameworks.memory, one))
            for one in frameworks.framework_runs()
        ),
    )


def run(cache: Cache, out: TextIO, goals: Collection[str], only: str = "") -> list[str]:
    """Runs what the cache lacks of ``goals``, with a line of progress; returns the keys that could not be run.

    Where ``out`` is no terminal, each job has a line of its own. A job that differs from one that was run in its learning
    rate only, say, has the same numbers.
    """
    failed: list[str] = []
    drawn = out.isatty()
    over = "\n" if drawn else ""  # ends the bar before words
    wanted = [job for job in jobs() if job.goal in goals and only in job.key]
    same: dict[tuple[str, Hashable], str] = {}
    for at, job in enumerate(wanted, 1):
        out.write(_progress(at, len(wanted), job.key, drawn))
        out.flush()
        twin = same.get((job.goal, job.settings))
        try:
            found = cache.get(job.key, job.make if twin is None else partial(cache.rows.__getitem__, twin))
        except (ValueError, RuntimeError, ImportError, TypeError) as error:
            out.write(f"{over}{job.key}: {error}\n")
            failed.append(job.key)
        else:
            same.setdefault((job.goal, job.settings), job.key)
            if only:
                out.write(f"{over}{job.key}: {found}\n")
    out.write(over)
    return failed


def _progress(at: int, of: int, key: str, drawn: bool) -> str:
    """Where a run stands: over the line before it as a bar if it is ``drawn``, else as a line."""
    done = 30 * at // of
    return f"\r[{'#' * done}{'.' * (30 - done)}] {at:3d}/{of} {key:70.70s}" if drawn else f"{at:3d}/{of} {key}\n"

"""What pytest needs to test on a card: the device, a file of results that is gone on from, and an end in time.

``python -m tests.gpu`` loads it. Each test that has run becomes a line of the file; those that the file says have passed
are left out of the next run.
"""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from kb.measurement import Check, append, read
from profiler.measure import machine, now


def pytest_addoption(parser: pytest.Parser) -> None:
    """Three options of the run on a card."""
    parser.addoption("--device", default="cpu", help="where the tiny models of the tests live")
    parser.addoption("--results", type=Path, help="JSON lines, one for each test")
    parser.addoption("--minutes", type=float, help="begin no test after so long")


def pytest_configure(config: pytest.Config) -> None:
    """Remembers where and since when this runs."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # the tests compare runs bit by bit
    config.stash[_BEGUN] = time.monotonic()
    config.stash[_MACHINE] = machine(torch.device(config.getoption("--device")))


_BEGUN = pytest.StashKey[float]()
_MACHINE = pytest.StashKey[Any]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what has passed before."""
    path = config.getoption("--results")
    if path is None or not path.is_file():
        return
    passed: dict[str, bool] = {}
    for row in read(path):
        if isinstance(row, Check):
            passed[row.name] = row.passed
    done = [item for item in items if passed.get(item.nodeid)]
    config.hook.pytest_deselected(items=done)
    items[:] = [item for item in items if not passed.get(item.nodeid)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Writes the result of a test that ran, or could not be set up."""
    report = yield
    config = item.config
    path = config.getoption("--results")
    if (
        path is not None
        and (report.when == "call" or (report.when == "setup" and report.failed))
        and not report.skipped
    ):
        words = str(call.excinfo.value).strip().splitlines() if call.excinfo is not None else []
        case = getattr(item, "callspec", None)
        slug = next((str(getattr(value, "slug", value)) for value in case.params.values()), "") if case else ""
        append(
            path,
            Check(
                at=now(),
                machine=config.stash[_MACHINE],
                slug=slug,
                name=item.nodeid,
                passed=report.passed,
                seconds=round(report.duration, 3),
                message=" ".join(words)[:300] or None,
            ),
        )
    minutes = config.getoption("--minutes")
    if minutes is not None and time.monotonic() - config.stash[_BEGUN] > 60 * minutes:
        item.session.shouldstop = f"{minutes:g} minutes are over; the same call goes on"
    return report

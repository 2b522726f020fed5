"""Work in a copy of this process, beside what goes on here: two cores do it in less time, and what is imported is shared."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")
PATIENCE = 300  # seconds for which a copy may say nothing


def side_by_side(here: Callable[[], A], there: Callable[[], B]) -> tuple[A, B]:
    """What both give; ``there`` is computed in a copy of this process, and its result has to be picklable.

    Where a process cannot be copied safely, or the copy is lost, both are computed here. A copy has no threads of
    libraries: neither may need any that run already.
    """
    if not _copyable():
        return here(), there()
    with _copy(partial(_tell, there)) as copy:
        return here(), _heard(copy, there)


@contextmanager
def ahead(*modules: str) -> Iterator[Callable[..., Any]]:
    """Imports ``modules`` in a copy of this process while the block goes on; gives what calls a function there, once.

    The function and its arguments are pickled, and so is what comes back. It is called here where the modules are
    imported already, where a process cannot be copied safely, or when the copy is lost.
    """
    if not _copyable() or all(module in sys.modules for module in modules):
        yield lambda function, *arguments: function(*arguments)
        return
    with _copy(partial(_wait, modules)) as copy:

        def call(function: Callable[..., A], *arguments: object) -> A:
            copy.send((function, arguments))
            return _heard(copy, partial(function, *arguments))

        yield call


def _copyable() -> bool:
    """Whether forking is safe: not on macOS, nor while another thread may hold a lock that nobody would give back."""
    return sys.platform == "linux" and threading.active_count() == 1


@contextmanager
def _copy(work: Callable[[Connection], None]) -> Iterator[Connection]:
    """A copy of this process that does ``work``, and the pipe between the two; it ends with the block."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    copy = context.Process(target=_run, args=(work, ours, theirs))
    copy.start()
    theirs.close()  # so that the copy's end is the end of what it says
    try:
        yield ours
    finally:
        ours.close()
        copy.kill()
        copy.join()


def _run(work: Callable[[Connection], None], ours: Connection, theirs: Connection) -> None:
    ours.close()  # so that the copy ends when this process does
    try:
        work(theirs)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        theirs.close()  # nobody listens any more


def _wait(modules: tuple[str, ...], theirs: Connection) -> None:
    """Imports modules, then calls what is asked for."""
    try:
        for module in modules:
            import_module(module)
    except ModuleNotFoundError:
        pass  # the function that needs it says so
    function, arguments = theirs.recv()
    _tell(partial(function, *arguments), theirs)


def _tell(work: Callable[[], object], theirs: Connection) -> None:
    """Says what ``work`` gives or raises; nothing where that cannot be sent."""
    said: tuple[object, Exception | None]
    try:
        said = work(), None
    except Exception as error:
        error.add_note(traceback.format_exc())
        said = None, error
    try:
        packed = pickle.dumps(said, pickle.HIGHEST_PROTOCOL)
        if said[1] is not None:
            pickle.loads(packed)  # noqa: S301  # our own; some errors can be packed, but not unpacked
    except (pickle.PicklingError, AttributeError, TypeError):  # which of them depends on what cannot be pickled
        theirs.close()
    else:
        theirs.send_bytes(packed)


def _heard(ours: Connection, work: Callable[[], A]) -> A:
    """What a copy says of ``work``, or what it gives here if the copy ends, or says nothing for too long."""
    try:
        said = ours.recv_bytes() if ours.poll(PATIENCE) else None
    except EOFError:
        said = None
    if said is None:
        return work()
    found, error = pickle.loads(said)  # noqa: S301  # written by this program's own copy
    if error is not None:
        raise error
    return found  # type: ignore[no-any-return]  # pickle knows no types

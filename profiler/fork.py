"""Two computations side by side: one here, the other in a copy of this process, which has imported all that it needs."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")
PATIENCE = 300  # seconds for which a copy may say nothing


def side_by_side(here: Callable[[], A], there: Callable[[], B]) -> tuple[A, B]:
    """What both give; ``there`` is computed in a copy of this process, and its result has to be picklable.

    Whatever goes wrong there is done again here, so that errors are those of this process. Where a process cannot be
    copied safely, both are computed here. A copy has no threads of libraries: neither may need any that run already.
    """
    if not _copyable():
        return here(), there()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    copy = context.Process(target=_tell, args=(sender, there), daemon=True)
    copy.start()
    sender.close()  # so that the copy's end is the end of what it says
    try:
        first = here()
        said = _said(receiver)
        return first, there() if said is None else pickle.loads(said)  # noqa: S301  # by this program's own copy
    finally:
        receiver.close()
        copy.kill()
        copy.join()


def _copyable() -> bool:
    """Whether forking is safe: not on macOS, nor while another thread may hold a lock that nobody would give back."""
    return sys.platform == "linux" and threading.active_count() == 1


def _said(receiver: Connection) -> bytes | None:
    """What a copy says, or ``None`` if it ends, or says nothing for too long."""
    try:
        return receiver.recv_bytes() if receiver.poll(PATIENCE) else None
    except EOFError:
        return None


def _tell(sender: Connection, there: Callable[[], B]) -> None:
    """Computes ``there`` and says what it gives; nothing where it fails."""
    try:
        sender.send_bytes(pickle.dumps(there(), pickle.HIGHEST_PROTOCOL))
    except BaseException:  # an interrupt reaches the first process too, which says so
        sender.close()

"""The garbage collector kept from looking, again and again, through much that stays: all that a command imports or reads."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def resting() -> Iterator[None]:
    """Inside, cycles of references are freed only where ``gc.collect`` is called."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


_aside = False  # whether something is set aside by a function of this module: the interpreter counts it to say so


@contextmanager
def set_aside() -> Iterator[None]:
    """Inside, collections pass over what is there already; within another such block, over what was there before that."""
    global _aside
    if _aside or gc.get_freeze_count():
        yield
        return
    gc.freeze()
    _aside = True
    try:
        yield
    finally:
        _aside = False
        gc.unfreeze()


def keep_aside() -> None:
    """From now on collections pass over what is in use now, as long as the process lives."""
    global _aside
    gc.collect()
    gc.freeze()
    _aside = True


_SELDOM = (10_000, 20, 20)  # an answer makes thousands of objects, hardly any of them in a cycle


@contextmanager
def seldom() -> Iterator[None]:
    """Inside, collections are few and pass over what is there already: for a process that answers again and again.

    Anyone who asks the recommender many questions from Python may use it. Reading the records does not do so by itself,
    since it would change the collector for the whole program: there, the first full collections walk through all records.
    """
    gc.collect()
    usual = gc.get_threshold()
    gc.set_threshold(*_SELDOM)
    try:
        with set_aside():
            yield
    finally:
        gc.set_threshold(*usual)

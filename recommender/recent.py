"""Tables that remember a little: what was worked out for the last requests, since requests come in endless variety."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
KEPT = 16
"""Entries: one request asks a sheet for up to eight ways with their lengths, optimizers and pieces of the head."""


class Recent(dict[K, V]):
    """A table of at most ``KEPT`` entries: the oldest makes room for a new one."""

    def __setitem__(self, key: K, value: V) -> None:
        if key not in self and len(self) >= KEPT:
            del self[next(iter(self))]
        super().__setitem__(key, value)

"""Answers that were given last, kept for those who ask the same again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

Stored = tuple[bytes, str]
"""A body with its ETag."""


class Kept:
    """Bodies of at most ``limit`` bytes together: the one that was asked for longest ago makes room for a new one."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._bodies: OrderedDict[Hashable, Stored] = OrderedDict()

    def get(self, key: Hashable) -> Stored | None:
        """The body kept under ``key``, which becomes the latest, or ``None``."""
        found = self._bodies.get(key)
        if found is not None:
            self._bodies.move_to_end(key)
        return found

    def put(self, key: Hashable, stored: Stored) -> None:
        """Keeps a body; one that is larger than the limit is left out."""
        former = self._bodies.pop(key, None)
        if former is not None:
            self._size -= len(former[0])
        if len(stored[0]) > self._limit:
            return
        self._bodies[key] = stored
        self._size += len(stored[0])
        while self._size > self._limit:
            _, (body, _) = self._bodies.popitem(last=False)
            self._size -= len(body)

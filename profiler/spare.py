"""What the caching allocator reserves beyond the peak: holes, fitted to replays at widths that real models have.

Most holes are what the forward pass has left when logits and loss want larger blocks than any that is free. They grow with
logits and hidden states, and where attention has masks of its own, with these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from profiler.account import requests
from profiler.allocator import replay
from profiler.labels import Monomial, Polynomial
from profiler.live import BLOCK, Trace

_HOLES: tuple[Monomial, ...] = (("V", "b", "s"), ("b", "d", "s"), ("b", "d_ff", "s"), ())
_TOKENS = ("s", "t")
_ROUNDS = 20  # of reweighing; the coefficients have settled by then
_LEAST = 2e-3  # of what is reserved: errors below count alike


def basis(terms: Iterable[Polynomial], names: Iterable[str]) -> list[Monomial]:
    """What holes may grow with: logits and hidden states as far as ``names`` has them, and masks as they occur in ``terms``."""
    known = {*names}
    met = {monomial for polynomial in terms for monomial in polynomial}
    masks = {tuple(sorted("s" if name == "t" else name for name in one)) for one in met if _pairs(one)}
    return [one for one in _HOLES if {*one} <= known] + sorted(masks)


def _pairs(monomial: Monomial) -> bool:
    return sum(name in _TOKENS for name in monomial) == 2 and {*monomial} <= {*_TOKENS, "b", "n_heads"}


def holes(trace: Trace, sizes: np.ndarray, lent: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """For each draw of widths what is reserved beyond the peak, and what is reserved in all.

    ``sizes`` gives the bytes of every storage (storages, draws), ``lent`` those of kernels' workspaces.
    """
    beyond, whole = [], []
    for draw in range(sizes.shape[1]):
        bytes_of = [_blocks(size) if one.size else 0 for one, size in zip(trace.held, sizes[:, draw], strict=True)]
        held = [replace(one, size=size) for one, size in zip(trace.held, bytes_of, strict=True)]
        same = replace(trace, held=held, extra={at: _blocks(of[draw]) for at, of in lent.items()})
        peak = max(one.total for moment, one in same.segments().items() if moment.step > 0)
        whole.append(replay(requests(same, emptied=True)))
        beyond.append(whole[-1] - peak)
    return np.array(beyond, dtype=float), np.array(whole, dtype=float)


def _blocks(size: float) -> int:
    """``size`` rounded up to the allocator's blocks."""
    return -(-int(size) // BLOCK) * BLOCK


def fitted(monomials: list[Monomial], table: np.ndarray, wanted: np.ndarray, scale: np.ndarray) -> Polynomial:
    """Coefficients, none negative, with the least absolute error relative to ``scale``; ``table`` is (draws, monomials)."""
    table, wanted = table / scale[:, None], wanted / scale
    weights = np.ones(len(wanted))
    for _ in range(_ROUNDS):
        found = _nonnegative(table * weights[:, None], wanted * weights)
        weights = 1 / np.sqrt(np.maximum(abs(table @ found - wanted), _LEAST))
    return {one: Fraction(c).limit_denominator(1000) for one, c in zip(monomials, found.tolist(), strict=True) if c}


def _nonnegative(table: np.ndarray, wanted: np.ndarray) -> Any:
    """Coefficients of least squares; the most negative one is left out until none is."""
    left = list(range(table.shape[1]))
    found = np.zeros(table.shape[1])
    while left:
        solved = np.linalg.lstsq(table[:, left], wanted, rcond=None)[0]
        if (solved >= 0).all():
            found[left] = solved
            break
        left.pop(int(solved.argmin()))
    return found

"""Holes of the caching allocator: what they grow with, and how replays are fitted."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.labels import Monomial
from profiler.live import Held, Moment, Trace
from profiler.spare import basis, fitted, holes

MIB = 1 << 20
WIDTHS = {"V", "b", "d", "d_ff", "s"}
LINES: list[Monomial] = [("V", "b", "s"), ("b", "d", "s"), ()]
TABLE = np.exp(np.random.default_rng(0).uniform(0, 6, size=(40, 3)))


def test_holes_grow_with_logits_hidden_states_and_the_masks_that_there_are() -> None:
    plain = [{("b", "d", "s"): Fraction(2)}, {("L", "b", "s"): Fraction(1)}]
    assert basis(plain, WIDTHS) == [("V", "b", "s"), ("b", "d", "s"), ("b", "d_ff", "s"), ()]
    masks = [{("n_heads", "s", "t"): Fraction(2)}, {("n_heads", "s", "s"): Fraction(2), ("s", "s"): Fraction(1)}]
    assert basis(masks, WIDTHS)[4:] == [("n_heads", "s", "s"), ("s", "s")]
    assert basis(plain, WIDTHS - {"V"})[0] == ("b", "d", "s")


@given(st.lists(st.integers(0, 50), min_size=3, max_size=3).filter(any))
def test_coefficients_are_found_again_though_some_replays_stray(of: list[int]) -> None:
    wanted = TABLE @ np.array(of, dtype=float)
    strayed = wanted.copy()
    strayed[::9] *= 1.5
    found = fitted(LINES, TABLE, strayed, wanted)
    assert [float(found.get(one, 0)) for one in LINES] == pytest.approx(of, abs=0.05 * max(of))


def test_no_coefficient_is_negative() -> None:
    falling = 10 * TABLE[:, 0] - TABLE[:, 1]
    assert all(one >= 0 for one in fitted(LINES, TABLE, falling, abs(falling) + 1).values())


def test_a_freed_block_that_is_too_small_for_the_next_is_a_hole() -> None:
    """30 MiB come and go, then 40 and 12 are wanted: 40 MiB need a segment of their own, 12 are cut from the hole."""
    sizes = np.array([[30.0], [40.0], [12.0]]) * MIB
    held = [Held(int(size), int(size), at, Moment(2, "forward")) for at, (size,) in zip((0, 2, 3), sizes, strict=True)]
    steps = [(0, Moment(1, "forward")), (0, Moment(2, "forward"))]
    trace = Trace(events=[1, -1, 2, 3], held=held, marks=steps)
    (beyond,), (whole,) = holes(trace, sizes, {})
    workspace = 20 * MIB  # the segment of cuBLAS's, which no tensor is in
    assert whole == 70 * MIB + workspace
    assert beyond == whole - 52 * MIB

"""Widths that name themselves: each contains a prime of its own, so a size tells what it is made of.

A closed form says how many bytes a training step holds as a polynomial in the widths of the model. Instead of fitting
its coefficients to many runs, one run is made on a model whose widths contain distinct primes: a tensor of
11 · 7552 · 916864 numbers is batch × tokens × hidden size, and nothing else. Factorising every storage and every
kernel's work reads the polynomial off, exactly. Under fake tensors such widths cost nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

Monomial = tuple[str, ...]
"""Names of the factors, in alphabetical order; a name that is repeated is a power."""

Polynomial = dict[Monomial, Fraction]

SMALL = 1 << 16  # bytes, or operations; no model's memory depends on how so few of them grow
_FEW = 1 << 18  # as few where a number remains that is too large for a coefficient
LARGEST = 1 << 15  # of a coefficient's numerator: a larger one was not explained by the labels
FINEST = 1 << 12  # of its denominator
_PARTS = ((8000, 1 << 10), (2, 1 << 18))
"""How finely parts of a matrix are told apart, and how many bytes rounding may add: thousandths and blocks of 64 in whole
numbers; halves in blocks of 32,768."""
_ROWS = 40  # as finely where whole rows were chosen, and rounding may add one in fp16
_SHARES = 200  # as finely for thin factors
_STATIC = 1 << 12  # the largest coefficient of what does not grow with the tokens, where a width was meant
_WIDEST = 8  # bytes of a number or a position: as often goes a choice of rows into the matrix that it was made from
_MANY = 256  # a matrix is not meant whose size goes more often into one
_ODD = 512  # a larger one may be a share of another width
_PLAIN = 64  # neither is larger where a width was meant
_TILE = 128  # to so many tokens kernels of attention round up


class Width(NamedTuple):
    """A labelled width: its value, and the prime in it that no other width contains (heads and head size excepted)."""

    value: int
    prime: int


class Labels:
    """The labelled widths of one model, and the reading of sizes as polynomials in them, nearly always monomials.

    Widths are tried in the order given. ``kv``, ``g`` and ``dh`` are key/value heads, query heads for each of them, and
    head size; their products appear under the names of ``kb.architecture.VARIABLES``, where ``heads`` names the product
    of all three: ``d_q``, or ``d`` in a family whose hidden size it is. ``g2`` is two more than ``g``, for a family that
    joins queries, keys and values in one matrix. ``whole`` is the number of all parameters, in which
    static sizes are expressed that the labels do not explain. ``cut``: the method cuts widths into pieces of its rank. ``matrices``
    are the linear layers of all blocks, by the size of one: how many there are.
    """

    def __init__(
        self,
        widths: Mapping[str, Width],
        heads: str = "d_q",
        whole: int = 0,
        cut: bool = False,
        matrices: Mapping[int, int] | None = None,
    ) -> None:
        self.widths, self.heads, self.whole, self.cut, self.matrices = widths, heads, whole, cut, matrices or {}
        self.unread: Counter[int] = Counter()
        self._known: dict[int, Polynomial] = {}

    def read(self, size: int) -> Polynomial:
        """``size`` in the widths; what the labels do not explain is counted in ``unread``."""
        found = self._known.get(size)
        if found is None:
            found = self._known[size] = self._of_several(size) or dict([self._factorised(size)])
        if size in self.unread:
            self.unread[size] += 1
        return found

    def _factorised(self, size: int) -> tuple[Monomial, Fraction]:
        names, rest = self._divided(size)
        if (size < SMALL and not _plain(rest)) or (size < _FEW and rest.numerator > _PLAIN):
            return (), Fraction(size)  # a number that the method was given: what it shares with a width is chance
        if self.cut and (pieces := self._in_pieces(size)):
            return pieces
        if not {"s", "t"} & {*names} and rest > _PLAIN and (near := self._nearly_all_tokens(size)):
            return near
        static = "b" not in names or (rest > _ODD and not {"s", "t"} & {*names})
        if static and rest > _ODD and (part := self._part_of_matrix(size)):
            return part
        largest = LARGEST if "b" in names or not names else _STATIC
        if rest.numerator <= largest and rest.denominator <= FINEST:
            return self._named(names), rest
        if part := self._part_of_matrix(size):
            return part
        self.unread[size] = 0
        if ("b" in names and ("s" in names or "t" in names)) or not self.whole:  # as so many hidden states
            states = self.widths["b"].value * self.widths["s"].value * self._hidden()
            return ("b", "d", "s"), Fraction(size, states).limit_denominator(FINEST)
        return ("N",), Fraction(size, self.whole)

    def _divided(self, size: int) -> tuple[list[str], Fraction]:
        """The widths whose primes ``size`` contains, and what is left of it."""
        rest = Fraction(size)
        names: list[str] = []
        for name, (value, prime) in self.widths.items():
            while rest.numerator and rest.numerator % prime == 0:
                rest /= value
                names.append(name)
        return names, rest

    def _in_pieces(self, size: int) -> tuple[Monomial, Fraction] | None:
        """``size`` as tokens of a width that was cut, or filled up, to whole pieces of the rank, as if the rank divided it."""
        if "r" not in self.widths:
            return None
        piece, found = self.widths["r"].value, []
        for token in self._tokens():
            for name, side in {**self._sides(), "d": self._hidden()}.items():
                for whole in (side - side % piece, side + -side % piece):
                    often = Fraction(size, max(1, self.widths["b"].value * self.widths[token].value * whole))
                    if often.numerator <= _PLAIN and often.denominator == 1:
                        found.append((often, tuple(sorted(("b", name, token)))))
        return min(found)[::-1] if found else None

    def _nearly_all_tokens(self, size: int) -> tuple[Monomial, Fraction] | None:
        """``size`` as all tokens but the last, or as those that a kernel rounds up to; it grows as they do."""
        for token in self._tokens():
            value = self.widths[token].value
            for near in (value - 1, -(-value // _TILE) * _TILE):
                if near != value and size % near == 0:
                    names, rest = self._divided(size // near)
                    if "b" in names and _plain(rest):
                        return self._named([*names, token]), rest * Fraction(near, value)
        return None

    def _tokens(self) -> list[str]:
        return [name for name in ("s", "t") if name in self.widths]

    def _sides(self) -> dict[str, int]:
        """What a matrix of the model is wide on its other side than the hidden one."""
        kv = self.widths["kv"].value
        queries = kv * self.widths["g"].value * self.widths["dh"].value
        sides = {self.heads: queries, "d_kv": kv * self.widths["dh"].value}
        if "g2" in self.widths:
            sides["d_qkv"] = sides["d_kv"] * self.widths["g2"].value
        return sides | {name: self.widths[name].value for name in ("d_ff", "V") if name in self.widths}

    def _of_several(self, size: int) -> Polynomial | None:
        """``size`` as a share of what several widths hold together, where it is no product of widths."""
        names, rest = self._divided(size)
        if {"s", "t"} & {*names} or _plain(rest) or size < SMALL:
            return None
        return self._of_both_sides(size) or self._of_all_matrices(size)

    def _of_both_sides(self, size: int) -> Polynomial | None:
        """``size`` as a share of the rank times both sides of matrices: as many numbers as their thin factors would hold."""
        if "r" not in self.widths:
            return None
        d, sides = self._hidden(), self._sides()
        sums: list[tuple[str, ...]] = [("d", name) for name in sides if name != "d"]
        if self.heads != "d":
            sums.append(("d", "d", self.heads, "d_kv"))  # queries and values together
        if "g2" in self.widths:
            sums.append(("d", "d_ff", "d_ff"))  # gate and input in one matrix
        for several in sums:
            whole = self.widths["r"].value * sum(d if name == "d" else sides[name] for name in several)
            if near := self._share(size, whole, _SHARES, _PARTS[0][1]):
                return added(*(({tuple(sorted((name, "r"))): near}, 1) for name in several))
        return None

    def _of_all_matrices(self, size: int) -> Polynomial | None:
        """``size`` as a share of all matrices of all blocks, as a choice among their numbers leaves it."""
        whole = sum(one * count for one, count in self.matrices.items())
        near = self._share(size, whole, _SHARES, _PARTS[0][1]) if whole else None
        if not near:
            return None
        return added(*((dict([self._factorised(one)]), near * count) for one, count in self.matrices.items()))

    def _part_of_matrix(self, size: int) -> tuple[Monomial, Fraction] | None:
        """``size`` as a share of a matrix, rounded to whole numbers, blocks or rows, as pruning and packing leave it."""
        d = self._hidden()
        own = {name: self.widths[name].value for name in ("m", "r") if name in self.widths}  # of the method
        (fine, few), (halves, block) = _PARTS
        for sides, steps, rounded, most in (
            ({**self._sides(), **own}, fine, few, _MANY),
            (self._sides(), halves, block, _MANY),
            ({name: side for name, side in self._sides().items() if name != "V"}, _ROWS, 2 * d, _WIDEST),
        ):
            for name, side in sides.items():
                if (near := self._share(size, d * side, steps, rounded)) and near <= most:
                    return tuple(sorted(("d", name))), near
        return None

    @staticmethod
    def _share(size: int, whole: int, steps: int, rounded: int) -> Fraction:
        """The multiple of 1 / ``steps`` of ``whole`` that is ``size`` but for ``rounded``; nothing if there is none."""
        near = Fraction(round(Fraction(size, whole) * steps), steps)
        return near if near <= _MANY and abs(size - near * whole) <= rounded else Fraction(0)

    def _hidden(self) -> int:
        if "d" in self.widths:
            return self.widths["d"].value
        return self.widths["kv"].value * self.widths["g"].value * self.widths["dh"].value

    def _named(self, names: list[str]) -> Monomial:
        count = Counter(names)
        kv, group, head, joined = (count.pop(name, 0) for name in ("kv", "g", "dh", "g2"))
        named = list(count.elements())
        while kv and group and head:
            kv, group, head = kv - 1, group - 1, head - 1
            named.append(self.heads)
        while kv and joined and head:
            kv, joined, head = kv - 1, joined - 1, head - 1
            named.append("d_qkv")
        while kv and group:
            kv, group = kv - 1, group - 1
            named.append("n_heads")
        while kv and head:
            kv, head = kv - 1, head - 1
            named.append("d_kv")
        return tuple(sorted((*named, *["n_kv"] * kv, *["d_head"] * head, *["n_group"] * group, *["n_joined"] * joined)))


def _plain(rest: Fraction) -> bool:
    """Whether what is left of a size is a coefficient as it remains where widths were meant."""
    return rest <= _PLAIN and rest.denominator <= _PLAIN


def added(*terms: tuple[Polynomial, Fraction | int]) -> Polynomial:
    """The sum of polynomials, each times a number; terms that vanish are left out."""
    total: Polynomial = {}
    for polynomial, times in terms:
        for monomial, coefficient in polynomial.items():
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient * times
    return {monomial: value for monomial, value in total.items() if value}


def deepened(read: Sequence[Polynomial], counts: Sequence[Mapping[str, int]]) -> Polynomial:
    """The polynomial at any depth from those at a few, at which each letter for blocks stands for so many ``counts``.

    Each coefficient is linear in the letters, of which there is one less than depths. What is expressed in all parameters,
    ``N``, grows with these and not once more with the depth.
    """
    inverse = np.linalg.inv([[1, *one.values()] for one in counts])
    terms: list[tuple[Polynomial, int]] = [({m: value for m, value in read[-1].items() if "N" in m}, 1)]
    for letters, row in zip(((), *((letter,) for letter in counts[0])), inverse, strict=True):
        weights = (Fraction(float(weight)).limit_denominator(LARGEST) for weight in row)
        slope = added(*zip(read, weights, strict=True))
        terms.append(({tuple(sorted((*m, *letters))): value for m, value in slope.items() if "N" not in m}, 1))
    return added(*terms)


def spread(polynomial: Polynomial) -> Polynomial:
    """``polynomial`` with ``t`` written as ``s`` + ``p``, for a prompt whose length follows from the model."""
    terms: Polynomial = {}
    for monomial, coefficient in polynomial.items():
        products: list[Monomial] = [()]
        for name in monomial:
            products = [(*one, each) for one in products for each in (("s", "p") if name == "t" else (name,))]
        for product in products:
            terms = added((terms, 1), ({tuple(sorted(product)): coefficient}, 1))
    return terms

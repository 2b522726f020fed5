"""The value of closed forms for a model: polynomials in its widths, examples and tokens.

A request asks for thousands of values, each a weighted sum of a few products of widths. The products, which are few, are
numbered over all forms and worked out once for a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from operator import itemgetter, mul
from typing import Generic, NamedTuple, TypeVar

from kb.architecture import Architecture
from kb.closed_form import Backbone, Form, Polynomial

Powers = Mapping[tuple[int, int], float]
"""A polynomial in examples and tokens: powers of both, with coefficients in bytes."""


HEAD_ROWS = "V_head"


def _of_head(polynomial: Polynomial) -> Polynomial:
    """What is held beside the logits: a matrix of V rows is the head's then, also where the embedding is another."""
    found = {}
    for text, value in polynomial.items():
        names = text.split("*")
        held = names if "b" in names else [HEAD_ROWS if name == "V" else name for name in names]
        found["*".join(held)] = value
    return found


def widths(model: Architecture) -> dict[str, float]:
    """The values of all letters that a model gives: all but batch, length and hyperparameters."""
    heads, group = model.heads, model.heads / max(model.kv_heads, 1)
    d_ff = model.d_ff
    if model.experts:  # a token passes through some of the experts
        d_ff = (model.moe_d_ff or model.d_ff) * (model.experts_per_token or 1)
    rows = _rows(model, "embedding.token")
    return {
        "L": model.layers / 2 if model.kind == "encoder_decoder" else model.layers,
        "d": model.d,
        "d_q": heads * model.head_dim,
        "d_kv": model.kv_heads * model.head_dim,
        "d_qkv": (heads + 2 * model.kv_heads) * model.head_dim,
        "d_head": model.head_dim,
        "n_heads": heads,
        "n_kv": model.kv_heads,
        "n_group": group,
        "d_ff": d_ff,
        "V": model.vocab,
        "n_pos": _rows(model, "embedding.position"),
        HEAD_ROWS: model.vocab,
        "V_rows": rows * (1 if model.tied or model.kind in ("encoder", "vision") else 2),
        "N": model.parameters,
    }


def _rows(model: Architecture, table: str) -> float:
    """Rows of a table of embeddings; a narrower one than the blocks, as OPT-350m's, counts as fewer."""
    return sum(one.numbers for one in model.extras if one.name == table) / model.d


class Cell(NamedTuple):
    """What a polynomial has at one power of examples and one of tokens: a weighted sum of products of widths."""

    powers: tuple[int, int]
    weights: tuple[float, ...]
    pick: Callable[[Sequence[float]], tuple[float, ...]]  # the products that are weighted, of the values of all


Terms = tuple[Cell, ...]
"""A polynomial with its hyperparameters put in."""

_PRODUCTS: dict[tuple[str, ...], int] = {(): 0}
"""Every product of widths that some form names, numbered in order of appearance."""


def _numbered(factors: tuple[str, ...]) -> int:
    return _PRODUCTS.setdefault(factors, len(_PRODUCTS))


def settled(polynomials: Iterable[Polynomial], knobs: Mapping[str, float]) -> Terms:
    """The sum of ``polynomials`` with hyperparameters put in, in terms of widths, ``b`` and ``s``."""
    found: dict[tuple[int, int], dict[int, float]] = {}
    given = tuple(knobs.items())
    for polynomial in polynomials:
        for text, coefficient in polynomial.items():
            for factor, product, powers in _expanded(text, given):
                sums = found.setdefault(powers, {})
                sums[product] = sums.get(product, 0.0) + coefficient * factor
    return tuple(_cell(powers, sums) for powers, sums in found.items())


def _cell(powers: tuple[int, int], sums: Mapping[int, float]) -> Cell:
    """``itemgetter`` gives a tuple for two and more: a nothing is added to every sum."""
    return Cell(powers, (*sums.values(), 0.0, 0.0), itemgetter(*sums, 0, 0))


@lru_cache(maxsize=4096)
def _expanded(text: str, given: tuple[tuple[str, float], ...]) -> tuple[tuple[float, int, tuple[int, int]], ...]:
    """A monomial with the hyperparameters ``given`` as factors, products and powers: ``t`` becomes ``s`` + ``p``."""
    knobs = dict(given)
    factor, batches, names = 1.0, 0, []
    lengths = [1.0]  # coefficients of powers of s
    for name in text.split("*") if text else ():
        if name == "b":
            batches += 1
        elif name == "s":
            lengths = [0.0, *lengths]
        elif name == "t":
            prompt = knobs.get("p", 0.0)
            lengths = [a + b for a, b in zip([0.0, *lengths], [prompt * one for one in lengths] + [0.0], strict=True)]
        elif name in knobs:
            factor *= knobs[name]
        else:
            names.append(name)
    if not batches and "V" in names and "d" in names:
        names[names.index("V")] = "V_rows"  # weights, of which there are two where embedding and head are apart
    product = _numbered(tuple(names))
    return tuple((factor * one, product, (batches, power)) for power, one in enumerate(lengths) if one)


class Values:
    """The values of products of widths for one model, computed when they are asked for."""

    def __init__(self, widths: Mapping[str, float]) -> None:
        self.widths = widths
        self._known: list[float] = []

    def _grow(self) -> None:
        for factors in list(_PRODUCTS)[len(self._known) :]:
            value = 1.0
            for name in factors:
                value *= self.widths[name]
            self._known.append(value)

    def products(self) -> Sequence[float]:
        """The values of all products that were numbered so far."""
        if len(self._known) < len(_PRODUCTS):
            self._grow()
        return self._known

    def powers(self, terms: Terms) -> dict[tuple[int, int], float]:
        """The value of ``terms`` as a polynomial in ``b`` and ``s``: powers with their coefficients."""
        known = self.products()
        return {powers: sum(map(mul, weights, pick(known))) for powers, weights, pick in terms}

    def constant(self, terms: Terms) -> float:
        """What ``terms`` have that neither examples nor tokens change."""
        value = 0.0
        for powers, weights, pick in terms:
            if powers == (0, 0):
                value = sum(map(mul, weights, pick(self.products())))
        return value

    def at_length(self, terms: Terms, seq: int) -> tuple[float, float]:
        """``terms`` at one length: what stands still, and what each example adds; ``at_length`` of their ``powers``."""
        known = self.products()
        standing = example = 0.0
        for (batches, length), weights, pick in terms:
            value = sum(map(mul, weights, pick(known)))
            if length:
                value *= seq**length
            if batches:
                example += value
            else:
                standing += value
        return standing, example


F = TypeVar("F", Form, Backbone)


class Settled(Generic[F]):
    """A form with its hyperparameters put in: those that it advises, or those of ``knobs`` where given."""

    def __init__(self, form: F, knobs: Mapping[str, float] | None = None) -> None:
        self.form: F = form
        self.knobs = {**(form.knobs if isinstance(form, Form) else {}), **(knobs or {})}
        self._polynomials: dict[str, Terms] = {}

    @cached_property
    def prompt(self) -> float:
        """Tokens that the model itself, and not only its attention, sees in front of every example."""
        parts: list[Polynomial] = [part for one in self.form.instants for part in one.parts.values()]
        seen = any({"b", "d_ff", "t"}.issubset(text.split("*")) for part in parts for text in part)
        return self.knobs.get("p", 0.0) if seen else 0.0

    def polynomial(self, name: str) -> Terms:
        """One of the form's own polynomials, such as ``flops``."""
        found = self._polynomials.get(name)
        if found is None:
            found = self._polynomials[name] = settled((getattr(self.form, name),), self.knobs)
        return found

    @cached_property
    def totals(self) -> tuple[Terms, ...]:
        """Per instant, all parts together."""
        return tuple(settled(parts.values(), self.knobs) for parts in self._by_part)

    @cached_property
    def alive_gradients(self) -> tuple[Terms, ...]:
        """Per instant, the gradients."""
        return tuple(settled((one.parts.get("gradients", {}),), self.knobs) for one in self.form.instants)

    @cached_property
    def parts(self) -> tuple[dict[str, Terms], ...]:
        """Per instant, each part."""
        return tuple({name: settled((part,), self.knobs) for name, part in parts.items()} for parts in self._by_part)

    @cached_property
    def _by_part(self) -> tuple[dict[str, Polynomial], ...]:
        return tuple(
            {name: _of_head(part) if name == "logits" else part for name, part in one.parts.items()}
            for one in self.form.instants
        )


def at_length(powers: Powers, seq: int) -> tuple[float, float]:
    """A polynomial at one length: what stands still, and what each example adds."""
    standing = example = 0.0
    for (batches, length), value in powers.items():
        if batches:
            example += value * seq**length
        else:
            standing += value * seq**length
    return standing, example

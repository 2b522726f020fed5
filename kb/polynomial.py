"""The value of closed forms for a model: polynomials in its widths, examples and tokens.

A request asks for thousands of values, each a weighted sum of a few products of widths. The products, which are few, are
numbered over all forms and worked out once for a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import chain
from math import prod
from operator import itemgetter, mul
from typing import Generic, NamedTuple, TypeVar

from kb.architecture import Architecture
from kb.closed_form import Backbone, Form, Polynomial
from kb.expression import evaluate

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


class _Widths(dict[str, float]):
    """Letters with their values; asked for a formula, its value."""

    def __missing__(self, formula: str) -> float:
        found = self[formula] = float(evaluate(formula, self))
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
        "n_bias": model.variables()["n_bias"],
    }


def _rows(model: Architecture, table: str) -> float:
    """Rows of a table of embeddings; a narrower one than the blocks, as OPT-350m's, counts as fewer."""
    return sum(one.numbers for one in model.extras if one.name == table) / model.d


Pick = Callable[[Sequence[float]], tuple[float, ...]]


Sum = tuple[tuple[float, ...], Pick]
"""A weighted sum of products: weights, and what picks the products that are weighted from the values of all."""


Row = tuple[Sum, ...]
"""Sums that are worked out together."""


class Cell(NamedTuple):
    """What a polynomial has at one power of examples and one of tokens: a sum of products of widths."""

    powers: tuple[int, int]
    sum: Sum


Terms = tuple[Cell, ...]
"""A polynomial with its hyperparameters put in."""

_PRODUCTS: dict[tuple[str, ...], int] = {(): 0}
"""Every product of widths that some form names, numbered in order of appearance."""

_LONG: dict[tuple[int, int], int] = {(0, 0): 0}
"""Products of widths, by number, and of powers of the length of sequences: numbered likewise."""


Weights = dict[tuple[int, int], dict[int, float]]
"""A polynomial with its hyperparameters put in: for each power of examples and tokens, weights of products by number."""


Given = Mapping[str, float | str]
"""Letters of a method: hyperparameters with their values, sizes that follow from a model with their formulas."""


def weighted(polynomials: Iterable[Polynomial], knobs: Given) -> Weights:
    """The sum of ``polynomials`` with hyperparameters and formulas put in."""
    found: Weights = {}
    given = tuple(knobs.items())
    for polynomial in polynomials:
        for text, coefficient in polynomial.items():
            for factor, product, powers in _expanded(text, given):
                sums = found.setdefault(powers, {})
                sums[product] = sums.get(product, 0.0) + coefficient * factor
    return found


def settled(of: Weights) -> Terms:
    """A polynomial in ``b`` and ``s``, to be worked out for a model whatever these are."""
    return tuple(Cell(powers, _sum(weights)) for powers, weights in of.items())


def ends(of: Weights) -> Row:
    """A polynomial to be worked out at a length: what stands still, and what each example adds."""
    standing: dict[int, float] = {}
    example: dict[int, float] = {}
    for (batches, length), weights in of.items():
        sums = example if batches else standing
        for product, weight in weights.items():
            number = _LONG.setdefault((product, length), len(_LONG))
            sums[number] = sums.get(number, 0.0) + weight
    return _sum(standing), _sum(example)


def constant(of: Weights) -> Sum:
    """What neither examples nor tokens change."""
    return _sum(of.get((0, 0), {}))


def _sum(weights: Mapping[int, float]) -> Sum:
    return _summing(tuple(weights), tuple(map(_one, weights.values()))) if weights else _NOTHING


@lru_cache(maxsize=8192)
def _summing(numbers: tuple[int, ...], weights: tuple[float, ...]) -> Sum:
    """One object for all equal sums: methods share most, and what is read more often is nearer to the processor.

    ``itemgetter`` gives a tuple for two and more: to a single product a nothing is added.
    """
    if len(numbers) < 2:
        return (*weights, 0.0), itemgetter(*numbers, 0)
    return weights, itemgetter(*numbers)


@lru_cache(maxsize=8192)
def _one(weight: float) -> float:
    """One object for all equal weights."""
    return weight


_NOTHING: Sum = (), itemgetter(0, 0)


@lru_cache(maxsize=4096)
def _expanded(text: str, given: tuple[tuple[str, float | str], ...]) -> tuple[tuple[float, int, tuple[int, int]], ...]:
    """A monomial with the letters ``given`` as factors, products and powers: ``t`` becomes ``s`` + ``p``."""
    knobs = dict(given)
    factor, batches, names = 1.0, 0, []
    lengths = [1.0]  # coefficients of powers of s
    for name in text.split("*") if text else ():
        if name == "b":
            batches += 1
        elif name == "s":
            lengths = [0.0, *lengths]
        elif name == "t":
            prompt = float(knobs.get("p", 0.0))
            lengths = [a + b for a, b in zip([0.0, *lengths], [prompt * one for one in lengths] + [0.0], strict=True)]
        elif isinstance(value := knobs.get(name, name), str):
            names.append(value)
        else:
            factor *= value
    if not batches and "V" in names and "d" in names:
        names[names.index("V")] = "V_rows"  # weights, of which there are two where embedding and head are apart
    product = _PRODUCTS.setdefault(tuple(names), len(_PRODUCTS))
    return tuple((factor * one, product, (batches, power)) for power, one in enumerate(lengths) if one)


_LENGTHS = 4  # for which a model keeps its products: a request asks about two


class Values:
    """The values of products of widths for one model, computed when they are asked for."""

    def __init__(self, widths: Mapping[str, float]) -> None:
        self.widths = _Widths(widths)
        self._known: list[float] = []
        self._long: dict[int, list[float]] = {}

    def _products(self) -> Sequence[float]:
        """The values of all products that were numbered so far."""
        known = self._known
        if len(known) < len(_PRODUCTS):
            width = self.widths.__getitem__
            known += [prod(map(width, factors), start=1.0) for factors in list(_PRODUCTS)[len(known) :]]
        return known

    def _at(self, seq: int) -> Sequence[float]:
        """The values of all products with a length that were numbered so far."""
        long = self._long.get(seq)
        if long is None:
            if len(self._long) >= _LENGTHS:
                del self._long[next(iter(self._long))]
            long = self._long[seq] = []
        if len(long) < len(_LONG):
            known, further = self._products(), list(_LONG)[len(long) :]
            powers = [seq**power for power in range(1 + max(length for _, length in further))]
            long += [known[product] * powers[length] for product, length in further]
        return long

    def powers(self, terms: Terms) -> dict[tuple[int, int], float]:
        """The value of ``terms`` as a polynomial in ``b`` and ``s``: powers with their coefficients."""
        known = self._products()
        return {powers: sum(map(mul, weights, pick(known))) if weights else 0.0 for powers, (weights, pick) in terms}

    def constants(self, row: Row) -> list[float]:
        """The values of sums that are ``constant``."""
        known = self._products()
        return [sum(map(mul, weights, pick(known))) if weights else 0.0 for weights, pick in row]

    def at_length(self, row: Row, seq: int) -> list[float]:
        """The values of ``ends`` at one length."""
        known = self._at(seq)
        return [sum(map(mul, weights, pick(known))) if weights else 0.0 for weights, pick in row]


F = TypeVar("F", Form, Backbone)
EFFORT = ("flops", "flops_fp32", "moved")


class Settled(Generic[F]):
    """A form with its hyperparameters put in: those that it advises, or those of ``knobs`` where given."""

    def __init__(self, form: F, knobs: Mapping[str, float] | None = None) -> None:
        self.form: F = form
        self.knobs = {**(form.knobs if isinstance(form, Form) else {}), **(knobs or {})}
        self._polynomials: dict[str, Terms] = {}

    @cached_property
    def _given(self) -> Given:
        return {**self.knobs, **(self.form.formulas(self.knobs) if isinstance(self.form, Form) else {})}

    @cached_property
    def prompt(self) -> float:
        """Tokens that the model itself, and not only its attention, sees in front of every example."""
        parts: list[Polynomial] = [part for one in self.form.instants for part in one.parts.values()]
        seen = any({"b", "d_ff", "t"}.issubset(text.split("*")) for part in parts for text in part)
        return self.knobs.get("p", 0.0) if seen else 0.0

    def own(self, name: str) -> Weights:
        """One of the form's own polynomials, such as ``flops``."""
        return weighted((getattr(self.form, name),), self._given)

    def polynomial(self, name: str) -> Terms:
        """One of the form's own polynomials, ready to be worked out."""
        found = self._polynomials.get(name)
        if found is None:
            found = self._polynomials[name] = settled(self.own(name))
        return found

    @cached_property
    def heights(self) -> Row:
        """Per instant the two ends of all parts together, then those of the ``spare`` bytes."""
        return tuple(chain(*map(ends, self._whole), ends(self.own("spare"))))

    @cached_property
    def effort(self) -> Row:
        """The two ends of ``flops``, ``flops_fp32`` and ``moved``."""
        return tuple(chain(*(ends(self.own(name)) for name in EFFORT)))

    @cached_property
    def stock(self) -> Row:
        """What neither examples nor tokens change: kernels, gradients, then what is ``alive`` of these."""
        alive = map(_sum, map(dict, dict.fromkeys(self._gradients)))
        return tuple(chain(map(constant, map(self.own, ("kernels", "gradients"))), alive))

    @cached_property
    def alive(self) -> tuple[int, ...]:
        """Per instant, the number in ``stock`` of its gradients: at many instants all of them are there, or none."""
        known = [tuple(self.own("gradients").get((0, 0), {}).items()), *dict.fromkeys(self._gradients)]
        return tuple(1 + known.index(sums) for sums in self._gradients)

    @property
    def _gradients(self) -> Iterable[tuple[tuple[int, float], ...]]:
        parts = (weighted((one.parts.get("gradients", {}),), self._given) for one in self.form.instants)
        return (tuple(part.get((0, 0), {}).items()) for part in parts)

    @cached_property
    def states(self) -> Row:
        """The optimizer's states."""
        return (constant(self.own("states")),)

    @cached_property
    def totals(self) -> tuple[Terms, ...]:
        """Per instant, all parts together."""
        return tuple(map(settled, self._whole))

    @cached_property
    def parts(self) -> tuple[dict[str, Terms], ...]:
        """Per instant, each part."""
        return tuple({name: settled(part) for name, part in self.at(number).items()} for number in self._numbers)

    def at(self, number: int) -> dict[str, Weights]:
        """One instant by part."""
        return {name: weighted((part,), self._given) for name, part in self._by_part[number].items()}

    @property
    def _numbers(self) -> range:
        return range(len(self.form.instants))

    @property
    def _whole(self) -> Iterable[Weights]:
        return (weighted(parts.values(), self._given) for parts in self._by_part)

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

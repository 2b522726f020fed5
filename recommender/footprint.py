"""What a record says of a method, counted on a model: the survey's three counts, and what a task stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from kb.architecture import Architecture
from kb.closed_form import backbone_key, shape_of, windowed_key
from kb.expression import Compiled, compiled, variables
from kb.polynomial import Values, widths
from kb.schema import Count, Method

Shapes = Mapping[tuple[int, int], int]
"""Linear layers by what they take in and give out, with how many there are of each."""


@dataclass(frozen=True)
class Counting:
    """A count expression, ready to be evaluated."""

    function: Compiled
    names: frozenset[str]  # of its variables, but for the sizes of a layer
    per_linear: bool
    sized: bool  # whether it asks for the sizes of a layer

    def total(self, shapes: Shapes, known: dict[str, float]) -> int | None:
        """The count for the whole model, or ``None`` when it needs what is not known."""
        if not self.per_linear:
            return int(self.function(known)) if self._known(known) else None
        if not shapes or not self.names <= known.keys():
            return None
        return sum([int(self._at(shape, known)) * count for shape, count in shapes.items()])

    def largest(self, shapes: Shapes, known: dict[str, float]) -> int | None:
        """The largest value over the adapted layers, or ``None`` when it needs what is not known."""
        if self._known(known):
            return int(self.function(known))
        if not self.names <= known.keys():
            return None
        return max((int(self._at(shape, known)) for shape in shapes), default=None)

    def _known(self, known: dict[str, float]) -> bool:
        return not self.sized and self.names <= known.keys()

    def _at(self, shape: tuple[int, int], known: dict[str, float]) -> float:
        known["d_in"], known["d_out"] = shape
        return self.function(known)


_OF_LINEAR = frozenset({"d_in", "d_out"})


def _formula(count: Count) -> Counting | None:
    if count.expr is None:
        return None
    function, names = compiled(count.expr)
    return Counting(function, names - _OF_LINEAR, count.scope == "linear", not names.isdisjoint(_OF_LINEAR))


@dataclass(frozen=True)
class Prepared:
    """What a record says, brought once into the shape that predictions need."""

    method: Method
    where: tuple[str, ...]  # places that are adapted
    sites: frozenset[str]
    everywhere: bool  # all linear layers, or all weights
    quantised: bool  # works on a quantised base
    packed: bool  # needs one
    through: bool  # gradients flow through the frozen model
    normed: bool  # norms train
    full: bool  # all weights train
    scored: bool  # gradients of all weights exist at some moment
    own: Mapping[str, float]  # values of the hyperparameters' symbols
    names: frozenset[str]  # variables of the formula for trainable parameters
    trainable: Counting | None
    changed: Counting | None
    rank: Counting | None
    stored: Counting | None


def prepare(method: Method, where: tuple[str, ...] = (), values: Mapping[str, float] | None = None) -> Prepared:
    """Reads a record for prediction; to be done once per record.

    ``where`` replaces the record's sites and ``values`` single hyperparameters (by symbol), for runs that differ from
    our advice.
    """
    where = where or method.mechanism.where
    counts, expr = method.counts, method.counts.trainable.expr
    trains = _formula(counts.trainable)
    crossed = (f"cross_{site}" for site in where if site.startswith("attention."))
    return Prepared(
        method=method,
        where=where,
        sites=frozenset((*where, *crossed)),
        everywhere=not {"all_linear", "all_weights"}.isdisjoint(where),
        quantised=method.efficiency.quantised_base.value is True,
        packed="quantised_base" in method.applies_to.needs,
        through=method.efficiency.backprop_through_backbone.value is not False,
        normed=not {"norm", "all_weights"}.isdisjoint(method.mechanism.where),
        full="full" in method.mechanism.form,
        scored="full" not in method.mechanism.form and method.efficiency.needs_all_gradients.value is True,
        own={**_symbols(method), **(values or {})},
        names=variables(expr) if expr else frozenset(),
        trainable=trains,
        changed=_formula(counts.changed),
        rank=_formula(counts.rank),
        stored=trains if counts.stored.expr == expr else _formula(counts.stored),
    )


def _symbols(method: Method) -> dict[str, float]:
    """Values of the hyperparameters' symbols: our advice, else the paper's default."""
    values: dict[str, float] = {}
    for knob in method.mechanism.hyperparameters:
        value = knob.ours if knob.ours is not None else knob.paper_default
        if isinstance(value, int | float):
            values[knob.symbol] = value
    return values


@dataclass(frozen=True)
class Subject:
    """A model with everything that does not depend on the method."""

    model: Architecture
    parameters: int
    quantised: int  # weights of the matrices that a quantised base stores in fewer bits
    variables: Mapping[str, float]
    values: Values
    shape: str  # whose forms describe it
    family: str  # what its blocks compute
    masked: str  # what they compute on sequences that are longer than their window of attention
    targeted: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # by ``targeted``
    extras: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # by ``family.extra``
    bases: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # by ``base.base``
    sheets: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # filled by ``plans.sheet``
    candidates: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # by ``scoring.candidates``

    def forget(self) -> None:
        """Lets go of all that was computed: sheets hold their model, and would only be freed when the collector comes by."""
        for table in (self.targeted, self.extras, self.bases, self.sheets, self.candidates):
            table.clear()

    def windowed(self, seq: int) -> bool:
        """Whether sequences of ``seq`` tokens are longer than the model's window of attention, if it has one."""
        return self.model.sliding_window is not None and seq > self.model.sliding_window


REMEMBERED = 64  # models
_subjects: dict[Architecture, Subject] = {}
_turning = Lock()


def subject(model: Architecture) -> Subject:
    """Reads a model for prediction; the last ones are remembered with all that was computed for them."""
    with _turning:
        found = _subjects.pop(model, None) or _read(model)
        if len(_subjects) >= REMEMBERED:
            _subjects.pop(next(iter(_subjects))).forget()
        _subjects[model] = found  # behind all others
    return found


def _read(model: Architecture) -> Subject:
    return Subject(
        model=model,
        parameters=model.parameters,
        quantised=model.packable,
        variables=model.variables(),
        values=Values(widths(model)),
        shape=shape_of(model),
        family=backbone_key(model),
        masked=windowed_key(model),
    )


def targeted(prepared: Prepared, subject: Subject) -> Shapes:
    """The linear layers at the sites that the record names."""
    key = None if prepared.everywhere else prepared.sites
    found: Shapes | None = subject.targeted.get(key)
    if found is None:
        counts: Counter[tuple[int, int]] = Counter()
        for linear in subject.model.reached(("all_linear",) if prepared.everywhere else prepared.sites):
            counts[linear.d_in, linear.d_out] += linear.count
        found = subject.targeted[key] = counts
    return found


def counted(formula: Counting | None, prepared: Prepared, subject: Subject) -> int | None:
    """The value of one of a record's counts on a model, with the hyperparameters of ``prepared``."""
    if formula is None:
        return None
    return formula.total(targeted(prepared, subject), {**subject.variables, **prepared.own})


def rank(prepared: Prepared, subject: Subject) -> int | None:
    """The largest rank of the change of a matrix, or ``None`` if it has no meaning or is not known."""
    if prepared.rank is None:
        return None
    return prepared.rank.largest(targeted(prepared, subject), {**subject.variables, **prepared.own})

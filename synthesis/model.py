"""The hierarchical model: level of a block, effects of classes, methods and situations, and a self-report bias.

For a method m in a block of study s, of task group, data and model size g::

    y = level(block) + θ[m, g] + b · proposed + rival(m) · baseline + c · luck + study(s, m) + noise

    θ[m, g]  = Σ class(m) + method(m) + Σ over the parts of g (class × part + method × part)
    b        = bias + bias of the class
    rival    = what the method loses or gains as a baseline in studies of those who propose another one
    study    = class × study + method × study: one study is one voice; more of it where its authors propose a method
    luck     = expected maximum over the configurations tried, of which the best is reported
    noise    = per block and method, and per cell divided by the number of cells

Every term is Gaussian around zero; the standard deviations are estimated together by maximum marginal likelihood.
A method in several classes takes the mean of their effects.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor

from kb.schema import Method
from kb.situation import ANY, ANYWHERE, Situation
from synthesis.effect import Array, Effects
from synthesis.observation import Observation

EIGHTY = 1.2815515655446004  # half an 80 % interval of a normal distribution, in standard deviations
LEVEL = 5.0  # standard deviation of a block's level and of the bias: wide, so that the data decide
BIAS = 2.0
LEAST = 0.05  # of the situations' effects: even where the evidence shows no difference, one is possible
DISTINCT = 0.15  # of methods around their class: a maximum at zero would call all members of a class equal
Classes = Mapping[str, Sequence[str]]
"""The leaf classes of each method."""
Marks = dict[str, float]
Term = Callable[[Observation], Marks]


def classes_of(methods: Mapping[str, Method]) -> dict[str, Sequence[str]]:
    """The classes of each record, and each class once more as a method that nobody tried, under the class's own id."""
    known: dict[str, Sequence[str]] = {slug: method.taxonomy.classes for slug, method in methods.items()}
    return known | {leaf: (leaf,) for leaf in untried(known)}


def untried(leaves: Classes) -> list[str]:
    """The classes, in alphabetical order."""
    return sorted({leaf for own in leaves.values() for leaf in own})


@dataclass(frozen=True)
class Component:
    """One variance component: which effects take part in an observation, and with what weight."""

    name: str
    meaning: str
    marks: Term
    sd: float = 0.3
    bounds: tuple[float, float] | None = (0.02, 3.0)
    """Between which its standard deviation is estimated; ``None`` if it is given."""


def components(leaves: Classes) -> tuple[Component, ...]:
    """The terms of the model, for methods with these classes."""

    def classes(seen: Observation) -> Marks:
        own = leaves[seen.method]
        return {leaf: 1 / len(own) for leaf in own}

    def by(part: str, of: Term) -> Term:
        def marks(seen: Observation) -> Marks:
            value = getattr(seen.at, part)
            return {} if value == ANY else {f"{name} {value}": share for name, share in of(seen).items()}

        return marks

    def own(seen: Observation) -> Marks:
        return {seen.method: 1.0}

    parts = (("task", "the kind of task"), ("data", "the amount of data"), ("scale", "the model's size"))
    situational = (LEAST, 3.0)
    return (
        Component("level", "of the level of a block", lambda seen: {str(seen.block): 1.0}, LEVEL, None),
        Component("bias", "of self-report", lambda seen: {"b": 1.0} if seen.proposed else {}, BIAS, None),
        Component("class", "between classes", classes),
        Component("method", "between methods of a class", own, bounds=(DISTINCT, 3.0)),
        *(
            Component(f"class_{part}", f"of a class with {words}", by(part, classes), bounds=situational)
            for part, words in parts
        ),
        *(
            Component(f"method_{part}", f"of a method with {words}", by(part, own), bounds=situational)
            for part, words in parts
        ),
        Component("bias_class", "of self-report between classes", lambda seen: classes(seen) if seen.proposed else {}),
        Component("luck", "of a method between its configurations", lambda seen: {"c": seen.luck}),
        Component(
            "study_class",
            "of a class between studies",
            lambda seen: {f"{seen.study} {leaf}": share for leaf, share in classes(seen).items()},
        ),
        Component("study_method", "of a method between studies", lambda seen: {f"{seen.study} {seen.method}": 1.0}),
        Component(
            "rival",
            "of a method as a baseline of proposers",
            lambda seen: {seen.method: 1.0} if seen.claimed and not seen.proposed else {},
        ),
        Component(
            "claimed",
            "of a method between studies of proposers, beyond others",
            lambda seen: {f"{seen.study} {seen.method}": 1.0} if seen.claimed else {},
        ),
        Component("block", "of a method between blocks of a study", lambda seen: {f"{seen.block} {seen.method}": 1.0}),
        Component(
            "cell", "of a single cell", lambda seen: {f"noise {seen.block} {seen.method}": float(seen.cells) ** -0.5}
        ),
    )


STANDING = ("class", "method", "class_task", "class_data", "class_scale", "method_task", "method_data", "method_scale")
"""The components of θ."""


class Design:
    """The columns that the effects of a set of observations take."""

    def __init__(self, parts: Sequence[Component], seen: Sequence[Observation]) -> None:
        self.parts = parts
        self.columns: dict[str, dict[str, int]] = {}
        self.edges = [0]
        for part in parts:
            names = dict.fromkeys(name for each in seen for name in part.marks(each))
            self.columns[part.name] = {name: self.edges[-1] + place for place, name in enumerate(names)}
            self.edges.append(self.edges[-1] + len(names))

    def matrix(self, seen: Sequence[Observation], only: Container[str]) -> Array:
        """The columns of some components for observations, n × width; effects that were never seen have none."""
        matrix = np.zeros((len(seen), self.edges[-1]))
        for part in self.parts:
            columns = self.columns[part.name]
            if part.name in only:
                for row, each in enumerate(seen):
                    for name, share in part.marks(each).items():
                        if name in columns:
                            matrix[row, columns[name]] = share
        return matrix


@dataclass(frozen=True)
class Fit:
    """A fitted model."""

    parts: Sequence[Component]
    design: Design
    process: GaussianProcessRegressor
    seen: Sequence[Observation]

    @property
    def sds(self) -> dict[str, float]:
        """Standard deviation of each component."""
        kernel = self.process.kernel_
        found = np.concatenate([kernel.given, kernel.sds])
        return {part.name: float(sd) for part, sd in zip(self.parts, found, strict=True)}

    def effects(self, wanted: Sequence[Observation], only: Container[str]) -> tuple[Array, Array]:
        """Posterior mean (n) and covariance (n × n) of the sum of some components for ``wanted``.

        An effect that no observation contains has its prior: zero, with its standard deviation.
        """
        mean, covariance = self.process.predict(self.design.matrix(wanted, only), return_cov=True)
        return mean, covariance + self._unseen(wanted, only)

    def _unseen(self, wanted: Sequence[Observation], only: Container[str]) -> Array:
        """Prior covariance of effects that have no column."""
        total = np.zeros((len(wanted), len(wanted)))
        for part in self.parts:
            if part.name not in only:
                continue
            known = self.design.columns[part.name]
            fresh = [{n: s for n, s in part.marks(each).items() if n not in known} for each in wanted]
            names = {name: place for place, name in enumerate(dict.fromkeys(n for each in fresh for n in each))}
            if names:
                matrix = np.zeros((len(wanted), len(names)))
                for row, each in enumerate(fresh):
                    for name, share in each.items():
                        matrix[row, names[name]] = share
                total += self.sds[part.name] ** 2 * (matrix @ matrix.T)
        return total


def fit(leaves: Classes, seen: Sequence[Observation], start: Mapping[str, float] | None = None) -> Fit:
    """The model with standard deviations of maximum marginal likelihood; the search starts at ``start``."""
    parts = components(leaves)
    design = Design(parts, seen)
    free = [part for part in parts if part.bounds is not None]
    bounds = np.array([part.bounds for part in free])
    first = np.array([(start or {}).get(part.name, part.sd) for part in free])
    kernel = Effects(
        edges=tuple(design.edges),
        given=np.array([part.sd for part in parts if part.bounds is None]),
        sds=np.clip(first, bounds[:, 0], bounds[:, 1]),
        sds_bounds=bounds,
    )
    process = GaussianProcessRegressor(kernel, alpha=1e-6, optimizer=_searched)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a component at its bound is an answer, not a failure
        process.fit(design.matrix(seen, design.columns), np.array([each.value for each in seen]))
    return Fit(parts, design, process, seen)


def _searched(objective: Callable[..., tuple[float, Array]], start: Array, bounds: Array) -> tuple[Array, float]:
    """The best logarithms of standard deviations; the last thousandth of likelihood is not worth the time."""
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-6})
    return found.x, found.fun


def imagined(method: str, at: Situation = ANYWHERE) -> Observation:
    """An observation that nobody made: the method in a situation, in an independent study of one cell."""
    return Observation("", method, at, -1, 0.0, 1, proposed=False, luck=0.0, claimed=False)

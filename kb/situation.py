"""Situations that evidence is told apart by: kind of task, amount of data, size of the model."""

from __future__ import annotations

from typing import NamedTuple

ANY = "any"
DATA = (("few", 1_000), ("small", 10_000), ("large", None))
"""Classes of training examples, each with the number that it stays below."""
SCALES = (("small", 1_000_000_000), ("medium", 10_000_000_000), ("large", None))
"""Classes of the model's parameters, each with the number that it stays below."""
_WORDS = {
    "few": "fewer than 1,000 examples",
    "small": "1,000 to 10,000 examples",
    "large": "10,000 examples or more",
}
_SIZES = {
    "small": "models below 1B parameters",
    "medium": "models of 1B to 10B parameters",
    "large": "models of 10B parameters or more",
}


class Situation(NamedTuple):
    """A task group, a class of data and a class of model size; ``any`` where it does not matter or is not known."""

    task: str = ANY
    data: str = ANY
    scale: str = ANY

    @property
    def key(self) -> str:
        """Its name in committed results."""
        return "/".join(self)

    def __str__(self) -> str:
        told = [
            *([f"{self.task} tasks"] if self.task != ANY else []),
            *([_WORDS[self.data]] if self.data != ANY else []),
            *([_SIZES[self.scale]] if self.scale != ANY else []),
        ]
        return ", ".join(told) or "all situations"


ANYWHERE = Situation()


def situation(task: str = ANY, examples: int | None = None, parameters: int | None = None) -> Situation:
    """The situation of a task group, a number of training examples and a number of model parameters."""
    return Situation(task, _class(DATA, examples), _class(SCALES, parameters))


def _class(bounds: tuple[tuple[str, int | None], ...], number: int | None) -> str:
    if number is None:
        return ANY
    return next(name for name, bound in bounds if bound is None or number < bound)

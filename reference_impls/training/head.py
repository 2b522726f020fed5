"""A task head on a pretrained model: it has to learn its task from nothing, so it trains beside every method.

In the place of a method, this module trains the head alone: what the frozen model knows without any adaptation.
"""

from collections.abc import Iterable

from torch import nn

from reference_impls._journal import journal
from reference_impls._surgery import freeze, train_in_place


def attach(model: nn.Module) -> nn.Module:
    """Freezes ``model``, as a method does that adds nothing."""
    return freeze(model)


def opened(model: nn.Module, names: Iterable[str]) -> list[nn.Parameter]:
    """Lets the parameters ``names`` of the base model train in place, where they do not already, and returns them.

    The method must be attached. Raises ``ValueError`` for a name that the model no longer has: the method replaced it.
    """
    names = list(names)
    if not names:
        return []
    known = dict(journal(model)[0].named_parameters())
    gone = [name for name in names if name not in known]
    if gone:
        raise ValueError(f"{', '.join(gone)} of the head cannot train: the method put something else in its place")
    train_in_place(model, [name for name in names if not known[name].requires_grad])
    return [known[name] for name in names]

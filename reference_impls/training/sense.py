"""Eyes and ears beside a language model: methods are put on as if they were not there, for they adapt how texts are read."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def senses(model: nn.Module) -> Iterator[str]:
    """Yields the names of what stands beside a language model: eyes, ears and what leads from them."""
    for name, module in model.named_modules():
        children = dict(module.named_children())
        if "language_model" in children:
            yield from (f"{name}.{child}".lstrip(".") for child in children if child != "language_model")


@contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """Takes ``senses`` out of ``model`` for a while; they come back frozen. A model of texts alone stays as it is."""
    taken = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in senses(model)]
    away = [(parent, name, parent._modules.pop(name)) for parent, name in taken]
    try:
        yield
    finally:
        for parent, name, sense in away:
            parent.add_module(name, sense.requires_grad_(False))

"""The journal that surgery keeps on a model: what was done to it, so that all of it can be undone."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class Journal:
    """What was done to a model, in order. It refers to modules, not tensors: those change when a model moves."""

    trainable: dict[str, bool]  # requires_grad of every parameter before
    owned: dict[nn.Module, set[str]]  # the base model's modules and the names of their own tensors
    swaps: list[tuple[str, nn.Module | None]] = field(default_factory=list)  # dotted name, what was there
    saved: list[tuple[nn.Module, str, Tensor]] = field(default_factory=list)  # tensors trained in place, old value
    derived: list[tuple[nn.Module, str]] = field(default_factory=list)  # tensors computed from others

    def own(self, module: nn.Module) -> None:
        """Counts ``module`` and all below it as base model."""
        for part in module.modules():
            self.owned[part] = {name for name, _ in tensors(part)}


def journal(model: nn.Module) -> tuple[nn.Module, Journal]:
    """The base model inside ``model`` (often ``model`` itself) and its journal; ``ValueError`` if there is none."""
    for module in model.modules():
        if "_journal" in module.__dict__:
            return module, module._journal
    raise ValueError(f"{type(model).__name__} carries no method; attach one first")


def tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and persistent buffers that ``module`` itself owns."""
    hidden = module._non_persistent_buffers_set
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in hidden:
            yield name, tensor

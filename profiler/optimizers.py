"""Optimizers by what they hold and what they make while they step.

PyTorch's AdamW and SGD and transformers' Adafactor are run themselves. Those of bitsandbytes are imitated, without
values, as version 0.50.2 has them (``optim/optimizer.py``): two states per trained tensor, in one byte per number with an
fp32 scale for every 256 numbers, or in fp32 for tensors below 4,096 numbers; one kernel per tensor updates in place and
makes nothing. The paged variants keep the states of tensors from 100,000 numbers on in unified memory, which the driver
moves to the card while a tensor is updated and away when room is needed: they are counted as not on the card. A card
with room to spare will show more in use, and never fail for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn

Name = Literal["adamw", "adamw_fused", "adamw_8bit", "adamw_paged", "adamw_paged_8bit", "adafactor", "sgd"]
SMALLEST = 4096  # numbers; smaller tensors keep fp32 states
BLOCK = 256  # numbers that share a scale
PAGED = 100_000  # numbers; smaller tensors are not paged


@torch.library.custom_op("peft_atlas::blockwise_adamw", mutates_args=("parameter", "states"))
def _update(parameter: Tensor, gradient: Tensor, states: list[Tensor]) -> None:
    """One kernel that updates a tensor and its states in place."""
    raise NotImplementedError("there are no values here")


_update.register_fake(lambda parameter, gradient, states: None)


class Blockwise(torch.optim.Optimizer):
    """AdamW of bitsandbytes; ``elsewhere`` lists the states that are paged."""

    def __init__(self, parameters: Iterable[nn.Parameter], small: bool, paged: bool) -> None:
        super().__init__(parameters, {})
        self.small, self.paged = small, paged
        self.elsewhere: list[Tensor] = []
        self.tables: list[Tensor] = []

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # the closure is not used
        """Makes the states where there are none, and updates."""
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.grad is not None:
                state = self.state[parameter] or self._started(parameter)
                _update(parameter, parameter.grad, [*state.values()])

    def _started(self, parameter: Tensor) -> dict[str, Tensor]:
        count, state = parameter.numel(), self.state[parameter]
        dtype = torch.uint8 if self.small and count >= SMALLEST else torch.float32
        for name in ("state1", "state2"):
            state[name] = torch.zeros_like(parameter, dtype=dtype)
            if self.paged and count >= PAGED:
                self.elsewhere.append(state[name])
        if dtype == torch.uint8:
            if not self.tables:
                self.tables = [torch.empty(256), torch.empty(256)]  # codes of both moments, shared by all
            for name in ("absmax1", "absmax2"):
                state[name] = torch.zeros(-(-count // BLOCK))
        return state


def ready(name: Name) -> None:
    """Imports the optimizer's module: that of Adafactor imports all that transformers' Trainer needs, PEFT among it.

    A module that is imported under fake tensors would keep fake constants, and count them.
    """
    if name == "adafactor":
        import_module("transformers.optimization")


def _adafactor(trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    """As the Trainer of transformers sets it up."""
    from transformers.optimization import Adafactor

    return Adafactor(trained, lr=1e-4, scale_parameter=False, relative_step=False)


def make(name: Name, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer ``name`` of what trains in ``model``; without values only after ``ready``."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW(trained, lr=1e-4, foreach=True),
        "adamw_fused": lambda: torch.optim.AdamW(trained, lr=1e-4, fused=True),
        "adamw_8bit": lambda: Blockwise(trained, small=True, paged=False),
        "adamw_paged": lambda: Blockwise(trained, small=False, paged=True),
        "adamw_paged_8bit": lambda: Blockwise(trained, small=True, paged=True),
        "adafactor": lambda: _adafactor(trained),
        "sgd": lambda: torch.optim.SGD(trained, lr=1e-4, foreach=True),
    }
    return makers[name]()

"""OSF as PEFT had it when the published run was made (0.19): both parts of every weight are kept and put together again.

PEFT 0.21 adds the change of the trained part to the base layer's output and keeps little of the frozen part. Then, each
layer held the frozen part's factors beside the base weight, and each forward pass made the whole weight from both parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn
from torch.nn import functional


def as_then(model: nn.Module) -> tuple[Tensor, ...]:
    """Gives each OSF layer of ``model`` the frozen factors; returns what PEFT 0.21 keeps and 0.19 did not."""
    kind = import_module("peft.tuners.osf.layer").OSFLayer
    newer: list[Tensor] = []
    for layer in list(model.modules()):
        if isinstance(layer, kind):
            newer += [buffer for name, buffer in layer.named_buffers() if name.startswith("_osf_")]
            weight = layer.get_base_layer().weight
            rank = layer.effective_rank["default"]
            layer.frozen_factors = nn.ParameterList(
                nn.Parameter(weight.new_empty(shape), requires_grad=False)
                for shape in ((weight.shape[0], rank), (rank,), (rank, weight.shape[1]))
            )
    return tuple(newer)


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The output of the weight that both parts make together."""
    low = self.osf_svd_params["default"]
    left, middle, right = self.frozen_factors
    weight = (left * middle) @ right + (low["U_low"] * low["S_low"]) @ low["V_low"]
    return functional.linear(x, weight, self.get_base_layer().bias)


@contextmanager
def forward_then() -> Iterator[None]:
    """Inside, OSF's layers compute as they did then."""
    with patch.object(import_module("peft.tuners.osf.layer").Linear, "forward", _forward):
        yield

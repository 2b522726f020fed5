"""GPT-2's ``Conv1D`` as the linear layers that it is: a transposed matrix, and for attention three matrices in one."""

import re

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_PARTS = ("query", "key", "value")


class Thirds(nn.Module):
    """GPT-2's fused projection as three linear layers, so that each can be adapted by itself."""

    def __init__(self, conv: Conv1D) -> None:
        super().__init__()
        d = conv.nf // 3
        self.query, self.key, self.value = (columns(conv, at, at + d) for at in (0, d, 2 * d))

    def forward(self, x: Tensor) -> Tensor:
        """(…, d) -> (…, 3 d)."""
        return torch.cat((self.query(x), self.key(x), self.value(x)), dim=-1)


def columns(conv: Conv1D, start: int, stop: int) -> nn.Linear:
    """A linear layer on a range of a ``Conv1D``'s outputs, sharing its memory: ``Conv1D`` stores (d_in, d_out)."""
    layer = nn.Linear(conv.nx, stop - start, device="meta")
    layer.weight = nn.Parameter(conv.weight.detach()[:, start:stop].T, requires_grad=False)
    layer.bias = nn.Parameter(conv.bias.detach()[start:stop], requires_grad=False)
    return layer


def opened(name: str, conv: Conv1D, pattern: re.Pattern[str]) -> nn.Module | None:
    """What takes the place of ``conv`` if ``pattern`` matches its name or that of one of its thirds, else None."""
    if pattern.fullmatch(name):
        return columns(conv, 0, conv.nf)
    if conv.nf == 3 * conv.nx and any(pattern.fullmatch(f"{name}.{part}") for part in _PARTS):
        return Thirds(conv)
    return None


def closed(conv: Conv1D, layers: nn.Module) -> Conv1D:
    """The ``Conv1D`` with the weights that its linear layers now have."""
    parts = tuple(layers.children()) if isinstance(layers, Thirds) else (layers,)
    conv.weight = nn.Parameter(torch.cat([part.weight.T for part in parts], dim=1))
    conv.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
    return conv

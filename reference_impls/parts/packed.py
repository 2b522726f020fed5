"""A frozen linear layer whose matrix is stored in fewer bits and unpacked where it is needed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _Product(torch.autograd.Function):
    """x Wᵀ + b as the layer computes it, with W unpacked anew in the backward pass instead of kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: "PackedLinear") -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        to_x = g @ ctx.layer.unpacked(g.dtype) if ctx.needs_input_grad[0] else None  # (…, d_out) -> (…, d_in)
        return to_x, g.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None, None


class PackedLinear(nn.Linear):
    """W (d_out, d_in) as a few buffers, which are of the types that they have, whatever the model is cast to.

    ``weight`` unpacks the matrix at each reading and packs what is written to it, which rounds it.
    """

    def __init__(self, layer: nn.Linear, packed: dict[str, Tensor]) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would make a weight
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.names = tuple(packed)
        for name, tensor in packed.items():
            self.register_buffer(name, tensor)
        self.register_buffer("like", layer.weight.detach().new_empty(0), persistent=False)  # of the model's type

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """W (d_out, d_in)."""
        raise NotImplementedError

    def packed(self, matrix: Tensor) -> dict[str, Tensor]:
        """What ``matrix`` (d_out, d_in) is stored as."""
        raise NotImplementedError

    def product(self, x: Tensor) -> Tensor:
        """X (…, d_in) -> x Wᵀ + b (…, d_out), in the type of x."""
        return nn.functional.linear(x, self.unpacked(x.dtype), self.bias)

    @property
    def weight(self) -> Tensor:
        """W (d_out, d_in), in the model's type."""
        return self.unpacked(self.like.dtype)

    @weight.setter
    def weight(self, matrix: Tensor) -> None:
        for name, tensor in self.packed(matrix).items():
            self._buffers[name].copy_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        return _Product.apply(x, self.bias, self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":
        exact = {name: self._buffers[name] for name in self.names}
        super()._apply(fn, recurse)
        for name, old in exact.items():  # a cast of the model leaves the scales their 32 bits
            self._buffers[name] = old if self._buffers[name].device == old.device else old.to(self.like.device)
        return self

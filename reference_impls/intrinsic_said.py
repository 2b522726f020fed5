"""Intrinsic SAID: all weights move along a few random directions; only the small vector of coordinates trains.

    θ_i = θ_i⁰ + λ_i P_i v        θ_i (D_i,)   v (d_I − m,) shared by all tensors   λ_i one number   i = 1 … m

    P_i = 1 / √(n D_i) · [H G_j Π_j H S_j],  j = 1 … ⌈D_i / n⌉       n the power of two from d_I − m upwards

θ_i is any parameter tensor of the model but the task head. P_i is a fixed random map, the Fastfood transform: a stack
of blocks, each made of random signs S, a Walsh–Hadamard transform H, a permutation Π, Gaussian numbers G and H again
(all n × n). It keeps lengths on average, |P_i v| ≈ |v|, and is never a matrix: H takes n log₂ n additions, so P_i v
costs O(D log d). Signs, permutation and Gaussians are redrawn from a seed, so d_I numbers are stored per task; but while
training they take as much memory as the model. v starts at zero: the model starts where it was. P_i v adds onto θ_i.

Paper:     Aghajanyan et al. 2020, arXiv:2012.13255, section 3 (SAID); Fastfood: Le et al. 2013, arXiv:1408.3060
Official:  github.com/rabeehk/compacter at 3a2deb7, seq2seq/intrinsic (the authors' code; no licence file)
Differs:   one λ per tensor as in the official code, the paper has one per layer. Blocks are stacked as in Le et al.; the
           official code pads v to the size of each tensor instead: O(D log D), and a small tensor sees only the first
           entries of v. Its hand-written backward pass scales the gradient otherwise than its forward pass; here both
           are the same H. The task head stays frozen
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reference_impls._site import backbone
from reference_impls._surgery import add, derive, freeze, refuse, settle


@dataclass(frozen=True)
class Config:
    """How many numbers train, and which random map is drawn."""

    intrinsic_dimension: int = 20000  # d_I; the configuration for T5-base in the compacter repository
    seed: int = 0  # of the random maps: loading an adapter needs the one that it was trained with


class Hadamard(torch.autograd.Function):
    """The unnormalised Walsh–Hadamard transform of the last axis, whose length is a power of two; its own transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """(…, n) -> (…, n) in log₂ n rounds of sums and differences, in one buffer."""
        out = x.clone(memory_format=torch.contiguous_format)
        half = 1
        while half < out.shape[-1]:
            left, right = out.unflatten(-1, (-1, 2, half)).unbind(-2)  # (…, n / (2 half), half) each
            difference = left - right
            left += right
            right.copy_(difference)
            half *= 2
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """H is symmetric: the gradient goes through H itself."""
        return Hadamard.apply(gradient)


class Fastfood(nn.Module):
    """A fixed random map from (d,) to (size,), by blocks of n >= d."""

    def __init__(self, d: int, size: int, generator: torch.Generator, like: Tensor) -> None:
        super().__init__()
        n = 1 << (d - 1).bit_length()
        shape = (-(-size // n), n)
        signs = torch.randint(2, (shape[0], d), generator=generator, dtype=torch.int8) * 2 - 1
        order = torch.rand(shape, generator=generator).argsort(dim=1) + torch.arange(shape[0])[:, None] * n
        gauss = torch.randn(shape, generator=generator)
        gauss = gauss / gauss.square().mean(dim=1, keepdim=True).sqrt()  # H G Π H S then scales lengths by n, nearly
        self.size, self.scale = size, (n * size) ** -0.5
        for name, tensor in (("signs", signs), ("order", order.int()), ("gauss", gauss.to(like.dtype))):
            self.register_buffer(name, tensor.to(like.device), persistent=False)

    def forward(self, v: Tensor) -> Tensor:
        """P v."""
        blocks, n = self.gauss.shape
        mixed = Hadamard.apply(nn.functional.pad(v * self.signs, (0, n - len(v))))  # (d,) -> (blocks, n)
        mixed = mixed.flatten().index_select(0, self.order.flatten()).view(blocks, n)
        return self.scale * Hadamard.apply(mixed * self.gauss).flatten()[: self.size]


class Coordinates(nn.Module):
    """What trains: v, and λ with one number per tensor."""

    def __init__(self, d: int, tensors: int, like: Tensor) -> None:
        super().__init__()
        self.v = nn.Parameter(like.new_zeros(d))
        self.lam = nn.Parameter(like.new_ones(tensors))


class Along(nn.Module):
    """Moves the ``index``-th tensor along its random directions."""

    def __init__(self, coordinates: Coordinates, index: int, transform: Fastfood) -> None:
        super().__init__()
        self.coordinates, self.index = (coordinates,), index  # in a tuple: not this module's child
        self.transform = transform

    def forward(self, weight: Tensor) -> Tensor:
        """θ⁰ + P (λ v), which is θ⁰ + λ P v but keeps nothing of the tensor's size for the gradient of λ."""
        (coordinates,) = self.coordinates
        return weight + self.transform(coordinates.lam[self.index] * coordinates.v).view_as(weight).to(weight.dtype)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and lets every parameter but the task head's move along random directions.

    Raises ``ValueError`` when no number is left for v beside one λ per tensor.
    """
    entries = list(backbone(freeze(model)))
    d = config.intrinsic_dimension - len(entries)
    if not entries or d < 1:
        refuse(model, f"intrinsic dimension {config.intrinsic_dimension} is too small for {len(entries)} tensors")
    generator = torch.Generator().manual_seed(config.seed)
    coordinates = Coordinates(d, len(entries), like=entries[0][1])
    for index, (name, parameter) in enumerate(entries):
        derive(model, name, Along(coordinates, index, Fastfood(d, parameter.numel(), generator, parameter)))
    add(model, "intrinsic_said", coordinates)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Writes every change into its parameter and restores the plain model."""
    return settle(model)

"""SAM: trains the few entries whose step promises to lower the loss most, by its expansion to second order.

    min over Δ and M of   L(θ₀) + ∇Lᵀ M Δ + ½ (M Δ)ᵀ H M Δ,     M diagonal, of zeros and k ones
    ⇒  M_i = 1 for the k largest  S_i = |(∇L_i)² / h_i|,        and θ = θ₀ + scatter(v),   v (k,)

For a diagonal curvature H = diag(h) the best step on entry i is −∇L_i / h_i, which lowers the loss by S_i / 2. h is
replaced by one bound for all entries, so that the squared gradient alone decides. ``prepare`` sums the gradients of the
task's loss over some hundred batches, with their signs and without a step, and fixes the positions for good. FishMask
squares before it sums: that is the variance of the gradient, where this is the gradient itself.

θ₀ is every parameter of the model but the task head, k = ⌊density · |θ₀|⌋. v starts at zero, so the model starts where
it was, and adds onto θ₀ to merge. What the sparse change costs is told in FishMask, whose mask this is.

Paper:     Fu et al. 2022, arXiv:2211.15583, section on the second-order approximation method
Official:  github.com/fuzihaofzh/AnalyzeParameterEfficientFinetune at 020f9bb (licence not seen)
Differs:   the k largest of the whole model, as the optimisation problem says; the official code takes a share of each
           tensor of the encoder, and trains the head, which stays frozen here
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from torch import Tensor, nn

from reference_impls import fishmask
from reference_impls._surgery import settle


@dataclass(frozen=True)
class Config:
    """The official script's values, scripts/train.sh."""

    density: float = 0.005
    burn_in: int = 600  # batches whose gradients are summed, or as many as there are


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and lets k of its entries train, evenly spread until ``prepare`` chooses them.

    Raises ``ValueError`` when the density leaves no entry, or more entries than there are.
    """
    return fishmask.attach(model, fishmask.Config(density=config.density))


def prepare(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """Chooses the entries by the gradient of the loss, summed over the first ``config.burn_in`` batches."""
    weights = fishmask.tensors(model)
    for weight in weights:
        weight.requires_grad_(True)
    for batch in islice(batches, config.burn_in):
        model(**batch).loss.backward()  # adds up in ``grad``
    reached = any(weight.grad is not None for weight in weights)
    scores = [weight.new_zeros(weight.shape) if weight.grad is None else weight.grad.square() for weight in weights]
    model.zero_grad()
    for weight in weights:
        weight.requires_grad_(False)
    if not reached:
        raise ValueError("no batch to take the gradient of the loss from")
    fishmask.choose_largest(model, scores)


def merge(model: nn.Module) -> nn.Module:
    """Writes v into the weights and restores the plain model."""
    return settle(model)

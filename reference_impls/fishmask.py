"""FishMask: trains the few entries of the model that matter most, by the Fisher information before training.

    θ = θ₀ + scatter(v)       v (k,) at the k positions with the largest   F_i = Σ_n (∂ log p(y_n | x_n) / ∂θ_i)²

θ₀ is every parameter of the model but the task head, as one long vector; k = ⌊density · |θ₀|⌋. ``prepare`` measures the
empirical Fisher information on a few examples, one at a time, and fixes the positions for good. v starts at zero, so
the model starts where it was; adding v to θ₀ merges it.

Only v has a gradient to keep and optimizer states. Yet each changed tensor is formed anew in the forward pass, and its
dense gradient exists for a moment: unstructured sparsity saves storage, not computation.

Paper:     Sung et al. 2021, arXiv:2111.09839, sections 3.1 and 3.2
Official:  github.com/varunnair18/FISH at 8940737, transformers/examples/text-classification/run_glue_sparse_update.py
Differs:   squared gradients as in the paper (the script's default takes absolute values); the official code masks dense
           gradients and so keeps dense optimizer states; it also trains the task head, which stays frozen here
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Derived
from reference_impls._site import backbone, instances
from reference_impls._surgery import add, derive, freeze, refuse, settle


@dataclass(frozen=True)
class Config:
    """How many entries train, and how many examples choose them."""

    density: float = 0.005  # section 4: half a percent
    samples: int = 1024  # section 4.2 and the script's default; a few dozen already do


class Mask(nn.Module):
    """The k trained numbers and their positions in the long vector of all parameters."""

    def __init__(self, sizes: list[int], k: int, like: Tensor) -> None:
        super().__init__()
        self.starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        total = self.starts[-1]
        self.v = nn.Parameter(like.new_zeros(k))
        # before ``prepare``: every (total / k)-th entry, so that shapes and costs are already those of the real mask
        self.register_buffer("positions", torch.arange(k, device=like.device) * total // k)
        self.bounds = [-(-start * k // total) for start in self.starts]  # where each tensor's share of v begins
        self.register_load_state_dict_post_hook(lambda mask, _: mask.locate())

    @torch.no_grad()
    def choose(self, positions: Tensor) -> None:
        """Takes the ``positions`` (k,) instead of the present ones and restarts from zero."""
        self.positions.copy_(positions.sort().values)
        self.v.zero_()
        self.locate()

    def locate(self) -> None:
        """Finds again which share of v belongs to which tensor."""
        starts = torch.tensor(self.starts, device=self.positions.device)
        self.bounds = torch.searchsorted(self.positions, starts).tolist()


class Entries(nn.Module):
    """Adds the ``index``-th tensor's share of v to it."""

    def __init__(self, mask: Mask, index: int) -> None:
        super().__init__()
        self.mask, self.index = (mask,), index  # in a tuple: the mask is not this module's child

    def forward(self, weight: Tensor) -> Tensor:
        """The tensor with its chosen entries moved."""
        (mask,), i = self.mask, self.index
        low, high = mask.bounds[i], mask.bounds[i + 1]
        if low == high:
            return weight
        where = mask.positions[low:high] - mask.starts[i]
        return weight.flatten().index_add(0, where, mask.v[low:high].to(weight.dtype)).view_as(weight)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and lets k of its entries train, evenly spread until ``prepare`` chooses them.

    Raises ``ValueError`` when the density leaves no entry, or more entries than there are.
    """
    entries = list(backbone(freeze(model)))
    sizes = [parameter.numel() for _, parameter in entries]
    k = int(config.density * sum(sizes))
    if not 0 < k <= sum(sizes):
        refuse(model, f"density {config.density} of {sum(sizes)} parameters leaves {k} entries to train")
    mask = Mask(sizes, k, like=entries[0][1])
    for index, (name, _) in enumerate(entries):
        derive(model, name, Entries(mask, index))
    add(model, "fishmask", mask)
    return model


def prepare(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """Chooses the entries by their empirical Fisher information on the first ``config.samples`` examples."""
    choose_largest(model, fisher(model, tensors(model), batches, config.samples))


def fisher(
    model: nn.Module, weights: Sequence[nn.Parameter], batches: Iterable[Mapping[str, Tensor]], samples: int
) -> list[Tensor]:
    """The empirical Fisher information of each weight's entries: squared gradients of up to ``samples`` examples."""
    information = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    flags = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    singles = ((batch, slice(i, i + 1)) for batch in batches for i in range(len(batch["labels"])))
    seen = 0
    for batch, one in itertools.islice(singles, samples):
        example = {name: value[one] for name, value in batch.items()}
        gradients = torch.autograd.grad(model(**example).loss, weights, allow_unused=True)
        for total, gradient in zip(information, gradients, strict=True):
            if gradient is not None:
                total += gradient.float().square()
        seen += 1
    for weight, flag in zip(weights, flags, strict=True):
        weight.requires_grad_(flag)
    if seen == 0:
        raise ValueError("no example to measure the Fisher information on")
    return information


def tensors(model: nn.Module) -> list[nn.Parameter]:
    """The base parameters θ₀, in the order in which the long vector has them."""
    return [d.original for _, d in sorted(instances(model, Derived), key=lambda item: item[1].rule.index)]


def choose_largest(model: nn.Module, scores: Iterable[Tensor]) -> None:
    """Lets the k entries train that have the largest of ``scores``, one tensor of them for each of ``tensors``."""
    ((_, mask),) = instances(model, Mask)
    mask.choose(torch.cat([score.flatten() for score in scores]).topk(len(mask.v)).indices)


def merge(model: nn.Module) -> nn.Module:
    """Writes v into the weights and restores the plain model."""
    return settle(model)

"""AdapterFusion: frozen adapters of several source tasks, and in every block an attention that mixes what they give.

    y = h + Σₙ sₙ uₙ V,     s = softmaxₙ(z Q (uₙ K)ᵀ),     uₙ = ReLU(z W_d⁽ⁿ⁾ᵀ + b_d⁽ⁿ⁾) W_u⁽ⁿ⁾ᵀ + b_u⁽ⁿ⁾,   n = 1 … T
    loss = task + λ Σ ‖V − I‖²                             over the blocks

    h, z, uₙ (…, d)   Q, K, V (d, d)   s T numbers that sum to one, for each token   the adapters as Pfeiffer's

Two stages. In the first, ``prepare``, each adapter trains alone on its source task. Then all are frozen, and the three
matrices of each block train on the target task: 3 d² numbers. h is what the feed-forward network gives and z what the
adapters read (see ``pfeiffer_adapter``): it asks, the adapters answer. V starts as the identity and is pulled back to
it, so that at first the outputs of the adapters are only mixed; Q and K start at N(0, 0.02²). Nothing can be merged.

Paper:     Pfeiffer et al. 2020, arXiv:2005.00247, sections 3.1, 3.2 and 4.1
Official:  github.com/adapter-hub/adapters at 88f18eb, methods/modeling.py, BertFusion (Apache-2.0)
Differs:   no biases in Q and K, as in the paper's equation, and no dropout on s; the library has both. A fixed number of
           source steps; the paper trains for up to 30 epochs. Source tasks come as batches in turn: the k-th belongs to
           task k mod T. The training loop knows the target task alone and hands over batches of that, so its adapters
           differ in what they have seen, not in what they can do: for other tasks call ``prepare`` with theirs
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor, nn

from reference_impls import pfeiffer_adapter
from reference_impls._site import instances
from reference_impls._surgery import freeze, refuse


@dataclass(frozen=True)
class Config:
    """How many source adapters there are and how they are made; how V is held."""

    n_tasks: int = 16  # T, section 4.2
    reduction: int = 16  # section 5.1, of the adapters
    penalty: float = 0.01  # λ, the official code's weight
    source_steps: int = 1000  # of the first stage, for each adapter; our choice
    source_lr: float = 1e-4  # section 4.1


class Fusion(nn.Module):
    """The adapters of one block, and the attention over them."""

    def __init__(self, like: Tensor, config: Config) -> None:
        super().__init__()
        d = len(like)
        made = [pfeiffer_adapter.bottleneck(like, d // config.reduction) for _ in range(config.n_tasks)]
        self.adapters = nn.ModuleList(made).requires_grad_(False)
        self.Q, self.K, self.V = (nn.Parameter(like.new_empty(d, d)) for _ in range(3))
        nn.init.normal_(self.Q, std=0.02)
        nn.init.normal_(self.K, std=0.02)
        nn.init.normal_(self.V, std=1e-6)
        with torch.no_grad():
            self.V.diagonal().fill_(1.0)
        self.penalty = config.penalty
        self.alone: int | None = None  # the adapter that works by itself, during the first stage

    def forward(self, z: Tensor) -> Tensor:
        """(…, d) -> (…, d), what is added to h."""
        if self.alone is not None:
            return self.adapters[self.alone](z)
        u = torch.stack([adapter(z) for adapter in self.adapters], dim=-2)  # (…, T, d)
        # z Q (u K)ᵀ as (z Q Kᵀ) uᵀ, and the values mixed before V: no (…, T, d) tensor but u
        scores = torch.einsum("...d,...nd->...n", z @ self.Q @ self.K.T, u)  # (…, T)
        return torch.einsum("...n,...nd->...d", scores.softmax(dim=-1), u) @ self.V

    def pull(self) -> Tensor:
        """λ ‖V − I‖²."""
        return self.penalty * (self.V - torch.eye(len(self.V), dtype=self.V.dtype, device=self.V.device)).square().sum()


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts adapters, not trained yet, and a fusion behind every feed-forward network.

    Raises ``ValueError`` when the norm beside such a network is not known, or there is no adapter or an empty one.
    """
    freeze(model)
    if config.n_tasks < 1 or config.reduction < 1:
        refuse(model, f"{config.n_tasks} adapters with a reduction of {config.reduction}: both must be at least 1")
    return pfeiffer_adapter.behind_ffn(model, lambda like: Fusion(like, config))


def prepare(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], config: Config = Config()) -> None:
    """The first stage: trains every adapter alone on its source task.

    The k-th batch belongs to task k mod T; each adapter takes its batches in turn until its steps are done. With fewer
    batches than tasks some are used for several. Raises ``ValueError`` when there is no batch.
    """
    given = list(batches)
    if not given:
        raise ValueError("no batch of a source task to train the adapters on")
    fusions = [fusion for _, fusion in instances(model, Fusion)]
    for task in range(config.n_tasks):
        own = given[task :: config.n_tasks] or [given[task % len(given)]]
        train_source(model, fusions, task, islice(cycle(own), config.source_steps), config.source_lr)


def train_source(
    model: nn.Module, fusions: list[Fusion], task: int, batches: Iterable[Mapping[str, Tensor]], lr: float
) -> None:
    """Trains the adapter ``task`` of every block, a step for each batch, as if the others and the fusion were not."""
    parameters = [parameter for fusion in fusions for parameter in fusion.adapters[task].parameters()]
    for fusion in fusions:
        fusion.alone = task
        fusion.adapters[task].requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    for batch in batches:
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for fusion in fusions:
        fusion.alone = None
        fusion.adapters[task].requires_grad_(False)


def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The target task's loss, and the pull of every V towards the identity."""
    return model(**batch).loss + sum(fusion.pull() for _, fusion in instances(model, Fusion))

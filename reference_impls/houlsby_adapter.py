"""Adapter (Houlsby): a small trained bottleneck network behind the attention and behind the feed-forward of each block.

    y = h + σ(h W_dᵀ + b_d) W_uᵀ + b_u        h (…, d)   W_d (m, d)   b_d (m,)   W_u (d, m)   b_u (d,)

h is what a sub-layer gives after its projection back to width d; y takes its place before the residual is added and
normalised. σ is GELU. Only the four tensors of each adapter train: 2 (2 d m + m + d) numbers per block. Weights start
near zero and biases at zero, so that with its inner skip connection each adapter starts close to the identity, not at
it. The bottleneck is not linear in h, so nothing can be folded into the weights.

Paper:     Houlsby et al. 2019, arXiv:1902.00751, section 2.1 and figure 2
Official:  github.com/google-research/adapter-bert, modeling.py (Apache-2.0)
Differs:   the paper also trains the layer norms and a new task head: ``train_norms`` does the first, off by default so
           that what trains is the adapters alone, as in the survey's parameter counts; heads stay frozen here. The
           official code draws with a deviation of 1e-3, the paper says 1e-2. An encoder-decoder's cross-attention gets
           no adapter (two per block, as in the survey's runs). Dropout acts after the adapter, in the paper before it
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import FFN_OUT, OUTPUT, norms
from reference_impls._surgery import freeze, refuse, replace, train_in_place

SELF_OUTPUT = rf"(?<!EncDecAttention\.)(?!encoder_attn\.)(?:{OUTPUT})"  # of self-attention only


@dataclass(frozen=True)
class Config:
    """The size of the bottleneck, and where it stands."""

    bottleneck: int = 64  # section 3.2, the fixed size; m in the equation
    target: str = f"{SELF_OUTPUT}|{FFN_OUT}"  # section 2.1: each layer whose output a residual takes up
    train_norms: bool = False  # section 2.1 trains them: 2 d numbers per norm and task


class Bottleneck(nn.Module):
    """Down to m numbers, a non-linearity, and up again: the part that all adapters share."""

    def __init__(self, like: Tensor, d: int, m: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        if m < 1:
            raise ValueError(f"a bottleneck of {m} leaves nothing to train; give at least 1")
        self.activation = activation
        self.down = nn.Linear(d, m, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(m, d, device=like.device, dtype=like.dtype)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        """(…, d) -> (…, m) -> (…, d)."""
        return self.up(self.activation(self.down(h)))


class AfterSublayer(Around):
    """The last layer of a sub-layer with an adapter behind it."""

    def __init__(self, base: nn.Linear, adapter: nn.Module) -> None:
        super().__init__(base)
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        """What the sub-layer gives, plus what the adapter makes of it."""
        h = self.base(x)
        return h + self.adapter(h)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts an adapter behind every layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches or the bottleneck is empty.
    """
    return insert(freeze(model), config)


def insert(model: nn.Module, config: Config = Config()) -> nn.Module:
    """The second half of ``attach``: for methods that combine adapters with others on a frozen model."""
    replace(model, config.target, lambda layer: AfterSublayer(layer, near_zero(layer, config.bottleneck)))
    if config.train_norms:
        train_norms(model)
    return model


def near_zero(layer: nn.Linear, m: int) -> Bottleneck:
    """A bottleneck for the output of ``layer``, close to zero at the start (section 3.6 studies how close)."""
    adapter = Bottleneck(layer.weight, layer.out_features, m, nn.functional.gelu)
    for part in (adapter.down, adapter.up):
        cut_normal_(part.weight, std=0.01)
    return adapter


@torch.no_grad()
def cut_normal_(numbers: Tensor, std: float) -> None:
    """Draws from a normal distribution cut at two deviations, through its inverse (torch's own reads values back)."""
    edge = math.erf(2 / math.sqrt(2))
    even = torch.empty_like(numbers, dtype=torch.float32).uniform_(-edge, edge)
    numbers.copy_(torch.erfinv(even).clamp(-2 / math.sqrt(2), 2 / math.sqrt(2)) * (std * math.sqrt(2)))


def train_norms(model: nn.Module) -> None:
    """Trains the normalisation layers of the base model besides; ``ValueError`` when it has none."""
    names = [f"{path}.{name}" for path, norm in norms(model) for name, _ in norm.named_parameters(recurse=False)]
    if not names:
        refuse(model, f"{type(model).__name__} has no normalisation layer to train")
    train_in_place(model, names)

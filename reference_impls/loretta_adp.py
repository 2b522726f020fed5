"""LoRETTA_adp: Houlsby's adapters whose two matrices are chains of small tensors, multiplied out at each use.

    y = h + s (φ(h D + b_d) U + b_u)          h (…, d)   D = TT(G) (d, m)   b_d (m,)   U = TT(H) (m, d)   b_u (d,)
    TT(G)[a₁, …, a_p] = G₁[a₁] G₂[a₂] ⋯ G_p[a_p]          G_i (t, k_i, t), with 1 in place of t at both ends

h is what a sub-layer gives before the residual; each block has an adapter behind its attention and one behind its
feed-forward network. D and U are LoRETTA_rep's tensor trains; cores and biases train, and the two biases are most of what
an adapter has. φ is tanh. All cores start random, scaled to the variance of a linear layer, and the biases too, so the
model does not start where it was. Because of φ nothing merges.

Paper:     Yang, Zhou, Wong, Zhang 2024, arXiv:2402.11417, section 3.2
Official:  github.com/yifanycc/loretta at 008b4a6, loretta/loretta/tuners/loretta_adp.py (GPL-3.0)
Differs:   modes as in LoRETTA_rep. The official code places adapters by a table of model families (for Llama also before
           the gate); here as Houlsby's. It trains the last layer norms only, by a slip, and a factored classifier; the
           paper all norms: ``train_norms``, off by default as in Houlsby's adapters here
"""

from dataclasses import dataclass

from torch import Tensor, nn

from reference_impls._site import FFN_OUT
from reference_impls._surgery import freeze, replace
from reference_impls.houlsby_adapter import SELF_OUTPUT, AfterSublayer, train_norms
from reference_impls.loretta_rep import TensorTrain


@dataclass(frozen=True)
class Config:
    """The official README's values."""

    bottleneck: int = 64  # m
    tensor_rank: int = 5  # t
    scale: float = 1.0  # s
    target: str = f"{SELF_OUTPUT}|{FFN_OUT}"
    train_norms: bool = False


class TTLinear(nn.Module):
    """A linear map whose matrix is a tensor train."""

    def __init__(self, like: Tensor, d_in: int, d_out: int, rank: int) -> None:
        super().__init__()
        self.G = TensorTrain(like, d_in, d_out, rank)
        self.b = nn.Parameter(like.new_empty(d_out))
        nn.init.uniform_(self.b, -(d_out**-0.5), d_out**-0.5)

    def forward(self, h: Tensor) -> Tensor:
        """(…, d_in) -> (…, d_out)."""
        return h @ self.G.matrix() + self.b


class Adapter(nn.Module):
    """A bottleneck of two such maps; the skip connection is around it."""

    def __init__(self, like: Tensor, d: int, config: Config) -> None:
        super().__init__()
        if config.bottleneck < 1:
            raise ValueError(f"a bottleneck of {config.bottleneck} leaves nothing to train; give at least 1")
        self.scale = config.scale
        self.down = TTLinear(like, d, config.bottleneck, config.tensor_rank)
        self.up = TTLinear(like, config.bottleneck, d, config.tensor_rank)

    def forward(self, h: Tensor) -> Tensor:
        """(…, d) -> (…, m) -> (…, d)."""
        return self.scale * self.up(self.down(h).tanh())


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts an adapter behind every layer that ``config.target`` names.

    Raises ``ValueError`` when no layer matches, the bottleneck is empty or the inner rank is none.
    """
    freeze(model)
    replace(model, config.target, lambda layer: AfterSublayer(layer, Adapter(layer.weight, layer.out_features, config)))
    if config.train_norms:
        train_norms(model)
    return model

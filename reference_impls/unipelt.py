"""UniPELT: LoRA, prefix tuning and adapters in every layer, each with a gate that decides how much of it an input gets.

    LoRA        y = x Wᵀ + g_l (x Aᵀ) Bᵀ                              for W_q and W_v        A (r, d)   B (d_out, r)
    prefix      y = Attn(x W_q, [g_p P_k ; c W_k], [g_p P_v ; c W_v])                         P_k, P_v (p, d_kv)
    adapter     y = h + g_a up(ReLU(down(s)))                         behind the FFN, h its output (n, d), m numbers
    gates       g = 1/n Σ_t sigmoid(z_t · w + b)                      one number per example       w (d,)   b (1,)

z is what the gated part reads: the input of the projection, of the attention module, of the adapter. The adapter is
Pfeiffer's: s is the sum of h and the residual, behind the block's norm in BERT. A layer so has four gates, which train
with the rest: each task finds which method serves it where. g_l takes the place of LoRA's α / r. The gates depend on
the input, so nothing can be merged; the prefix moves the model from its start.

Paper:     Mao et al. 2021, arXiv:2110.07577, section 3
Official:  github.com/morningmoni/UniPELT at 53d3c35, lora_layers.py, transformers/models/bert/modeling_bert.py and
           transformers/adapters/layer.py (CC BY-NC 4.0)
Differs:   the paper speaks of one gate for LoRA in a layer, the official code has one for each of its two matrices, as
           here. Padding counts in the mean, as there. Paper and code know encoders only. In a decoder a mean over all
           tokens would tell each token about the later ones: there the gates of LoRA and adapter take the mean over the
           tokens so far, and the gate of the prefix reads the first token alone. Decoding with a cache is refused
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reference_impls import pfeiffer_adapter, prefix_tuning
from reference_impls._site import QKV, QUERY, VALUE, instances
from reference_impls._surgery import freeze, refuse, replace
from reference_impls.houlsby_adapter import Bottleneck
from reference_impls.lora import LoRALinear

ACROSS = ("EncDecAttention", "encoder_attn", "crossattention")  # what cross-attention modules are called


@dataclass(frozen=True)
class Config:
    """The sizes of the three parts."""

    rank: int = 8  # r, section 4.1
    prefix_length: int = 10  # p, section 4.1
    bottleneck: int = 48  # m, section 4.1
    hidden: int | None = 512  # of the network behind the prefix; None trains the prefixes directly


class Gate(nn.Module):
    """How much of a method an input gets: a number between 0 and 1."""

    def __init__(self, like: Tensor, d: int) -> None:
        super().__init__()
        self.causal = False  # ``attach`` knows
        self.score = nn.Linear(d, 1, device=like.device, dtype=like.dtype)
        nn.init.normal_(self.score.weight, std=0.02)  # as the official code does for BERT
        nn.init.zeros_(self.score.bias)

    def forward(self, z: Tensor) -> Tensor:
        """(b, n, d) -> (b, 1, 1), or (b, n, 1) where a token must not know the later ones."""
        g = torch.sigmoid(self.score(z))  # (b, n, 1)
        if not self.causal:
            return g.mean(dim=1, keepdim=True)
        return g.cumsum(dim=1) / torch.arange(1, z.shape[1] + 1, device=z.device, dtype=g.dtype)[:, None]


class GatedLoRA(LoRALinear):
    """A frozen linear layer with a low-rank change, gated by its input."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__(base, rank, alpha=rank)
        self.gate = Gate(base.weight, base.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, d_in) -> (b, n, d_out)."""
        return self.base(x) + self.gate(x) * ((x @ self.A.T) @ self.B.T)

    def merged(self) -> nn.Module:
        """Refused: the change differs from input to input."""
        raise ValueError("a gated change depends on the input, so it cannot be merged")


class GatedBottleneck(Bottleneck):
    """An adapter's bottleneck, gated by its input."""

    def __init__(self, like: Tensor, m: int) -> None:
        super().__init__(like, len(like), m, nn.functional.relu)
        self.gate = Gate(like, len(like))
        for part in (self.down, self.up):
            nn.init.normal_(part.weight, std=0.02)  # as the official code does

    def forward(self, s: Tensor) -> Tensor:
        """(b, n, d) -> (b, n, d)."""
        return self.gate(s) * super().forward(s)


class GatedPrefixAttention(prefix_tuning.PrefixAttention):
    """An attention module whose prefix is gated by the module's input."""

    def __init__(self, base: nn.Module, prefix: nn.Module) -> None:
        super().__init__(base, prefix)
        like, d, _ = prefix_tuning.sizes(base)
        self.gate = Gate(like, d)

    def prefixes(self, hidden: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """Keys and values (b, p, d_kv)."""
        if past:
            raise ValueError("the gates need all tokens at once; decode with use_cache=False")
        keys, values = self.prefix()
        g = self.gate(hidden)[:, :1]  # (b, 1, 1); the mean so far of the first token is that token's own
        return g * keys, g * values


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts the three gated parts into every layer.

    Raises ``ValueError`` when the model lacks a place for one of them, or a size does not fit.
    """
    freeze(model)
    if getattr(getattr(model, "config", None), "model_type", "") == "opt":
        refuse(
            model,
            "OPT joins rows and tokens in front of its feed-forward networks, where UniPELT's gate needs them apart",
        )
    pfeiffer_adapter.behind_ffn(model, lambda like: GatedBottleneck(like, config.bottleneck))
    replace(model, f"{QUERY}|{VALUE}|{QKV}", lambda layer: GatedLoRA(layer, config.rank))
    prefix_tuning.insert(model, prefix_tuning.Config(config.prefix_length, config.hidden), GatedPrefixAttention)
    for name, gate in instances(model, Gate):
        gate.causal = reads_causally(model, name)
    return model


def reads_causally(model: nn.Module, name: str) -> bool:
    """Whether a token at the gate ``name`` must not know the later ones: what the nearest attention module says."""
    if any(word in name for word in ACROSS):
        return re.search(rf"\.(?:{VALUE})\.gate$", name) is None  # values come from the encoder, the rest does not
    while name:
        name = name.rpartition(".")[0]
        says = [part.is_causal for part in model.get_submodule(name).modules() if hasattr(part, "is_causal")]
        if says:
            return any(says)
    return False


flatten = prefix_tuning.flatten

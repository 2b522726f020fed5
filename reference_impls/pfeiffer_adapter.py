"""Adapter (Pfeiffer): one small trained bottleneck network per block, behind the feed-forward network and its norm.

    y = h + ReLU(z W_dᵀ + b_d) W_uᵀ + b_u      h, z (…, d)   W_d (m, d)   b_d (m,)   W_u (d, m)   b_u (d,)
    z = norm(x + h)   where the block normalises after the sum (BERT)   the block then gives norm(x + y)
    z = x + h         where it normalises before (GPT, Llama, T5, ViT)  the block then gives x + y

h is what the feed-forward network gives, x the residual that it is added to. The block's own frozen norm is used twice:
in front of the adapter and behind it. Only the adapters train, half as many as Houlsby's: 2 d m + m + d numbers per
block, m = d / 16. Weights start at N(0, 0.02²) and biases at zero, so the model starts close to where it was, not
there. ReLU stands between the matrices: nothing can be merged.

Paper:     Pfeiffer et al. 2020, arXiv:2005.00247, section 3 and the appendix on the adapter's form
Official:  github.com/adapter-hub/adapters at 88f18eb, SeqBnConfig and methods/modeling.py (Apache-2.0)
Differs:   the paper studies BERT alone; the form for blocks that normalise first is the official library's. The sum
           z is read before the dropout behind the feed-forward network in such blocks, after it in BERT
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from reference_impls._branch import Held, Tap
from reference_impls._layer import Around
from reference_impls._site import FFN_OUT
from reference_impls._surgery import freeze, refuse, replace
from reference_impls.houlsby_adapter import Bottleneck

# The norm behind the sum: BERT and RoBERTa; DistilBERT
NORM_BEHIND = r"\d+\.output\.LayerNorm|output_layer_norm"
# The norm in front of the feed-forward network, which reads the residual x: Llama and its kin, GPT-2, ViT, T5
NORM_IN_FRONT = (
    r"post_attention_layernorm|ln_2|layernorm_after"
    r"|encoder\.block\.\d+\.layer\.1\.layer_norm|decoder\.block\.\d+\.layer\.2\.layer_norm"
)
# OPT's, which stands in front or, in its model of 350 million parameters, behind; BART's, which stands behind
NORM_AT_END = r"(?:encoder|decoder)\.layers\.\d+\.final_layer_norm"


@dataclass(frozen=True)
class Config:
    """The size of the bottleneck."""

    reduction: int = 16  # section 5.1: the best trade-off of 2, 16 and 64; m = d / reduction, rounded down


class BehindSum(Around):
    """The norm behind a feed-forward network, with an adapter between the sum and the norm."""

    def __init__(self, base: nn.Module, adapter: nn.Module) -> None:
        super().__init__(base)
        self.adapter = adapter

    def forward(self, s: Tensor) -> Tensor:
        """norm(x + y), from s = x + h."""
        return self.base(s + self.adapter(self.base(s)))


class BehindNetwork(Around):
    """The last layer of a feed-forward network, with an adapter that also reads the residual."""

    def __init__(self, base: nn.Module, adapter: nn.Module, residual: Held) -> None:
        super().__init__(base)
        self.adapter, self.residual = adapter, residual

    def forward(self, inner: Tensor) -> Tensor:
        """y, to which the block adds x."""
        h = self.base(inner)
        return h + self.adapter(self.residual.take() + h)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and puts an adapter behind every feed-forward network.

    Raises ``ValueError`` when the norm beside such a network is not known, or the bottleneck is empty.
    """
    return insert(freeze(model), config)


def insert(model: nn.Module, config: Config = Config()) -> nn.Module:
    """The second half of ``attach``: for methods that combine it with others on a frozen model."""
    if config.reduction < 1:
        refuse(model, f"a reduction of {config.reduction} makes no bottleneck; give at least 1")
    return behind_ffn(model, lambda like: bottleneck(like, len(like) // config.reduction))


def bottleneck(like: Tensor, m: int) -> Bottleneck:
    """An adapter for hidden states as wide as ``like`` (d,), as it is at the start of training."""
    adapter = Bottleneck(like, len(like), m, nn.functional.relu)
    for part in (adapter.down, adapter.up):
        nn.init.normal_(part.weight, std=0.02)
    return adapter


def norms(model: nn.Module) -> tuple[str, str]:
    """The norms behind the sum and those in front of the feed-forward network, as regular expressions for names."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", "") not in ("opt", "bart"):
        return NORM_BEHIND, NORM_IN_FRONT
    in_front = getattr(config, "do_layer_norm_before", False)
    return (NORM_BEHIND, NORM_AT_END) if in_front else (NORM_AT_END, NORM_IN_FRONT)


def behind_ffn(model: nn.Module, build: Callable[[Tensor], nn.Module], within: str = "") -> nn.Module:
    """Puts ``build(weight of the norm)``, which maps z to y − h, behind every feed-forward network.

    ``within`` is a regular expression for the start of the layers' dotted names: the blocks that get one.
    """
    start = rf"(?={within})(?:.*\.)?"
    behind, in_front = (rf"{start}(?:{norm})" for norm in norms(model))
    if any(re.fullmatch(behind, name) for name, _ in model.named_modules()):
        replace(model, behind, lambda norm: BehindSum(norm, build(norm.weight)), kind=nn.Module)
        return model
    if not any(re.fullmatch(in_front, name) for name, _ in model.named_modules()):
        refuse(model, f"{type(model).__name__} has no norm of a known name beside its feed-forward networks")
    taps: list[Tap] = []

    def tap(norm: nn.Module) -> Tap:
        taps.append(Tap(norm, Held()))
        return taps[-1]

    def behind_network(layer: nn.Linear) -> BehindNetwork:
        tap = next(waiting, None)
        if tap is None:
            raise ValueError(f"{type(model).__name__} has more feed-forward networks than norms in front of them")
        return BehindNetwork(layer, build(tap.weight), tap.held)

    replace(model, in_front, tap, kind=nn.Module)
    waiting = iter(taps)
    ends = replace(model, rf"{start}(?:{FFN_OUT})", behind_network)
    if any("expert" in name for name in ends):
        refuse(model, f"the feed-forward networks of {type(model).__name__} are experts, which see no whole sequence")
    if len(ends) != len(taps):
        refuse(model, f"{len(taps)} norms stand in front of {len(ends)} feed-forward networks: they do not pair up")
    return model

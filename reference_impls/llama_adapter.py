"""LLaMA-Adapter: trained prompts in the attention of the upper layers, behind gates that start shut.

    y = (softmax(Q Kᵀ / √d_h) V + tanh(g) softmax(Q (P W_k)ᵀ / √d_h) P W_v) W_o

    P (p, d) per layer   g one number per head   Q (n, d_h), K, V (n, d_h) per head   W_k, W_v, W_o frozen

The prompts pass through the layer's own key and value projections. Tokens and prompts have a softmax each, so that with
g = 0 nothing disturbs the model: it starts exactly where it was, and P receives a gradient once g has moved. The n_layers
uppermost layers are adapted, p d + n_heads numbers each; no gradient goes below them. Prompts take part in attention, so
there is nothing to merge.

Paper:     Zhang et al. 2023, arXiv:2303.16199, equations 4 to 7 and section 4.1
Official:  github.com/OpenGVLab/LLaMA-Adapter at 521a09d, alpaca_finetuning_v1/llama/model.py (GPL-3.0)
Differs:   the prompts' share is added behind W_o, which is linear, and for it the queries are computed a second time:
           attention modules do not hand them out. As in the official code the prompts' keys are not rotated. The
           library peft has one gate per layer and no tanh. Image features, which the paper adds to P, are left out
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from reference_impls._layer import Around
from reference_impls._surgery import freeze, refuse, replace

_ROLES = {
    "q": ("q_proj", "query"),
    "k": ("k_proj", "key"),
    "v": ("v_proj", "value"),
    "o": ("o_proj", "out_proj", "c_proj", "dense"),
}
_UNUSUAL = ("q_norm", "q_layernorm", "qk_norm", "attn_temperature_tuning", "sinks")


@dataclass(frozen=True)
class Config:
    """Length of the prompts and how many layers have them."""

    prompt_length: int = 10  # section 4.1
    n_layers: int = 30  # section 4.1: of the 32 of LLaMA-7B; all layers where a model has fewer


class PromptedAttention(Around):
    """An attention module that also attends to trained prompts, by as much as its gates let through."""

    def __init__(self, base: nn.Module, p: int) -> None:
        super().__init__(base)
        like, d = (getattr(base, "c_attn", None) or part(base, "q")).weight, base.config.hidden_size
        self.heads = base.config.num_attention_heads
        self.P = nn.Parameter(like.new_empty(p, d))
        self.g = nn.Parameter(like.new_zeros(self.heads))
        nn.init.normal_(self.P)  # an embedding table in the official code

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """What the attention module gives, plus the prompts' share of its first result."""
        output = self.base(*args, **inputs)
        hidden = args[0] if args else inputs["hidden_states"]
        share = self.share(hidden, inputs.get("position_embeddings"))
        return (output[0] + share, *output[1:]) if isinstance(output, tuple) else output + share

    def share(self, hidden: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """tanh(g) softmax(Q (P W_k)ᵀ / √d_h) P W_v W_o for hidden (b, n, d); (b, n, d)."""
        Q = self.project("q", hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (b, heads, n, d_h)
        width = Q.shape[-1]
        keys, values = (self.project(role, self.P).unflatten(-1, (-1, width)).transpose(0, 1) for role in "kv")
        keys, values = (x.repeat_interleave(self.heads // len(x), 0) for x in (keys, values))  # (heads, p, d_h)
        if rotation is not None and getattr(self.base, "use_rope", True):
            cos, sin = (x.unsqueeze(1) for x in rotation)  # (b, 1, n, d_h)
            n = cos.shape[-1]  # some models turn a part of each head
            turned = Q if n == width else Q[..., :n]
            one, two = turned.chunk(2, -1)
            turned = turned * cos + torch.cat((-two, one), -1) * sin
            Q = turned if n == width else torch.cat((turned, Q[..., n:]), -1)
        weights = torch.softmax(Q @ keys.transpose(-1, -2) / width**0.5, -1)  # (b, heads, n, p)
        gated = torch.tanh(self.g)[:, None, None] * weights @ values  # (b, heads, n, d_h); gating p numbers costs less
        return self.project("o", gated.transpose(1, 2).flatten(-2))

    def project(self, role: str, x: Tensor) -> Tensor:
        """``x`` through one of the module's projections; W_o without its bias, which the base has added already."""
        fused = getattr(self.base, "c_attn", None)
        if fused is not None and role != "o":
            return fused(x).chunk(3, -1)["qkv".index(role)]  # GPT-2 holds all three in one matrix
        layer = part(self.base, role)
        if role != "o":
            return layer(x)
        if layer is None:  # BERT: W_o stands behind the module and will act on the sum
            return x
        if layer.bias is None:
            return layer(x)  # a layer in 4 bits keeps nothing for the backward pass then
        return x @ layer.weight if isinstance(layer, Conv1D) else nn.functional.linear(x, layer.weight)


def part(attention: nn.Module, role: str) -> nn.Module | None:
    """The projection of ``attention`` that has this role, by the names it may have."""
    return next((child for name, child in attention.named_children() if name in _ROLES[role]), None)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and gives the attention of its upper layers gated prompts.

    Raises ``ValueError`` when the model has no self-attention of a known kind, or a size is not positive.
    """
    freeze(model)
    if config.prompt_length < 1 or config.n_layers < 1:
        refuse(model, f"prompts of length {config.prompt_length} in {config.n_layers} layers: at least 1 of each")
    found = [
        name for name, module in model.named_modules() if hasattr(module, "c_attn") or part(module, "q") is not None
    ]
    if not found:
        refuse(model, f"{type(model).__name__} has no attention with projections of known names to put prompts into")
    for name in found:
        attention = model.get_submodule(name)
        if any(hasattr(attention, word) for word in _UNUSUAL) or getattr(attention.config, "is_encoder_decoder", False):
            reason = "normalised or scaled queries, sinks and cross-attention are not provided for"
            refuse(model, f"{type(attention).__name__} at {name}: {reason}")
    target = "|".join(name.replace(".", r"\.") for name in found[-config.n_layers :])
    replace(model, target, lambda attention: PromptedAttention(attention, config.prompt_length), kind=nn.Module)
    return model

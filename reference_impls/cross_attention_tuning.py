"""Cross-attention tuning: trains the modules by which a decoder reads its encoder, and nothing else.

    y = h + softmax(g(h) W_q (e W_k)ᵀ / √m) e W_v W_o        h (n, d) decoder   e (n', d) encoder   m width of a head

The four projections (d × d each, narrower or wider where heads are), their biases where there are any, and the norm g
before them train in place: of one decoder block 4 d² + d numbers in T5, about a tenth of a model. Everything else is
frozen, so the languages or domains that a parent model knows are kept. The model starts where it was, and the result is
a plain model. When a child task has words of its own, its new embeddings train as well (``new_embeddings``): of the
encoder's table for a new source language, of the decoder's for a new target language.

Paper:     Gheini, Ren, May 2021, arXiv:2104.08771, section 3
Official:  github.com/MGheini/xattn-transfer-for-mt at 0feee72, fairseq-modified/fairseq_cli/train.py (MIT)
Differs:   the paper stitches a model together from a parent's body and new embeddings; here the model is given as it
           is, and the caller has put new rows into its tables. A table that encoder and decoder share (T5, BART) counts
           as both: it trains if either is asked for. Learned positions stay frozen, the code trains those of the new side
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from reference_impls._site import norms
from reference_impls._surgery import freeze, refuse, settle, train_in_place

_ACROSS = ("EncDecAttention", "encoder_attn", "crossattention")  # T5, BART and its kin, BERT as a decoder


@dataclass(frozen=True)
class Config:
    """What trains beside the cross-attention."""

    train_norm: bool = True  # the official code trains all whose name has "encoder_attn", its norm among them
    new_embeddings: Literal["none", "source", "target"] = "none"  # which side has a new vocabulary (section 3)


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` except its cross-attention; ``ValueError`` when it has none, or lacks the embeddings asked for."""
    freeze(model)
    if config.new_embeddings not in ("none", "source", "target"):
        refuse(model, f"new_embeddings is {config.new_embeddings!r}; it can be none, source or target")
    across = [name for name, _ in model.named_modules() if name.rpartition(".")[2] in _ACROSS]
    if not across:
        refuse(model, f"{type(model).__name__} has no cross-attention; the method needs an encoder-decoder")
    beside = {name.rpartition(".")[0] for name in across}  # T5 keeps the norm next to the module, in a layer of its own
    inside = tuple(f"{name}." for name in across)
    gains = [
        f"{name}.{leaf}"
        for name, norm in norms(model)
        if _belongs(name, beside, inside)
        for leaf, _ in norm.named_parameters()
    ]
    names = [name for name, _ in model.named_parameters() if name.startswith(inside) and name not in gains]
    names += gains if config.train_norm else []
    if config.new_embeddings != "none":
        side = model.get_encoder() if config.new_embeddings == "source" else model.get_decoder()
        table = side.get_input_embeddings().weight
        names += [name for name, parameter in model.named_parameters() if parameter is table]
    train_in_place(model, names)
    return model


def _belongs(name: str, beside: set[str], inside: tuple[str, ...]) -> bool:
    """Whether a norm is that of a cross-attention module."""
    parent, _, leaf = name.rpartition(".")
    alone = parent in beside and leaf == "layer_norm"  # T5: block.i.layer.1.layer_norm
    return alone or leaf == "encoder_attn_layer_norm" or name.startswith(inside)


def merge(model: nn.Module) -> nn.Module:
    """The trained model is already a plain one: gives its parameters their old ``requires_grad`` and returns it."""
    return settle(model)

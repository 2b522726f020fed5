"""Attention fusion: one trained vector asks what all layers of a frozen encoder made of a token, and mixes it.

    v_i = Σ_j a_ij h_ij,     a_ij = softmax_j(q · h_ij)        h_ij (d,) token i behind block j = 1 … L   q (d,)

v takes the place of the last block's output, for every token: what follows (a last norm, a pooler, the head) reads it.
Only q trains, d numbers, and the task head where ``train_head`` says so. q starts at zero: the model starts with the
mean of its layers, not where it was. The blocks run without gradients and keep nothing for the backward pass, and
nothing inside them depends on the task, so that many tasks can share one run. All layers stay needed: there is nothing
to merge.

Paper:     Cao, Satya Prakash, Hamza 2022, Findings of NAACL, aclanthology.org/2022.findings-naacl.64, abstract
Official:  none published
Differs:   the paper's text was not to be had. Its abstract says: token representations from those of all layers, by
           attention, outside the encoder, 0.0009 % of the parameters, which is one vector of BERT-base's width. Our
           choices: no scaling by √d, the embeddings are no layer, q starts at zero, and the head, which the paper must
           train, is frozen by default as it is in the other implementations
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reference_impls._layer import Around
from reference_impls._site import backbone, stacks
from reference_impls._surgery import add, freeze, refuse, replace, train_in_place


@dataclass(frozen=True)
class Config:
    """Whether the task head trains besides."""

    train_head: bool = False  # the classification head, or a language model's output matrix


class Fusion(nn.Module):
    """The query of the task, and the states of the layers while a model runs."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.zeros_like(like))
        self.states: list[Tensor] = []  # L times (…, d)

    def forward(self) -> Tensor:
        """L times (…, d) -> (…, d)."""
        states, self.states = self.states, []
        a = torch.stack([h @ self.q for h in states], dim=-1).softmax(dim=-1)  # (…, L)
        return sum(weight.unsqueeze(-1) * h for weight, h in zip(a.unbind(-1), states, strict=True))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Fusion":
        twin = Fusion(self.q.detach())
        twin.q = nn.Parameter(self.q.detach().clone(), requires_grad=self.q.requires_grad)
        memo[id(self)] = twin
        return twin


class Layer(Around):
    """A block of the frozen encoder, whose output is taken down; the last one gives the mixture of all."""

    def __init__(self, base: nn.Module, fusion: Fusion, first: bool, last: bool) -> None:
        super().__init__(base)
        self.fusion, self.first, self.last = (fusion,), first, last  # in a tuple: the query is not this module's child

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """What the block gives, or what the query makes of all blocks."""
        with torch.no_grad():
            output = self.base(*args, **inputs)
        (fusion,) = self.fusion
        h = output[0] if isinstance(output, tuple) else output
        fusion.states = [h] if self.first else [*fusion.states, h]
        if not self.last:
            return output
        return (fusion(), *output[1:]) if isinstance(output, tuple) else fusion()


def attach(model: nn.Module, config: Config = Config()) -> nn.Module:
    """Freezes ``model`` and lets a query mix what its blocks give.

    Raises ``ValueError`` when the model has not exactly one stack of blocks, or no head to train apart from the rest.
    """
    freeze(model)
    found = list(stacks(model))
    if len(found) != 1:
        refuse(model, f"{type(model).__name__} has {len(found)} stacks of transformer blocks; one is needed")
    names = [name for name, _ in found[0].blocks]
    like = next(p for p in found[0].blocks[0][1].parameters() if p.shape == (found[0].width,))
    fusion = Fusion(like)
    count = iter(range(len(names)))

    def wrap(block: nn.Module) -> Layer:
        at = next(count)
        return Layer(block, fusion, first=at == 0, last=at == len(names) - 1)

    replace(model, "|".join(re.escape(name) for name in names), wrap, kind=nn.Module)
    add(model, "attention_fusion", fusion)
    if config.train_head:
        train_in_place(model, head(model))
    return model


def head(model: nn.Module) -> list[str]:
    """The parameters of the task head: of a classifier what was not pre-trained, else the output matrix."""
    inside = {name for name, _ in backbone(model)}
    names = [name for name, _ in model.named_parameters() if name not in inside]
    if names:
        return names
    output, entry = model.get_output_embeddings(), model.get_input_embeddings()
    mine = [p for p in output.parameters() if p is not entry.weight]
    if not mine:
        refuse(model, f"the head of {type(model).__name__} is its input embedding, so it cannot train alone")
    return [name for name, p in model.named_parameters() if any(p is each for each in mine)]

"""Which layers a method adapts: those of its paper, all linear layers, or those that were asked for.

Methods of low rank were first put on query and value alone. All linear layers do better wherever the two were compared, and
are what training libraries adapt by default, so they are what a plan adapts, if the base stays stored as it is and a step
takes at most twice the time, recomputed activations included.
"""

from __future__ import annotations

from typing import NamedTuple

from kb.closed_form import outline
from kb.schema import Method, Source
from kb.sites import LINEAR_SITES
from recommender.answer import Citation, Plan, Reason
from recommender.citations import Library
from recommender.constraints import Constraints, Objective
from recommender.reading import read_targets

EVERYWHERE = ("all_linear",)
PAPER = "paper"
"""What ``targets`` says to keep to the layers of each method's paper."""

NEEDED = Source(basis="paper", ref="qlora", where="section 4, figure 2", grade="B")
"""On LLaMA-7B and Alpaca, LoRA reached full fine-tuning only with all linear layers of the blocks adapted."""
_ADVISED = 5  # finding of the survey
SLOWER = 2.0
"""Times: the survey's own runs of LoRA took about 1.4 times as long on all matrices, and recomputing activations takes a third
more; what costs more than both is no small price."""
SPARING: frozenset[Objective] = frozenset({"memory", "speed", "storage"})
"""Objectives that are to save what all linear layers cost."""

UNREAD = "what they take on models of this kind only a dry run tells (estimate --exact --targets all_linear)"
"""What stands against all linear layers where there is no closed form for them."""


class Placing(NamedTuple):
    """What a request says about the adapted layers."""

    sites: tuple[str, ...]  # empty: those of each method's paper
    free: bool  # nothing was said: all linear layers, where they ask for nothing else


def read_placing(constraints: Constraints) -> Placing:
    """What ``targets`` asks for; ``ConstraintError`` for a layer that does not exist."""
    return Placing(read_targets(constraints), constraints.targets is None)


def narrow(method: Method) -> bool:
    """Whether a method is of low rank and its paper adapts query and value alone."""
    where = {*method.mechanism.where}
    return "low_rank" in method.mechanism.form and where == {"attention.query", "attention.value"}


def selectable(method: Method) -> bool:
    """Whether a method acts on linear layers that can be chosen: it was run on others than its paper's, too."""
    return LINEAR_SITES.keys() >= {*method.mechanism.where} and bool(outline(method.slug).targets)


def same_sites(method: Method, sites: tuple[str, ...]) -> bool:
    """Whether ``sites`` are those of the method's paper; where a model attends to another sequence follows of itself."""
    return {*sites} == {site for site in method.mechanism.where if not site.startswith("cross_")}


def said(sites: tuple[str, ...]) -> str:
    """Linear layers in words: ``all linear layers``, ``query and value``; empty where a place is no linear layer."""
    if sites == EVERYWHERE:
        return "all linear layers"
    if not LINEAR_SITES.keys() >= {*sites}:
        return ""
    named = list(dict.fromkeys(site.rpartition(".")[2].replace("_", " ") for site in sites))
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


class Grounds:
    """The sources for adapting all linear layers."""

    def __init__(self, library: Library) -> None:
        self.needed: Citation = library.cite(NEEDED)
        self.advised: Citation = library.finding(_ADVISED)


def placed(plan: Plan, hindrance: str | None, grounds: Grounds) -> Reason | None:
    """Why a plan adapts the layers that it adapts, for a method that its paper puts on query and value alone.

    ``hindrance`` is what stands against all linear layers where they were left out.
    """
    if plan.targets == EVERYWHERE:
        text = "Adapts all linear layers, which LoRA needs to come level with full fine-tuning; its paper has query and value alone."
        return Reason(text=text, kind="for", source=grounds.needed)
    if hindrance is None:
        return None
    text = (
        f"Adapts {said(plan.targets)} alone, as its paper does; all linear layers are usually better, but {hindrance}."
    )
    return Reason(text=text, kind="note", source=grounds.advised)

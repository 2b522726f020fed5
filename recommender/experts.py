"""Mixtures of experts: which part of a model no storage of the base reaches here, and what packing it would save."""

from __future__ import annotations

from kb.schema import Source
from recommender.answer import Mixture, ModelView, Reason
from recommender.base import BYTES, weights
from recommender.citations import Library
from recommender.footprint import Subject
from recommender.setting import BF16
from recommender.units import show_bytes, show_count

_SKIPPED = Source(
    basis="code", ref="bitsandbytes_experts", where="issue 1849 and pull request 1965, both open", grade="B"
)
_PACKED = Source(basis="code", ref="unsloth_experts", where="issue 4032, comments of June and July 2026", grade="B")
_UNTRAINED = Source(basis="code", ref="transformers", where="quantizers/quantizer_mxfp4.py, is_trainable", grade="A")
PUBLISHED_IN_FOUR_BITS = frozenset({"gpt_oss"})
"""Types of models whose published weights hold experts in MXFP4, in which nothing trains."""


def mixture(about: Subject, library: Library) -> Mixture | None:
    """The experts of a model; ``None`` for a dense one."""
    model = about.model
    if not model.experts:
        return None
    held, matrices = weights(about, "nf4"), about.variables["N_experts"]
    packed = held - (BF16 - BYTES["nf4"]) * matrices
    share = model.expert_parameters / about.parameters
    notes = [
        Reason(
            text=f"{show_count(model.expert_parameters)} of its {show_count(about.parameters)} parameters "
            f"({100 * share:.0f} %) are experts. transformers 5 holds those of a layer in one tensor, and bitsandbytes packs "
            "linear layers alone: they stay in bf16, however the base is stored.",
            kind="note",
            source=library.cite(_SKIPPED),
        ),
        Reason(
            text=f"With its experts in 4 bits too, its weights would take about {show_bytes(packed)} instead of "
            f"{show_bytes(held)}: an orientation from its shape, since no such run is predicted here. By its issue tracker, "
            "Unsloth packs experts since version 2026.6: a model may fit there that does not fit here.",
            kind="note",
            source=library.cite(_PACKED),
        ),
    ]
    if model.model_type in PUBLISHED_IN_FOUR_BITS:
        text = (
            "Its weights are published in MXFP4, which transformers does not train: they are loaded as copies in bf16."
        )
        notes.append(Reason(text=text, kind="note", source=library.cite(_UNTRAINED)))
    return Mixture(
        parameters=model.expert_parameters,
        percent=round(100 * share, 1),
        held_bytes=round(held),
        packed_bytes=round(packed),
        notes=tuple(notes),
    )


def viewed(view: ModelView, about: Subject, library: Library) -> ModelView:
    """``view`` with the experts of its model."""
    return view.model_copy(update={"mixture": mixture(about, library)})


def in_short(found: Mixture) -> str:
    """Why nothing fits, in a sentence."""
    return (
        f"{found.percent:.0f} % of the model are experts, which stay in bf16 here; packed in 4 bits like the rest, its "
        f"weights would take about {show_bytes(found.packed_bytes)}."
    )

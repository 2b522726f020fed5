"""Copies of masks that attention keeps where the tokens are no multiple of eight, which no polynomial in the widths says.

Where positions are relative, as in T5, attention gets a mask of one number for each head, query and key, and the kernel wants
rows of whole steps of eight (PyTorch, ``preprocess_mask`` of ``scaled_dot_product_attention``). Self-attention copies its mask
in any case. Cross-attention, whose mask is the same in every block, keeps it once; but where its rows are uneven, every block
keeps a copy of its own.
"""

from __future__ import annotations

import re
from functools import lru_cache

from kb.closed_form import Form, Polynomial
from kb.polynomial import Settled
from recommender.footprint import Subject

_STEP = 8  # keys
_BYTES = 2  # of a number of a mask
_PAIRS = re.compile(r"(?P<blocks>L\w*\*)?n_heads\*(?P<pairs>s\*s|s\*t|t\*t)")  # a monomial of heads, queries and keys


def uneven(known: Settled[Form], about: Subject, seq: int) -> bool:
    """Whether each block of ``about`` keeps a copy of the mask of its cross-attention, at sequences of ``seq`` tokens."""
    model = about.model
    if model.kind != "encoder_decoder" or known.form.checkpointing:
        return False
    if not any(one.name == "relative_attention" for one in model.extras):
        return False
    _, keys = _crossing(known)
    return (seq + (known.knobs.get("p", 0.0) if keys == "t" else 0.0)) % _STEP != 0


@lru_cache(maxsize=256)
def copied(known: Settled[Form]) -> Settled[Form]:
    """The form with these copies, at every instant at which the masks of all blocks are alive."""
    mask = ("n_heads", *_crossing(known))
    instants = tuple(
        one.model_copy(update={"parts": {name: _with(part, mask) for name, part in one.parts.items()}})
        for one in known.form.instants
    )
    return Settled(known.form.model_copy(update={"instants": instants}), known.knobs)


def _with(part: Polynomial, mask: tuple[str, ...]) -> Polynomial:
    """A part with one more mask in all blocks but one, if it holds the masks of self-attention."""
    if not any(found and found["blocks"] for found in map(_PAIRS.fullmatch, part)):
        return part
    each, once = "*".join(("L", *mask)), "*".join(mask)
    return {**part, each: part.get(each, 0.0) + _BYTES, once: part.get(once, 0.0) - _BYTES}


@lru_cache(maxsize=256)
def _crossing(known: Settled[Form]) -> tuple[str, str]:
    """What queries and keys of cross-attention count: tokens, or tokens and prompt."""
    parts = (part for one in known.form.instants for part in one.parts.values())
    lengths = {found["pairs"] for part in parts for found in map(_PAIRS.fullmatch, part) if found}
    if "s*t" in lengths:  # the prompt is in front of what the encoder reads, and not of what the decoder does
        return "s", "t"
    return ("t", "t") if "t*t" in lengths else ("s", "s")

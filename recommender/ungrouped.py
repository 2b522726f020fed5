"""Keys and values that a cache and attention share, where the shape that forms were read from keeps them twice.

PEFT brings a prefix in with the cached keys and values. Where a key serves several queries, as in the shapes of gated decoders,
attention keeps copies for all of these, and the cache stands beside them until the loss. Where each key serves one query,
attention keeps what the cache holds.
"""

from __future__ import annotations

from functools import lru_cache

from kb.closed_form import Form, Polynomial
from kb.polynomial import Settled
from recommender.footprint import Subject

_CACHED = {"L", "b", "d_kv", "t"}  # what the size of all keys and values of a batch with its prefix is the product of


def ungrouped(about: Subject) -> bool:
    """Whether each key of ``about`` serves one query, unlike in the shape that its forms were read from."""
    return about.shape in ("decoder", "decoder_joined") and about.model.kv_heads == about.model.heads


@lru_cache(maxsize=1024)
def held_once(known: Settled[Form]) -> Settled[Form]:
    """The form without a cache beside attention; ``known`` itself, if it has none."""
    if not any(_cached(term) for one in known.form.instants for term in one.parts.get("overhead", ())):
        return known
    instants = tuple(
        one.model_copy(update={"parts": {**one.parts, "overhead": _without(one.parts.get("overhead", {}))}})
        for one in known.form.instants
    )
    return Settled(known.form.model_copy(update={"instants": instants}), known.knobs)


def _cached(term: str) -> bool:
    return {*term.split("*")} == _CACHED


def _without(part: Polynomial) -> Polynomial:
    return {term: size for term, size in part.items() if not _cached(term)}

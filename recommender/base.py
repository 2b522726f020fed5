"""What a model holds in memory whatever the method: its weights, as stored, and what its family of models keeps."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from kb.closed_form import Form, Implementation, Storage
from kb.polynomial import Settled
from recommender.family import Extra, Packing, extra, unpacked
from recommender.footprint import Prepared, Subject
from recommender.setting import BF16

BYTES = {"bf16": 2.0, "int8": 1.0, "nf4": 0.5 + 0.127 / 8}  # double quantisation adds 0.127 bit, 2305.14314 section 3


def weights(about: Subject, storage: str) -> float:
    """Bytes of a model's weights, its frozen matrices stored as ``storage`` says."""
    return BYTES[storage] * about.quantised + BF16 * (about.parameters - about.quantised)


class Held(NamedTuple):
    """How a base is stored and run, and what the form was read from."""

    implementation: Implementation
    read: Storage  # of the base that the form was read from
    checkpointing: bool
    autocast: bool
    storage: Storage
    windowed: bool  # sequences are longer than the model's window of attention
    prompt: float  # tokens that the method puts in front of every example


@lru_cache(maxsize=1024)
def held(known: Settled[Form], storage: Storage, windowed: bool) -> Held:
    """How the base of a form is stored and run."""
    form = known.form
    read = form.implementation, form.storage, form.checkpointing, form.autocast
    return Held(*read, storage, windowed, known.prompt)


class Base(NamedTuple):
    """What a model holds whatever the method."""

    weights: float  # bytes, as stored
    widest: float  # bytes of the largest matrix unpacked, where the form does not say what unpacking takes
    extra: Extra | None


def base(about: Subject, way: Held, of: Prepared) -> Base:
    """What a model holds, run in that way; remembered, since many methods share it.

    ``of`` says whether gradients flow through the frozen model: only then does it keep what its family computes.
    """
    key = way, of.through, of.normed, of.everywhere
    found: Base | None = about.bases.get(key)
    if found is None:
        found = about.bases[key] = _base(about, way, of)
    return found


def _base(about: Subject, way: Held, of: Prepared) -> Base:
    model, more = about.model, None
    packing = None
    if way.read == "bf16" != way.storage:
        packing = Packing(way.implementation, way.storage, way.autocast, of.everywhere)
    known = packing is not None and of.through and unpacked(about, packing, way.checkpointing)
    spread = way.storage in ("bf16", way.read) or known
    if of.through:
        more = extra(about, (way.checkpointing, way.autocast), way.windowed, of.normed, packing, way.prompt)
    return Base(weights(about, way.storage), 0.0 if spread else float(BF16 * model.d * model.d_ff), more)

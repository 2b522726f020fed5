"""Which closed forms of a method apply to a model: those of code that runs on its family, with the base stored as it can be."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from kb.closed_form import WHOSE, Form, Implementation, Storage, forms
from kb.families import refused
from kb.polynomial import Settled
from kb.storages import refused as unstorable

FormsByWay = Mapping[tuple[Storage, bool], Settled[Form]]
"""Forms by how the base is stored, and whether activations are computed twice."""

Running = tuple[Implementation, ...]
"""Whose code of a method runs on a family of models."""


@lru_cache(maxsize=4096)
def running(slug: str, family: str) -> Running:
    """Whose code of a method runs on a family of models; all of it, if that was not tried."""
    return tuple([of for of in WHOSE if slug not in refused(family, of)])


@lru_cache(maxsize=2048)
def applicable(slug: str, implementation: str, shape: str, whose: Running, targets: str, autocast: bool) -> FormsByWay:
    """A method's forms for a shape, with the hyperparameters that we advise; those of PEFT before ours.

    Those of code that does not run on the family, or on a base stored so, are left out.
    """
    known = (one for one in _settled(slug, shape, autocast) if one.form.implementation in whose)
    fitting = [one for one in known if one.form.targets == targets and not _fails(slug, one.form.storage, one.form)]
    theirs = [one for one in fitting if one.form.implementation == implementation]
    if implementation == "any":
        theirs = [one for one in fitting if one.form.implementation == "peft"]
        theirs += [one for one in fitting if not theirs or slug in unstorable(one.form.storage, "peft")]
    return {(one.form.storage, one.form.checkpointing): one for one in theirs}


@lru_cache(maxsize=1024)
def _settled(slug: str, shape: str, autocast: bool) -> tuple[Settled[Form], ...]:
    """A method's forms for a shape, whose families share what is worked out for them."""
    return tuple(map(Settled, forms(slug, shape, autocast)))


def _fails(slug: str, storage: Storage, form: Form) -> bool:
    """Whether the code that a form was read from does not run on a base stored so."""
    return slug in unstorable(storage, form.implementation)


def nearest(known: FormsByWay, storage: Storage, checkpointing: bool) -> Settled[Form]:
    """The form of a way to store the base; where that was not run, of the one in bf16."""
    found = known.get((storage, checkpointing)) or known.get(("bf16", checkpointing))
    return found or known.get((storage, not checkpointing)) or next(iter(known.values()))


@lru_cache(maxsize=2048)
def failing(
    slug: str, implementation: str, shape: str, whose: Running, targets: str, autocast: bool
) -> frozenset[tuple[Storage, bool]]:
    """Storages, with and without checkpointing, in which the code that their form was read from does not run."""
    known = applicable(slug, implementation, shape, whose, targets, autocast)
    storages: tuple[Storage, ...] = ("int8", "nf4")
    tried = ((storage, checkpointing) for storage in storages for checkpointing in (False, True)) if known else ()
    return frozenset(way for way in tried if _fails(slug, way[0], nearest(known, *way).form))

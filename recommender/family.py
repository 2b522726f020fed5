"""What a family of models keeps and does beyond the shape that closed forms were read from (``profiler.backbones``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

from kb.closed_form import (
    NORMED,
    WINDOWED,
    Backbone,
    Form,
    Implementation,
    Storage,
    backbone_key,
    backbones,
    forms,
    shape_of,
)
from kb.polynomial import EFFORT, Powers, Settled, Values, at_length
from recommender.footprint import Subject
from recommender.recent import Recent

_ROUNDING = 1e-9
_COMPUTED = ("activations", "logits", "overhead")  # what a family's own computations fill; the rest is the probe's
_NOMINAL = (4, 1024)  # examples and tokens at which the instants of a phase are compared


class Extra:
    """What a model keeps and does beyond the shape, or the storage of its base, that forms were read from.

    Each pair of ``beyond`` is one such difference: what is, and what the form was read from.
    """

    def __init__(self, values: Values, *beyond: tuple[Settled[Any], Settled[Any]]) -> None:
        self._values, self._beyond = values, beyond
        self._polynomials: dict[str, Powers] = {}
        self._heights: Recent[int, dict[str, tuple[float, float]]] = Recent()
        self._spare: Recent[int, tuple[float, float]] = Recent()
        self._efforts: Recent[int, tuple[float, ...]] = Recent()
        self.parts: dict[str, dict[str, Powers]] = {}
        for own, plain in ((_highest(values, one), _highest(values, other)) for one, other in beyond):
            for phase in own.keys() & plain.keys():
                found = self.parts.setdefault(phase, {})
                for part in _COMPUTED:
                    more = less(own[phase].get(part, {}), plain[phase].get(part, {}))
                    found[part] = added(found[part], more) if part in found else more
        self.totals: dict[str, Powers] = {phase: added(*parts.values()) for phase, parts in self.parts.items()}

    def heights(self, seq: int) -> dict[str, tuple[float, float]]:
        """``totals`` at one length: what stands still, and what each example adds."""
        found = self._heights.get(seq)
        if found is None:
            found = self._heights[seq] = {phase: at_length(powers, seq) for phase, powers in self.totals.items()}
        return found

    def spare(self, seq: int) -> tuple[float, float]:
        """What it adds to the bytes that the caching allocator holds beyond the peak, at one length."""
        found = self._spare.get(seq)
        if found is None:
            found = self._spare[seq] = at_length(self.polynomial("spare"), seq)
        return found

    def effort(self, seq: int) -> Sequence[float]:
        """What it adds to the two ends of each of the polynomials ``EFFORT``, at one length."""
        found = self._efforts.get(seq)
        if found is None:
            found = self._efforts[seq] = tuple(chain(*(at_length(self.polynomial(name), seq) for name in EFFORT)))
        return found

    @cached_property
    def kernels(self) -> float:
        """What it adds to the kernels of a micro-batch."""
        return self.polynomial("kernels").get((0, 0), 0.0)

    def polynomial(self, name: str) -> Powers:
        """What it adds to one of a form's own polynomials, such as ``flops``."""
        found = self._polynomials.get(name)
        if found is None:
            powers = ([self._values.powers(one.polynomial(name)) for one in pair] for pair in self._beyond)
            found = self._polynomials[name] = added(*(less(*both) for both in powers))
        return found


@lru_cache(maxsize=256)
def _settled(family: str, checkpointing: bool, prompt: float = 0.0) -> Settled[Backbone] | None:
    known = backbones().get((family, checkpointing))
    return None if known is None else Settled(known, {"p": prompt})  # instead of the one that families were told by


Packing = tuple[Implementation, Storage]
"""Whose code runs on a base that is stored otherwise than the one that a form was read from."""


@lru_cache(maxsize=64)
def _packed(packing: Packing, shape: str, checkpointing: bool) -> tuple[Settled[Form], Settled[Form]] | None:
    """LoRA on a base of that storage, and on one in bf16: they differ by what unpacking the base takes."""
    implementation, storage = packing
    told = {
        form.storage: Settled(form)
        for form in forms("lora", shape)
        if (form.implementation, form.checkpointing, form.targets) == (implementation, checkpointing, "")
    }
    return (told[storage], told["bf16"]) if {storage, "bf16"} <= told.keys() else None


def unpacked(about: Subject, packing: Packing, checkpointing: bool) -> bool:
    """Whether it is known what working on a base of that storage takes."""
    return _packed(packing, shape_of(about.model), checkpointing) is not None


def extra(
    about: Subject,
    checkpointing: bool,
    windowed: bool,
    normed: bool = False,
    packing: Packing | None = None,
    prompt: float = 0.0,
) -> Extra | None:
    """What the family of a model adds to its shape, and ``packing`` to a base in bf16; ``None`` if that is nothing, or it was never run.

    ``windowed``: on sequences that are longer than its window of attention. ``normed``: while its norms train.
    ``prompt``: tokens that a method puts in front of every example.
    """
    key = checkpointing, windowed, normed, packing, prompt
    if key not in about.extras:
        name, shape = backbone_key(about.model), shape_of(about.model)
        at = checkpointing, prompt
        more = NORMED if normed and _settled(f"{name}{NORMED}", *at) else ""
        family = _settled(f"{name}{WINDOWED}", *at) if windowed else None
        family, plain = family or _settled(f"{name}{more}", *at), _settled(f"{shape}{more}", *at)
        beyond: list[tuple[Settled[Any], Settled[Any]]] = [(family, plain)] if family and plain else []
        told = None if packing is None else _packed(packing, shape, checkpointing)
        beyond += [told] if told else []
        about.extras[key] = Extra(about.values, *beyond) if beyond else None
    found: Extra | None = about.extras[key]
    return found


def _highest(values: Values, of: Settled[Any]) -> dict[str, dict[str, Powers]]:
    """The highest instant of each phase, by part."""
    batch, seq = _NOMINAL
    best: dict[str, tuple[float, dict[str, Powers]]] = {}
    for one, terms in zip(of.form.instants, of.parts, strict=True):
        parts: dict[str, Powers] = {name: values.powers(part) for name, part in terms.items()}
        size = sum(standing + batch * example for standing, example in (at_length(p, seq) for p in parts.values()))
        if one.phase not in best or size > best[one.phase][0]:
            best[one.phase] = size, parts
    return {phase: parts for phase, (_, parts) in best.items()}


def added(*polynomials: Powers) -> Powers:
    """The sum."""
    found: dict[tuple[int, int], float] = {}
    for polynomial in polynomials:
        for key, value in polynomial.items():
            found[key] = found.get(key, 0.0) + value
    return found


def less(one: Powers, other: Powers) -> Powers:
    """The difference; what cancels but for rounding is left out."""
    found = added(one, {key: -value for key, value in other.items()})
    return {key: value for key, value in found.items() if abs(value) > _ROUNDING * abs(other.get(key, 0.0))}

"""Closed forms of memory and work: what ``kb/profiles/<slug>.json`` says, and its value for a model.

A form is the maximum of a few instants of a training step. Each instant says, for every part (weights, adapter, gradients,
optimizer, activations, logits, overhead), how many bytes are alive then, as a polynomial: ``{"L*b*d*s": 14, …}`` is 14 bytes for
each block, example, token and hidden unit. Names are those of ``kb.architecture.VARIABLES``, and

- ``b`` examples in a micro-batch, ``s`` tokens of each, ``p`` tokens of a soft prompt, ``t`` = ``s`` + ``p``;
- ``r`` rank, ``m`` width of a bottleneck, ``h`` hidden width of a reparameterisation network.

``L`` counts the blocks of one stack (an encoder-decoder's stacks are equally deep). ``peft-atlas profile`` writes the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from kb.architecture import Architecture
from kb.loader import KB

PROFILES = KB / "profiles"
MADE_BY = "peft-atlas profile"
BACKBONES = PROFILES / "backbones.json"
PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "overhead")

Polynomial = dict[str, float]
"""Monomials, factors joined by ``*`` and the constant as the empty text, with their coefficients."""

Powers = Mapping[tuple[int, int], float]
"""A polynomial in examples and tokens: powers of both, with coefficients in bytes."""

Implementation = Literal["ours", "peft"]
Storage = Literal["bf16", "int8", "nf4"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Instant(_Part):
    """What is alive at an instant of the step that can be its peak."""

    phase: Literal["forward", "head", "head backward", "backward", "optimizer"] = Field(description="phase of the step")
    words: str = Field(description="where in the step it lies")
    parts: dict[str, Polynomial] = Field(
        description="bytes by what they hold; weights, which follow from the model, and parts that hold nothing are left out"
    )


class Form(_Part):
    """Peak memory and work of a method, in one implementation, on one family of models and in one setting."""

    implementation: Implementation = Field(description="whose code was run")
    shape: str = Field(description="family of models: see ``shape_of``")
    storage: Storage = Field(description="how frozen weights are stored")
    checkpointing: bool = Field(description="whether activations are recomputed in the backward pass")
    knobs: dict[str, float] = Field(
        description="hyperparameters that appear as letters, with the values that we advise"
    )
    own_optimizer: bool = Field(description="whether the method brings its own optimizer, which then stays")
    instants: tuple[Instant, ...] = Field(description="the peak is the highest of them")
    gradients: Polynomial = Field(description="bytes of all gradients, at the end of the backward pass")
    states: Polynomial = Field(description="bytes of the optimizer's states between steps")
    spare: Polynomial = Field(
        description="bytes that the caching allocator reserves beyond the peak; fitted to replays"
    )
    flops: Polynomial = Field(description="floating-point operations of a step, a product and a sum counted as two")
    flops_fp32: Polynomial = Field(description="of these, those of products of fp32 matrices")
    moved: Polynomial = Field(description="bytes that the kernels of a step read and write")
    kernels: Polynomial = Field(description="kernels of a step")
    targets: str = Field(description="adapted layers, where they are not those of the record; else empty")
    unread: float = Field(description="share of all bytes whose size the widths do not explain; expressed in others")


class Profile(_Part):
    """All forms of a method: a file of ``kb/profiles``."""

    made_by: str = Field(description="the command that writes the file")
    slug: str = Field(description="the method")
    fingerprint: str = Field(
        description="of the implementation and the settings tried: tells whether the file is current"
    )
    versions: dict[str, str] = Field(description="libraries that were dry-run")
    forms: tuple[Form, ...]
    refused: dict[str, str] = Field(description="settings in which it cannot be run, with the reason")


class Backbone(_Part):
    """A family of models, or a shape, with the one method that all are compared with: the highest instants of each phase."""

    family: str = Field(description="a family's key, or the name of a shape")
    checkpointing: bool = Field(description="whether activations are recomputed in the backward pass")
    instants: tuple[Instant, ...]
    spare: Polynomial
    flops: Polynomial
    flops_fp32: Polynomial
    moved: Polynomial
    kernels: Polynomial


class Backbones(_Part):
    """What families of models keep beyond the shapes that forms are read from: ``kb/profiles/backbones.json``."""

    made_by: str = Field(description="the command that writes the file")
    versions: dict[str, str] = Field(description="libraries that were dry-run")
    forms: tuple[Backbone, ...]
    refused: dict[str, str] = Field(description="families that cannot be run, with the reason")


@lru_cache(maxsize=1)
def backbones() -> dict[tuple[str, bool], Backbone]:
    """Every family and shape that was compared, by its key and whether activations are recomputed."""
    if not BACKBONES.is_file():
        return {}
    known = Backbones.model_validate(json.loads(BACKBONES.read_bytes()))
    return {(one.family, one.checkpointing): one for one in known.forms}


def backbone_key(model: Architecture) -> str:
    """The family of a model: what its blocks compute, whatever their sizes."""
    return f"{model.model_type}{' gated' if model.gated else ''}"


@lru_cache(maxsize=512)
def profile(slug: str, folder: Path = PROFILES) -> Profile | None:
    """The profile of a method, or ``None`` if there is none."""
    path = folder / f"{slug}.json"
    return Profile.model_validate(json.loads(path.read_bytes())) if path.is_file() else None


def shape_of(model: Architecture) -> str:
    """The family whose forms describe ``model``."""
    if model.kind in ("decoder", "multimodal"):
        return "decoder" if model.gated else "decoder_plain"
    return {"encoder": "encoder", "encoder_decoder": "encoder_decoder"}.get(model.kind, "vision")


def widths(model: Architecture) -> dict[str, float]:
    """The values of all letters that a model gives: all but batch, length and hyperparameters."""
    heads, group = model.heads, model.heads / max(model.kv_heads, 1)
    d_ff = model.d_ff
    if model.experts:  # a token passes through some of the experts
        d_ff = (model.moe_d_ff or model.d_ff) * (model.experts_per_token or 1)
    return {
        "L": model.layers / 2 if model.kind == "encoder_decoder" else model.layers,
        "d": model.d,
        "d_q": heads * model.head_dim,
        "d_kv": model.kv_heads * model.head_dim,
        "d_head": model.head_dim,
        "n_heads": heads,
        "n_kv": model.kv_heads,
        "n_group": group,
        "d_ff": d_ff,
        "V": model.vocab,
        "V_rows": model.vocab * (1 if model.tied or model.kind in ("encoder", "vision") else 2),
        "N": model.parameters,
    }


Terms = tuple[tuple[float, int, int, int], ...]
"""Coefficient, number of the product of widths in ``_PRODUCTS``, power of ``b``, power of ``s``."""

_PRODUCTS: dict[tuple[str, ...], int] = {}
"""Every product of widths that some form names, numbered in order of appearance."""


def _numbered(factors: tuple[str, ...]) -> int:
    return _PRODUCTS.setdefault(factors, len(_PRODUCTS))


def settled(polynomials: Iterable[Polynomial], knobs: Mapping[str, float]) -> Terms:
    """The sum of ``polynomials`` with hyperparameters put in, in terms of widths, ``b`` and ``s``."""
    found: dict[tuple[int, int, int], float] = {}
    for polynomial in polynomials:
        for text, coefficient in polynomial.items():
            for factor, key in _expanded(text, knobs):
                found[key] = found.get(key, 0.0) + coefficient * factor
    return tuple((value, *key) for key, value in found.items() if value)


def _expanded(text: str, knobs: Mapping[str, float]) -> list[tuple[float, tuple[int, int, int]]]:
    """A monomial as terms: ``t`` becomes ``s`` + ``p``."""
    factor, batches, names = 1.0, 0, []
    lengths = [1.0]  # coefficients of powers of s
    for name in text.split("*") if text else ():
        if name == "b":
            batches += 1
        elif name == "s":
            lengths = [0.0, *lengths]
        elif name == "t":
            prompt = knobs.get("p", 0.0)
            lengths = [a + b for a, b in zip([0.0, *lengths], [prompt * one for one in lengths] + [0.0], strict=True)]
        elif name in knobs:
            factor *= knobs[name]
        else:
            names.append(name)
    if not batches and "V" in names and "d" in names:
        names[names.index("V")] = "V_rows"  # weights, of which there are two where embedding and head are apart
    product = _numbered(tuple(names))
    return [(factor * one, (product, batches, power)) for power, one in enumerate(lengths) if one]


class Values:
    """The values of products of widths for one model, computed when they are asked for."""

    def __init__(self, widths: Mapping[str, float]) -> None:
        self.widths = widths
        self._known: list[float] = []

    def _grow(self) -> None:
        for factors in list(_PRODUCTS)[len(self._known) :]:
            value = 1.0
            for name in factors:
                value *= self.widths[name]
            self._known.append(value)

    def powers(self, terms: Terms) -> dict[tuple[int, int], float]:
        """The value of ``terms`` as a polynomial in ``b`` and ``s``: powers with their coefficients."""
        if len(self._known) < len(_PRODUCTS):
            self._grow()
        known = self._known
        found: dict[tuple[int, int], float] = {}
        for coefficient, product, batches, length in terms:
            key = (batches, length)
            found[key] = found.get(key, 0.0) + coefficient * known[product]
        return found


@dataclass(frozen=True)
class Settled:
    """A form with its hyperparameters put in."""

    form: Form
    totals: tuple[Terms, ...]  # per instant, all parts
    parts: tuple[dict[str, Terms], ...]  # per instant
    gradients: Terms
    states: Terms
    spare: Terms
    flops: Terms
    flops_fp32: Terms
    moved: Terms
    kernels: Terms


def settle(form: Form, knobs: Mapping[str, float] | None = None) -> Settled:
    """``form`` with the hyperparameters that it advises, or those of ``knobs`` where given."""
    known = {**form.knobs, **(knobs or {})}
    return Settled(
        form=form,
        totals=tuple(settled(one.parts.values(), known) for one in form.instants),
        parts=tuple({name: settled((part,), known) for name, part in one.parts.items()} for one in form.instants),
        gradients=settled((form.gradients,), known),
        states=settled((form.states,), known),
        spare=settled((form.spare,), known),
        flops=settled((form.flops,), known),
        flops_fp32=settled((form.flops_fp32,), known),
        moved=settled((form.moved,), known),
        kernels=settled((form.kernels,), known),
    )


def at_length(powers: Powers, seq: int) -> tuple[float, float]:
    """A polynomial at one length: what stands still, and what each example adds."""
    standing = example = 0.0
    for (batches, length), value in powers.items():
        if batches:
            example += value * seq**length
        else:
            standing += value * seq**length
    return standing, example


_LETTERS = {
    "d": "hidden",
    "d_ff": "intermediate",
    "d_q": "queries",
    "d_kv": "keys",
    "V": "vocabulary",
    "n_heads": "heads",
    "n_kv": "key heads",
    "d_head": "head size",
    "r": "rank",
    "m": "bottleneck",
    "h": "inner width",
    "p": "prompt",
    "s": "tokens",
    "t": "tokens",
    "b": "examples",
}


def described(instant: Instant) -> tuple[str, ...]:
    """The instant's polynomials as a reader takes them in: one line per part, "per token and block: 10·hidden + …"."""
    lines = []
    for part in PARTS:
        groups: dict[str, list[tuple[float, str]]] = {}
        for text, coefficient in instant.parts.get(part, {}).items():
            names = text.split("*") if text else []
            token = "b" in names and ("s" in names or "t" in names)
            if token:
                names.remove("b")
                names.remove("t" if "t" in names else "s")
            where = [word for word, is_in in (("token", token), ("block", "L" in names)) if is_in]
            if "L" in names:
                names.remove("L")
            words = "·".join(_LETTERS.get(name, name) for name in names)
            groups.setdefault(f"per {' and '.join(where)}" if where else "once", []).append((coefficient, words))
        for each in ("per token and block", "per token", "per block", "once"):
            terms = sorted(groups.get(each, ()), key=lambda term: -abs(term[0]) * (100.0 if term[1] else 1.0))
            said = " + ".join(f"{value:g}·{words}" if words else f"{value:g}" for value, words in terms)
            if any(words for _, words in terms) or (terms and each.startswith("per token")):
                lines.append(f"{part}, {each}: {said.replace('+ -', '− ')} bytes")
    return tuple(lines)

"""Closed forms of memory and work: what ``kb/profiles/<slug>.json`` says, and its value for a model.

A form is the maximum of a few instants of a training step. Each instant says, for every part (weights, adapter, gradients,
optimizer, activations, logits, overhead), how many bytes are alive then, as a polynomial: ``{"L*b*d*s": 14, …}`` is 14 bytes for
each block, example, token and hidden unit. Names are those of ``kb.architecture.VARIABLES``, and

- ``b`` examples in a micro-batch, ``s`` tokens of each, ``p`` tokens of a soft prompt, ``t`` = ``s`` + ``p``;
- ``r`` rank, ``m`` width of a bottleneck, ``h`` hidden width of a reparameterisation network.

``L`` counts the blocks of one stack (an encoder-decoder's stacks are equally deep). A method whose blocks differ has letters for
each kind of block (``L_out``, ``L_fore`` …); a form gives the formulas of such letters. ``peft-atlas profile`` writes the files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json

from kb.architecture import Architecture
from kb.loader import KB

PROFILES = KB / "profiles"
MADE_BY = "peft-atlas profile"
BACKBONES = PROFILES / "backbones.json"
PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "overhead")

Polynomial = dict[str, float]
"""Monomials, factors joined by ``*`` and the constant as the empty text, with their coefficients."""

Implementation = Literal["ours", "peft"]
WHOSE: tuple[Implementation, ...] = get_args(Implementation)
"""Whose code there may be, ours first."""

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
    autocast: bool = Field(
        default=False,
        description="whether the forward pass was run under autocast to bf16, as training scripts do; only of PEFT's code",
    )
    unread: float = Field(description="share of all bytes whose size the widths do not explain; expressed in others")
    letters: dict[str, str] = Field(
        default={},
        description="letters that follow from the widths of a model and the hyperparameters, each with its formula",
    )

    def formulas(self, knobs: Mapping[str, float]) -> dict[str, str]:
        """``letters`` with the values of hyperparameters put in."""
        return {
            letter: re.sub(r"[A-Za-z_]\w*", lambda name: str(knobs.get(name[0], name[0])), formula)
            for letter, formula in self.letters.items()
        }


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
    autocast: bool = Field(description="whether the forward pass was run under autocast to bf16")
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
    alike: dict[str, str] = Field(description="families that compute what their shape does, with the shape")
    refused: dict[str, str] = Field(description="families that cannot be run, with the reason")


@lru_cache(maxsize=1)
def _backbones() -> Mapping[tuple[str, bool, bool], Mapping[str, Any]]:
    """Every family and shape that was compared, as yet unchecked, by the arguments of ``backbone``."""
    known: list[dict[str, Any]] = from_json(BACKBONES.read_bytes())["forms"] if BACKBONES.is_file() else []
    return {(one["family"], one["checkpointing"], one["autocast"]): one for one in known}


@lru_cache(maxsize=256)
def backbone(family: str, checkpointing: bool, autocast: bool) -> Backbone | None:
    """A family or a shape, by its key; ``None`` if it was not compared in that setting."""
    known = _backbones().get((family, checkpointing, autocast))
    return None if known is None else Backbone.model_validate(known)


WINDOWED = " windowed"
ALONE = " alone"
NORMED = " normed"


def backbone_key(model: Architecture) -> str:
    """The family of a model: what its blocks compute, whatever their sizes.

    With ``NORMED`` behind it: while the norms train, of which its blocks have more than their shape's.
    """
    return f"{model.model_type}{' gated' if model.gated else ''}"


def windowed_key(model: Architecture) -> str:
    """Its family on sequences that are longer than a window of attention, which then needs a mask.

    Keys and values that serve several queries are copied then. Where they serve one each, and come from one matrix with the
    queries, they keep all that this matrix gives.
    """
    alone = model.joins and model.kv_heads == model.heads
    return f"{backbone_key(model)}{ALONE if alone else ''}{WINDOWED}"


def profile(slug: str, folder: Path = PROFILES) -> Profile | None:
    """The whole profile of a method, read anew, or ``None`` if there is none."""
    path = folder / f"{slug}.json"
    return Profile.model_validate_json(path.read_bytes()) if path.is_file() else None


@lru_cache(maxsize=1024)
def forms(slug: str, shape: str, autocast: bool = False) -> tuple[Form, ...]:
    """The forms of a method for a family of models; ``autocast``: those of PEFT's code as it runs under autocast.

    Of the others nothing is kept: all are ten times as much as those that a process is asked for.
    """
    wanted = {"ours": False, "peft": autocast}
    known = (one for one in _content(slug)["forms"] if one["shape"] == shape)
    return tuple(
        Form.model_validate(one) for one in known if one.get("autocast", False) is wanted[one["implementation"]]
    )


def _content(slug: str) -> Mapping[str, Any]:
    """What the file of a method says, as yet unchecked; an empty profile, if there is none."""
    path = PROFILES / f"{slug}.json"
    content: Mapping[str, Any] = from_json(path.read_bytes()) if path.is_file() else {"forms": (), "refused": {}}
    return content


class Outline(NamedTuple):
    """What a method was run on: its profile without the forms."""

    shapes: frozenset[str]
    targets: tuple[str, ...]  # adapted layers, where they are not those of the record
    refused: Mapping[str, str]  # as in the profile


@lru_cache(maxsize=512)
def outline(slug: str) -> Outline:
    """What a method was run on; nothing, if it has no profile."""
    content = _content(slug)
    targets = {one["targets"] for one in content["forms"]}
    shapes = frozenset(one["shape"] for one in content["forms"])
    return Outline(shapes, tuple(sorted(targets - {""})), content["refused"])


def shape_of(model: Architecture) -> str:
    """The family whose forms describe ``model``."""
    if model.kind in ("decoder", "multimodal"):
        if model.joins:
            return "decoder_joined" if model.gated else "decoder_plain_joined"
        return "decoder" if model.gated else "decoder_rectified" if model.rectified else "decoder_plain"
    if model.kind == "encoder_decoder":
        return "encoder_decoder_gated" if model.gated else "encoder_decoder"
    return "encoder" if model.kind == "encoder" else "vision"


_LETTERS = {
    "d": "hidden",
    "d_ff": "intermediate",
    "d_q": "query width",
    "d_kv": "key width",
    "d_qkv": "joined width",
    "V": "vocabulary",
    "n_pos": "positions",
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


_BLOCKS = {
    "L": "block",
    "L_out": "pair of outer blocks",
    "L_in": "pair of inner blocks",
    "L_fore": "inner block of the first half",
    "L_aft": "inner block of the second half",
}
_GROUPS = (
    *(f"per token and {block}" for block in _BLOCKS.values()),
    "per token",
    *(f"per {block}" for block in _BLOCKS.values()),
    "once",
)
_NOTHING = 512  # bytes; a constant below the allocator's block is not worth a reader's time


def described(instant: Instant) -> tuple[str, ...]:
    """The instant's polynomials as a reader takes them in: one line per part, "per token and block: 10·hidden + …"."""
    lines = []
    for part in PARTS:
        groups: dict[str, list[tuple[list[str], float]]] = {}
        for text, coefficient in instant.parts.get(part, {}).items():
            group, names = _grouped(text.split("*") if text else [])
            if names or group.startswith("per token") or abs(coefficient) >= _NOTHING:
                groups.setdefault(group, []).append((names, coefficient))
        for group in _GROUPS:
            terms = sorted(groups.get(group, ()), key=lambda term: (-len(term[0]), -abs(term[1])))
            if terms:
                lines.append(f"{part}, {group}: {_summed(terms)} bytes")
    return tuple(lines)


def _grouped(names: list[str]) -> tuple[str, list[str]]:
    """What a monomial grows with first of all, and its other factors."""
    rest = list(names)
    token = next((name for name in ("t", "s") if name in rest and "b" in rest), None)
    if token is not None:
        rest.remove("b")
        rest.remove(token)
    block = next((name for name in rest if name in _BLOCKS), None)
    if block is not None:
        rest.remove(block)
    where = (["token"] if token is not None else []) + ([_BLOCKS[block]] if block is not None else [])
    return f"per {' and '.join(where)}" if where else "once", rest


def _summed(terms: Iterable[tuple[list[str], float]]) -> str:
    """Terms with their signs: ``12·hidden + 4·heads − 2``."""
    said = ""
    for names, value in terms:
        powers = Counter(_LETTERS.get(name, name) for name in names)
        words = "·".join(
            word if power == 1 else f"{word}{_POWERS.get(power, f'^{power}')}" for word, power in powers.items()
        )
        size = f"{abs(value):g}"
        term = size if not words else words if size == "1" else f"{size}·{words}"
        sign = "−" if value < 0 else "+"
        said += f" {sign} {term}" if said else term if value >= 0 else f"−{term}"
    return said


_POWERS = {2: "²", 3: "³"}

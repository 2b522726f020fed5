"""Names of tuned and repacked variants: the hub has hundreds of them for each model that the catalogue holds.

What a model was trained on, or how its weights are packed, changes none of its shapes. A name is understood where the words
that say so are all that parts it from a name of the catalogue, or from one that ``kb/variants.yaml`` lists with its count of
parameters; any other word (``VL``, ``Embedding``, ``Vision``) leaves it unknown, since it may name another shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from rapidfuzz import fuzz, process
from rapidfuzz.distance import Prefix

from kb.catalogue import ModelRecord, load_models, load_variants
from recommender.units import parse_count

_BASE = "base"  # says "not tuned" of a decoder, and is a size of all else
_TUNED = frozenset(
    {"instruct", "it", "chat", "pt", "hf", "sft", "dpo", "thinking", "abliterated", "uncensored", "meta"}
    | {"deduped", "bf16", "fp16", "f16", "fp32", "f32", "unsloth", "unquantized"}
)
_TALKING = frozenset({"instruct", "it", "chat", "think", "thinking", "sft", "dpo"})
_TALKER = re.compile(
    r"(?:qwen3|smollm3|phi-4)(?![0-9a-z])(?!.*base).*|qwq-.*|gpt-oss-.*|deepseek-r1-distill-.*|(?:vicuna|zephyr)-.*"
)
"""Releases that take turns though no word of their names says so; the model before is called ``-Base``, where it was published."""
_PACKED = frozenset(
    {"bnb", "awq", "gptq", "gguf", "ggml", "mlx", "onnx", "exl2", "exl3", "hqq", "aqlm", "fp8", "fp4", "nvfp4", "mxfp4"}
    | {"nf4", "int8", "int4", "w4a16", "w8a8", "w8a16", "quantized", "quant", "dynamic", "qat", "128g"}
    | {"imat", "imatrix", "autoround"}
    | {f"{bits}bit" for bits in range(2, 9)}
)
_LEVEL = re.compile(r"(?<![a-z0-9])(?:ud-)?i?q[1-8](?:_(?:k(?:_(?:xs|s|m|l|xl))?|xxs|xs|s|m|0|1))(?![a-z0-9])")
_APART = tuple(
    (re.compile(family), words)
    for family, words in (
        (
            r"qwen3\.[5-9]|qwen3-(?:coder-)?next|qwen4|kimi-linear",
            "most of its blocks have linear attention, which carries a state along, instead of attending",
        ),
        (r"gemma-?(?:3n|4)", "its blocks have heads of two sizes, or embeddings and keys that blocks share"),
        (r"deepseek-(?:v[2-9]|r1(?!-distill))|glm-5|kimi-k2", "it has multi-head latent attention"),
        (
            r"(?:falcon-)?mamba|codestral-mamba|falcon-h1|nemotron-(?:h|3)|jamba|zamba|lfm2",
            "it has layers that carry a state along",
        ),
    )
)
"""Families whose blocks are unlike all that closed forms were read from, and what they have."""
_BITS = re.compile(r"\b([2-8])-bits?\b")
_FURTHER = re.compile(r"[-_. ]fine-?tuned?\b.*")  # what follows says on which data
_DATE = re.compile(r"2[3-9](?:0[1-9]|1[0-2])|(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])")  # year and month, or month and day
_CONTEXT = re.compile(r"\d{1,4}k|1m")  # tokens
_SPLIT = re.compile(r"[^0-9a-z.]+|\.(?!\d)|(?<!\d)\.")
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_SIZE = re.compile(r"\d+(?:\.\d+)?[bm]")
_EXPERTS = re.compile(r"a\d+(?:\.\d+)?b|\d+x\d+(?:\.\d+)?b|\d+e|moe")
CONFIG = "config={…}"
"""How messages name the constraint that takes a ``config.json``; each interface says it in its own words."""
_MANY = 6  # models that one name may mean before the list helps nobody
_MISTYPED = 90  # of 100: a letter or two are wrong; below it lie other models


class Meaning(NamedTuple):
    """What the name of a model means."""

    id: str
    """The model of the catalogue that it names, or that has its shape."""
    repository: str
    """What scripts load: what was given, if it is a repository of plain weights, or else the catalogue's."""
    said: str | None
    """How the name was read, in a sentence or two; ``None`` for the catalogue's own."""


def conversational(name: str) -> bool:
    """Whether a name says that the model was tuned to take turns in a conversation."""
    return not _TALKING.isdisjoint(_words(name)) or _TALKER.fullmatch(name.lower().rpartition("/")[2]) is not None


def joined(name: str) -> str:
    """A name without what people write differently."""
    return re.sub(r"[^0-9a-z.]+", "", name.lower())  # the point tells OPT 1.3B from 13B


@lru_cache(maxsize=512)
def meaning(name: str) -> Meaning | None:
    """What ``name`` means: a model of the catalogue by its id, or a variant of one; ``None`` if that is not certain."""
    models, words = load_models(), _words(name)
    if name in models:
        return Meaning(name, models[name].hf_id, None)
    shapes = (_shapes().get("".join(reading)) for reading in _readings(words))
    found = next((id_ for id_ in shapes if id_ is not None), None)
    return None if found is None else _variant(name, models[found], next(_packing(name, words), None))


def _variant(name: str, model: ModelRecord, packed: str | None) -> Meaning:
    said = f"{name} is read as {model.name}: the same architecture."
    if packed is not None:
        further = f" Scripts load {model.hf_id}, since {packed} says that the weights are repacked."
        return Meaning(model.id, model.hf_id, said + further)
    if not _HUB.fullmatch(name):
        further = f" Scripts load {model.hf_id}; name a repository of the hub to load another."
        return Meaning(model.id, model.hf_id, said + further)
    return Meaning(model.id, name, said)


def models_like(name: str) -> tuple[str, ...]:
    """Up to ``_MANY`` models that ``name`` may mean: those that say more, or whose name it holds, or else resembling ones."""
    asked, models = set(_plain(_words(name))), load_models()
    meant = [id_ for id_, model in models.items() if asked and asked <= _said(model)]
    if 0 < len(meant) <= _MANY:
        return tuple(meant)
    held = sorted((id_ for id_ in models if joined(id_) in joined(name)), key=len)
    if held:
        return (held[-1],)
    word = "-".join(_plain(_words(name)))
    mistyped = process.extract(word, list(models), scorer=fuzz.ratio, limit=3, score_cutoff=_MISTYPED)
    return tuple(id_ for id_, _, _ in mistyped) or _siblings(name)


def _siblings(name: str) -> tuple[str, ...]:
    """Up to three models of the family and about the size that ``name`` says, the most alike in name and newest first."""
    word, size = "-".join(_plain(_words(name))), _size(name)
    family = re.match(r"[a-z]*", word)
    if not size or family is None or not family[0]:
        return ()
    letters, count = family[0], parse_count(size)
    near = [
        model
        for id_, model in load_models().items()
        if re.match(rf"{letters}(?![a-z])", id_) and 2 / 3 <= model.parameters.computed / count <= 3 / 2
    ]
    near.sort(key=lambda model: (-Prefix.similarity(word, model.id), -model.year, model.id))
    return tuple(model.id for model in near[:3])


def _size(name: str) -> str | None:
    """The number of parameters that stands in a name."""
    return next((word.upper() for word in _words(name) if _SIZE.fullmatch(word)), None)


def missing(name: str) -> str:
    """That a model is not known, and which it may be."""
    meant, asked = models_like(name), set(_plain(_words(name)))
    if len(meant) > 1 and all(asked <= _said(load_models()[each]) for each in meant):
        return f"{name!r} may mean {', '.join(meant[:-1])} or {meant[-1]}; say which"
    near = f"; did you mean {' or '.join(meant)}?" if meant else ""
    return f"there is no model {name!r} in the catalogue{near}"


def _apart(name: str) -> str | None:
    """What sets a family apart from all that is described here, in words; ``None`` of most."""
    last = name.lower().rpartition("/")[2]
    return next((words for family, words in _APART if family.match(last)), None)


def unknown(name: str) -> str:
    """``missing``, and what to give instead: a size, unless it is a mixture's, or a configuration, if it can be read."""
    said, size, apart = missing(name), _size(name), _apart(name)
    if apart is not None:
        dense = size is not None and not any(map(_EXPERTS.fullmatch, _words(name)))
        further = (
            f" Its size (params={size}) is answered for a dense decoder as large whose blocks all attend; its vocabulary is another, so logits take more or less."
            if dense
            else ""
        )
        ended = said if said.endswith("?") else f"{said}."
        return f"{ended} {name} itself is not predicted: {apart}.{further}"
    lead = "Or give" if said.endswith("?") else "For another model give" if said.endswith("which") else "Give"
    said = said if said.endswith("?") else f"{said}."
    if any(map(_EXPERTS.fullmatch, _words(name))):
        return f"{said} {lead} its config.json ({CONFIG})"
    return f"{said} {lead} its size ({f'params={size}' if size else 'as in params=7B'}) or its config.json ({CONFIG})"


def _words(name: str) -> tuple[str, ...]:
    """The words of the last part of a name, without what says how far it is packed."""
    last = _FURTHER.sub("", name.lower().rpartition("/")[2])
    return tuple(word for word in _SPLIT.split(_BITS.sub(r"\1bit", _LEVEL.sub(" ", last))) if word)


def _packing(name: str, words: Sequence[str]) -> Iterator[str]:
    """What says that weights are repacked."""
    if "unquantized" not in words:
        yield from (word for word in [*_SPLIT.split(name.lower()), *words] if word in _PACKED)
        yield from (found[0].upper() for found in _LEVEL.finditer(name.lower()))


def _plain(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word not in _TUNED and word not in _PACKED)


def _readings(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The words that may name a shape, the most of them first."""
    plain = _plain(words)
    undated = tuple(word for word in plain if not _DATE.fullmatch(word))
    for reading in (plain, undated, tuple(word for word in undated if not _CONTEXT.fullmatch(word))):
        yield reading
        yield tuple(word for word in reading if word != _BASE)


@lru_cache(maxsize=1)
def _shapes() -> Mapping[str, str]:
    """The catalogue's models by what their names say of their shape."""
    names = {id_: set(_named(model)) for id_, model in load_models().items()}
    for repository, id_ in load_variants().items():
        plain = _plain(_words(repository))
        names[id_] |= {"".join(plain), "".join(word for word in plain if word != _BASE)}
    return unique(names)


def _named(model: ModelRecord) -> Iterator[str]:
    for name in _names(model):
        plain = _plain(_words(name))
        yield from (joined(name), "".join(plain))
        if model.architecture.kind == "decoder":
            yield "".join(word for word in plain if word != _BASE)


def _names(model: ModelRecord) -> tuple[str, str, str]:
    return model.id, model.name, model.hf_id.rpartition("/")[2]


def _said(model: ModelRecord) -> set[str]:
    """Every word of the names of a model."""
    return {word for name in _names(model) for word in _words(name)}


def unique(names: Mapping[str, set[str]]) -> Mapping[str, str]:
    """Ids by name, without the names that several have."""
    owners: dict[str, list[str]] = {}
    for id_, said in names.items():
        for name in said:
            owners.setdefault(name, []).append(id_)
    return {name: ids[0] for name, ids in owners.items() if len(ids) == 1}

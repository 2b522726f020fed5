"""Models and cards by the names that people write: the catalogue's, the hub's, a maker's, in any case and spacing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from rapidfuzz import fuzz, process

from kb.catalogue import load_gpus, load_models
from recommender.variant import joined, unique

_LINES = frozenset({"nvidia", "geforce", "rtx", "gtx", "tesla", "amd", "instinct", "gpu"})
"""Words before a card's own name, with which nobody tells two cards apart."""
_ADDRESS = re.compile(r"(?:https?://)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")
_LINE = re.compile(r"\b(rtx|gtx)(?=\d)")
_SIZE = re.compile(r"(\d+) ?gb\b")
_ALIKE = 85  # of 100: two letters changed places, or one is wrong; below it lie other cards


def model_id(name: str) -> str:
    """The id of the model that ``name`` names: ``meta-llama/Llama-3.1-8B`` is ``llama-3.1-8b``; else ``name`` itself.

    Of an address on the hub the repository counts.
    A variant keeps its name, since scripts load it; ``recommender.variant`` says what it stands for.
    """
    plain = name.strip()
    address = _ADDRESS.match(plain)
    plain = address[1] if address else plain
    return plain if plain in load_models() else _models().get(joined(plain), plain)


def card_id(name: str) -> str:
    """The id of the card that ``name`` means: ``RTX 4090`` is ``rtx-4090``; else ``name`` itself."""
    return name if name in load_gpus() else _cards().get("".join(_words(name)), name)


def cards_like(name: str) -> str:
    """Which cards of the catalogue ``name`` may mean, in words: those that share its number; else what to give instead."""
    asked = {*_words(name)}
    shared = {id_: asked & {*_words(card.name), *_words(id_)} for id_, card in load_gpus().items()}
    alike = {id_: len(words) for id_, words in shared.items() if any(map(_telling, words))}
    nearest = [id_ for id_, count in alike.items() if count == max(alike.values())]
    if not alike:
        nearest = [
            id_ for id_, _, _ in process.extract(name, list(shared), scorer=fuzz.ratio, limit=3, score_cutoff=_ALIKE)
        ]
    if not nearest:
        return "; give its memory instead, as in gpu_mem=12GB"
    return f"; did you mean {' or '.join(nearest)}? For another card give its memory, as in gpu_mem=12GB"


def _telling(word: str) -> bool:
    """Whether a word has a number that names a card, and is no size."""
    return any(map(str.isdigit, word)) and not _SIZE.fullmatch(word)


def _words(name: str) -> list[str]:
    apart = _LINE.sub(r"\1 ", re.sub(r"[^0-9a-z]+", " ", name.lower()))
    plain = _SIZE.sub(r"\1gb", apart)
    return [word for word in plain.split() if word not in _LINES]


@lru_cache(maxsize=1)
def _models() -> Mapping[str, str]:
    names = {
        id_: {joined(each) for each in (id_, model.name, model.hf_id, model.hf_id.rpartition("/")[2])}
        for id_, model in load_models().items()
    }
    return unique(names)


@lru_cache(maxsize=1)
def _cards() -> Mapping[str, str]:
    return unique({id_: {"".join(_words(each)) for each in (id_, card.name)} for id_, card in load_gpus().items()})

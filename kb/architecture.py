"""Architectures: the uniform description of a transformer that counts, memory and time are computed from.

`from_config` reads a Hugging Face `config.json`; `representative` gives a decoder of a wanted size. No torch needed.
"""

from __future__ import annotations

from collections.abc import Mapping

from kb._config import Reader
from kb._decoders import DECODERS
from kb._encoders import ENCODERS
from kb._representative import NOMINAL, representative
from kb._shape import OPENED, VARIABLES, Architecture, Extra, Linear, Norm, Tower
from kb._sighted import SIGHTED

__all__ = [
    "FAMILIES",
    "NOMINAL",
    "OPENED",
    "VARIABLES",
    "Architecture",
    "Extra",
    "Linear",
    "Norm",
    "Tower",
    "from_config",
    "representative",
]

FAMILIES: tuple[str, ...] = tuple(sorted(filter(None, {*DECODERS, *ENCODERS, *SIGHTED})))
"""The values of `model_type` whose parameters are counted exactly."""


def from_config(config: Mapping[str, object]) -> Architecture:
    """Read a Hugging Face configuration.

    A `model_type` that is not in `FAMILIES` is read like Llama where its keys allow, and a note says so. Raises
    `ValueError`, naming the key and what was expected, when a size is missing or no size, or when the model is not
    made of softmax attention and feed-forward blocks.
    """
    reader = Reader(config)
    apart = ENCODERS.get(reader.model_type) or SIGHTED.get(reader.model_type)
    if apart is not None:
        return apart(reader)
    if reader.model_type not in DECODERS and isinstance(config.get("text_config"), Mapping):
        return from_config({"model_type": reader.model_type, **reader.part("text_config").config})
    return DECODERS.get(reader.model_type, DECODERS[""])(reader)

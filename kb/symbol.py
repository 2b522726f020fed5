"""How a library is told which method it should run: the ``symbol`` of a record's library entry, read."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from kb.loader import KB
from kb.schema import Library, Method

PEFT_FIELDS = KB / "peft_fields.json"
"""Fields of the classes of Hugging Face PEFT that records name, written by ``python -m profiler.peft_fields``."""

WORDS = {
    "rank": ("r",),
    "alpha": ("lora_alpha", "alpha"),
    "prompt_length": ("num_virtual_tokens",),
    "prefix_length": ("num_virtual_tokens",),
    "block_size": ("oft_block_size", "boft_block_size"),
    "factors": ("boft_n_butterfly_factor",),
    "coefficients": ("n_frequency",),
    "factor": ("decompose_factor",),
    "init_rank": ("init_r",),
    "target_rank": ("target_r",),
}
"""PEFT's words for our hyperparameters, in the order in which a configuration class is asked for them."""


def shipped(method: Method, library: str) -> Library | None:
    """The entry of a library in a record that says how to call the method there, or ``None``."""
    return next((each for each in method.code.libraries if each.name == library and each.symbol), None)


@lru_cache(maxsize=512)
def call(symbol: str | None) -> tuple[str, dict[str, object]] | None:
    """``LoraConfig(use_dora=True)`` as name and arguments; ``None`` for what is not of that form."""
    try:
        node = ast.parse(symbol or "", mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return node.func.id, {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
    except (SyntaxError, ValueError):
        pass
    return None


class Attaching(NamedTuple):
    """How PEFT is told of a method."""

    kind: str  # configuration class
    arguments: dict[str, object]
    optimizer: str | None  # function of ``peft.optimizers``, where the method is an optimizer for LoRA


_OPTIMIZER = re.compile(r"peft\.optimizers\.(create_\w+_optimizer)")
_ON_QUANTISED = re.compile(r"(\w+Config) on a base loaded with BitsAndBytesConfig\(load_in_4bit=True\)")


@lru_cache(maxsize=512)
def attaching(symbol: str | None) -> Attaching | None:
    """What the symbol of PEFT's entry says; ``None`` if that is not the call of a class."""
    if found := _OPTIMIZER.fullmatch(symbol or ""):
        return Attaching("LoraConfig", {}, found[1])
    found = _ON_QUANTISED.fullmatch(symbol or "")
    named = (found[1], {}) if found else call(symbol)
    return None if named is None else Attaching(*named, None)


def advised(method: Method) -> dict[str, object]:
    """The values of hyperparameters that the record advises, whole numbers as such."""
    found: dict[str, object] = {}
    for knob in method.mechanism.hyperparameters:
        value = knob.ours
        if value is not None and not isinstance(value, str):
            found[knob.name] = int(value) if isinstance(value, float) and value.is_integer() else value
    return found


def arguments(given: Mapping[str, object], advice: Mapping[str, object], fields: frozenset[str]) -> dict[str, object]:
    """The arguments of a PEFT class with ``fields``: those of the symbol, and our advice where it has a field for it."""
    values = dict(given)
    for name, value in advice.items():
        word = next((word for word in (*WORDS.get(name, ()), name) if word in fields), None)
        if word is not None:
            values.setdefault(word, value)
    return values


@lru_cache(maxsize=1)
def peft_fields() -> Mapping[str, frozenset[str]]:
    """The fields of each class of PEFT that a record names."""
    content: dict[str, Any] = json.loads(PEFT_FIELDS.read_text(encoding="utf-8"))
    return MappingProxyType({name: frozenset(fields) for name, fields in content["classes"].items()})

"""Why code does not run on a model, for people who choose a method.

What ``kb/families.json`` and the profiles keep are the errors that implementations raised, in the words of whoever mends
them: patterns of names, and classes. Here each kind of error is one plain clause about the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kb.architecture import Architecture

_JOINED = ("qkv_proj", "query_key_value", "Wqkv")
_WHOSE = " does not run on such a model: "
"""Stands between whose code an error is of and the error, where a dry run had to tell."""
_BLOCKS = (("QUERY", "q_proj|query"), ("FFN", "up_proj|"), ("FFN", "down_proj|"))
"""Places in a block, each with the beginning of the names by which implementations know it."""


def worded(error: str, model: Architecture) -> str:
    """An error of an implementation as a clause about ``model``; the error itself where its kind is not known."""
    raised = error.partition(_WHOSE)[2] or error
    for pattern, clause in _CLAUSES:
        found = pattern.fullmatch(raised)
        if found is not None:
            return clause if isinstance(clause, str) else clause(found, model)
    return error


def _lacking(found: re.Match[str], model: Architecture) -> str:
    """No layer at a place of the block: what a method works on, and what is there instead."""
    sought, there = found[1], found[2] or ""
    place = next((name for name, names in _BLOCKS if names in sought), None)
    if place == "QUERY":
        if any(name in there for name in _JOINED):
            return "it works on queries alone, which this model computes in one matrix with keys and values"
        return "it works on the matrix of the queries, and this model has none of a known name"
    if place == "FFN" and model.experts:
        return "it works on the feed-forward layers, which in this model are experts fused into one tensor"
    what = "the feed-forward layers" if place == "FFN" else "linear layers"
    return f"it works on {what}, and this model has none of a known name"


def _narrowed(found: re.Match[str], model: Architecture) -> str:
    """A layer of which the side network has no narrow copy."""
    copies = "its side network is a narrow copy of every block, and"
    if found[1].endswith(_JOINED):
        return f"{copies} this model computes queries, keys and values in one matrix, which has no narrow copy yet"
    if model.experts:
        return f"{copies} this model has a router and experts fused into one tensor, which have no narrow copy"
    return f"{copies} this model has layers of which there is no narrow copy"


def _unbiased(_: re.Match[str], model: Architecture) -> str:
    """No bias to train, in this model or in that whose runs stand for it."""
    whose = "the model that stands for its kind" if model.biased else "this model"
    return f"it trains the biases of linear layers, and {whose} has none"


_CACHE = "a prefix comes in with the cached keys and values,"
_KINDS: tuple[tuple[str, str | Callable[[re.Match[str], Architecture], str]], ...] = (
    (r"no \w+ layer matches '(.*?)(?:'; this model has (.*))?", _lacking),
    (r"(\S+) (?:is no linear layer|has no known place in a block), so it cannot be narrowed", _narrowed),
    (r"\w+ has no bias in a layer that matches .*", _unbiased),
    (
        r"\w+ has no attention module named .*",
        f"{_CACHE} and this model's attention has no name under which it is known",
    ),
    (r"\w+ reads no cache, so a prefix has no way in", f"{_CACHE} and this model's attention reads none"),
    (
        r"\w+ has no key projection, so it cannot take a prefix",
        f"{_CACHE} which this model computes in one matrix with the queries",
    ),
    (
        r"\w+ has no norm of a known name beside its feed-forward networks",
        "it stands between a feed-forward network and the norm beside it, and this model has no such norm of a known name",
    ),
    (
        r"\w+ at \S+: normalised or scaled queries, sinks and cross-attention are not provided for",
        "it does not provide for attention with normalised or scaled queries or with sinks, as this model has it",
    ),
    (
        r"\w+ has no attention with projections of known names to put prompts into",
        "it puts prompts into attention, and this model's has no projections of known names",
    ),
    (r"\w+ has no self-attention under the usual names", "this model's blocks have no self-attention of a known name"),
    (
        r"\w+ scales or turns its queries in a way that is not provided for",
        "it does not provide for the way in which this model's attention scales or turns its queries",
    ),
    (
        r"the encoder of \w+ has no norm behind its blocks, where the side hands over",
        "its side network hands over at the norm behind the blocks, and this model's encoder has none",
    ),
    (
        r"\d+ matrices and \d+ heads do not make whole attention layers",
        "it finds no whole attention layers in this model",
    ),
    (
        r"OPT joins rows and tokens in front of its feed-forward networks, .*",
        "its gate wants examples apart in front of feed-forward networks, and the model that stands for this kind joins them",
    ),
    (
        r"its layers are not uniform: .*",
        "its layers differ from one another, so no formula holds for models of any depth",
    ),
    (r"took longer than \d+ seconds at the labelled widths", "the runs that would tell took too long"),
    (r"\w+ \(\w+\) reads values, which a dry run does not have: .*", "its code reads values, and a dry run has none"),
    (
        r"PREFIX_TUNING does not work with gradient checkpointing\.",
        "PEFT does not recompute activations under a prefix",
    ),
    (
        r"Please specify `target_modules` in `peft_config`",
        "PEFT does not know by itself which layers of such a model to adapt",
    ),
    (r"Please specify `token_dim` in `peft_config`", "PEFT does not find the width of such a model"),
    (r"Unsupported model type for adaption prompt: .*", "PEFT's code of it takes no models of this type"),
    (r"Target module .*Conv1D.*", "PEFT's code of it does not take this model's kind of linear layer, Conv1D"),
    (
        r"the feed-forward networks of \w+ are experts, which see no whole sequence",
        "it stands beside feed-forward networks, and this model's are experts, which see no whole sequence",
    ),
    (
        r"\S+ normalises \d+ numbers instead of \d+: unknown block",
        "its side network is a narrow copy of every block, and this model's norms of queries and keys have no narrow copy yet",
    ),
    (r"'\w+Experts' object has no attribute 'weight'", "PEFT's code of it fails on experts fused into one tensor"),
    (
        r"Cannot convert PEFT target\(s\) .*",
        "PEFT adapts the first matrix of this model's experts only together with their gate",
    ),
    (
        r"'\w+' object has no attribute 'prepare_inputs_for_generation'",
        "PEFT's code of it takes models that generate text alone",
    ),
    (r"'Params4bit' object has no attribute .*", "its code asks of packed weights what a dry run does not have"),
    (r"transformers has no \w+ for the model_type .*", "no dry run is made of models of this kind"),
    *(
        (error, "PEFT's code of it fails on such a model")
        for error in (
            r"mat1 and mat2 shapes cannot be multiplied .*",
            r"'NoneType' object is not callable",
            r"'tuple' object has no attribute 'dtype'",
            r"shape '.*' is invalid for input of size \d+",
        )
    ),
)
_CLAUSES = tuple((re.compile(pattern), clause) for pattern, clause in _KINDS)

"""The form of constraints: its fields, with what was given and what was wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, get_args

from pydantic import Field

from kb.catalogue import load_gpus, load_models
from recommender import Constraints
from recommender.units import show_count
from recommender.variant import CONFIG
from taxonomy import build
from web.problems import FieldError
from web.views.base import View
from web.views.wording import ESTIMATE, FIELDS, Wording, alone

Kind = Literal["text", "number", "select", "list"]


class Option(View):
    """A value to choose."""

    value: str = Field(description="the value in the address")
    label: str = Field(description="the value for people")


class FormField(View):
    """One field of the form."""

    name: str = Field(description="parameter")
    label: str = Field(description="name for people")
    kind: Kind = Field(description="how it is entered")
    value: str = Field(description="what was given, or the default")
    default: str = Field(description="what holds if nothing is given; empty for nothing")
    placeholder: str = Field(description="an example")
    help: str = Field(description="what it means")
    options: tuple[Option, ...] = Field(description="values to choose; suggestions for a list")
    error: str | None = Field(description="what is wrong with the value, or null")


class FormError(View):
    """Something that is wrong, for the list above the form."""

    parameter: str = Field(description="name of the parameter")
    message: str = Field(description="what is wrong with it")
    label: str | None = Field(description="name of its field for people, or null if the form has none of this name")


class Form(View):
    """The fields in two groups, and what is wrong outside of them."""

    action: str = Field(description="address that it leads to")
    main: tuple[FormField, ...] = Field(description="fields that everyone needs")
    more: tuple[FormField, ...] = Field(description="further fields")
    more_open: bool = Field(description="whether a further field was given or is wrong")
    errors: tuple[FormError, ...] = Field(description="everything that is wrong")


MAIN = ("gpu_mem", "gpu", "params", "model", "task", "objective")
MORE = (
    "seq", "batch", "gpus", "quantization", "checkpointing", "optimizer", "head_chunks", "implementation",
    "autocast", "targets", "data", "epochs", "merge", "adapters", "backprop", "budget", "forgetting", "latency",
    "library", "family", "why", "limit",
)  # fmt: skip
ESTIMATE_MAIN = ("method", "model", "params", "gpu", "gpu_mem", "seq", "batch")
ESTIMATE_MORE = (
    "quantization", "checkpointing", "rank", "targets", "implementation", "autocast", "optimizer", "head_chunks", "gpus",
    "data", "epochs",
)  # fmt: skip
_KNOB = re.compile(r"\b([a-z_]+)=([^\s;,)]+)")
_SWITCHED = {"true": "on", "false": "off"}  # other words that switches take


def form(
    action: str,
    main: Iterable[str],
    more: Iterable[str],
    given: Mapping[str, Any],
    errors: tuple[FieldError, ...] = (),
) -> Form:
    """The form with the values that were given and the messages beside their fields."""
    wording = ESTIMATE if action.startswith(("/estimate", "/methods/")) else FIELDS
    errors = tuple(each.model_copy(update={"message": spoken(each.message, wording)}) for each in errors)
    wrong = {error.parameter: error.message for error in errors}
    further = tuple(_field(name, wording[name], given, wrong) for name in more)
    first = tuple(_field(name, wording[name], given, wrong) for name in main)
    labels = {field.name: alone(field.label) for field in (*first, *further)}
    opened = any(field.name in given or field.error for field in further)
    return Form(
        action=action,
        main=first,
        more=further,
        more_open=opened,
        errors=tuple(
            FormError(parameter=each.parameter, message=each.message, label=labels.get(each.parameter))
            for each in errors
        ),
    )


def spoken(message: str, wording: Mapping[str, Wording]) -> str:
    """``params=9B``, as a query string says it, in the words of the form."""
    message = message.replace(CONFIG, "by the command line or the API")
    return _KNOB.sub(
        lambda each: f"{alone(wording[each[1]].label)}: {each[2]}" if each[1] in wording else each[0], message
    )


def _field(name: str, wording: Wording, given: Mapping[str, Any], wrong: Mapping[str, str]) -> FormField:
    described = Constraints.model_fields.get(name)
    default = "" if described is None or described.default is None else str(described.default)
    examples = described.examples if described is not None and described.examples else [""]
    kind, options = _choices(name, wording is ESTIMATE.get(name))
    value = given.get(name, default)
    if name in ("checkpointing", "autocast"):
        value = _SWITCHED.get(value, value)
    return FormField(
        name=name,
        label=wording.label,
        kind=kind,
        value=str(value),
        default=default,
        placeholder=str(examples[0]),
        help=wording.help,
        options=options,
        error=wrong.get(name),
    )


@lru_cache(maxsize=64)
def _choices(name: str, estimating: bool) -> tuple[Kind, tuple[Option, ...]]:
    """How a field is entered and what can be chosen in it; ``estimating``: in the words of an estimate."""
    if name in ("method", "why"):
        return "list", tuple(Option(value=slug, label=each.name) for slug, each in build().methods.items())
    if name == "model":
        models = sorted(load_models().values(), key=lambda each: each.name.casefold())
        return "list", tuple(
            Option(value=each.id, label=f"{each.name}, {show_count(each.parameters.computed)}") for each in models
        )
    if name == "gpu":
        cards = sorted(load_gpus().values(), key=lambda each: each.name.casefold())
        return "list", tuple(Option(value=each.id, label=f"{each.name}, {each.memory_gb} GB") for each in cards)
    if name == "library":
        found = {library.name for method in build().methods.values() for library in method.code.libraries}
        return "select", (Option(value="", label="any"), *(Option(value=each, label=each) for each in sorted(found)))
    if name == "family":
        classes = tuple(Option(value=each.id, label=each.name) for each in build().classes.values())
        return "select", (Option(value="", label="any"), *classes)
    annotation = Constraints.model_fields[name].annotation
    words = get_args(annotation)
    if words and all(isinstance(word, str) for word in words):
        said = (ESTIMATE if estimating else FIELDS)[name].choices
        return "select", tuple(Option(value=word, label=said.get(word, word)) for word in words)
    return ("number" if annotation in (int, int | None) else "text"), ()


PRESETS: tuple[tuple[str, str], ...] = (
    ("My laptop: 1B on 8 GB", "/recommend?gpu_mem=8GB&params=1B"),
    ("7B on one 24 GB card", "/recommend?gpu_mem=24GB&params=7B"),
    ("RTX 4090: Llama 3.1 8B, long inputs", "/recommend?gpu=rtx-4090&model=llama-3.1-8b&seq=4096"),
    ("One H100: Qwen2.5 32B", "/recommend?gpu=h100-sxm5-80gb&model=qwen2.5-32b"),
    ("8 × H100: Llama 3.3 70B", "/recommend?gpu=h100-sxm5-80gb&gpus=8&model=llama-3.3-70b-instruct"),
    ("3B on 12 GB, 500 examples", "/recommend?gpu_mem=12GB&params=3B&data=500"),
    ("200 tasks from one 8B model", "/recommend?gpu_mem=48GB&model=llama-3.1-8b&adapters=200&objective=serving"),
)
"""Situations to start from."""

"""The survey's table of trainable parameters, counted twice: by the records' formulas, and by attaching our code.

The figures are those of the authors of arXiv:2303.15647, as their experiment code (github.com/Guitaricet/peft_comparison)
reports them for T5-large, T5-3B and T5-11B, some rounded: a count equals a figure when it prints like it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from kb.architecture import Architecture
from kb.catalogue import load_model
from kb.expression import evaluate
from kb.records import load_methods
from reference_impls import (
    compacter,
    compacter_plus_plus,
    houlsby_adapter,
    ia3,
    krona,
    ln_tuning,
    lora,
    mam_adapter,
    pfeiffer_adapter,
    prefix_tuning,
    scaled_parallel_adapter,
    unipelt,
)
from reference_impls._site import LINEAR

MODELS = ("t5-large", "t5-3b", "t5-11b")
_UNITS = {"M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class Row:
    """One method of the table, with the setting that the authors used.

    ``symbols`` are values for the record's formula, ``sites`` replaces the layers that the record names. Both may depend
    on the architecture, as ``attach`` may. ``definition`` says in what the authors' definition is another one.
    """

    name: str
    slug: str
    figures: tuple[str | None, str | None, str | None]
    attach: Callable[[nn.Module, Architecture], nn.Module]
    symbols: Callable[[Architecture], Mapping[str, int]] = field(default=lambda shape: {})
    sites: tuple[str, ...] = ()
    definition: str | None = None
    note: str | None = None

    def figure(self, model: str) -> str | None:
        """What the authors report for ``model``."""
        return self.figures[MODELS.index(model)]


def near_square(number: int) -> tuple[int, int]:
    """The two factors of ``number`` that differ least, the smaller first: what LoKr takes where no factor is given."""
    small = next(each for each in range(math.isqrt(number), 0, -1) if number % each == 0)
    return small, number // small


def krona_shape(shape: Architecture) -> dict[str, int]:
    """The shape of the Kronecker product's first factor for the query and value projections."""
    variables = shape.variables()
    return {"a1": near_square(variables["d_q"])[0], "a2": near_square(variables["d"])[0]}


def _same(figure: str) -> tuple[str, str, str]:
    return (figure, figure, figure)


LEARNED_SCALE = (
    "The authors learn the scale of each branch, one number per block (48), which the printed digits do not show."
)
ROWS = (
    Row(
        "Houlsby",
        "houlsby_adapter",
        _same("12.687M"),
        lambda model, shape: houlsby_adapter.attach(model, houlsby_adapter.Config(bottleneck=shape.d // 16)),
        lambda shape: {"m": shape.d // 16},
    ),
    Row(
        "Pfeiffer",
        "pfeiffer_adapter",
        _same("6.344M"),
        lambda model, shape: pfeiffer_adapter.attach(model, pfeiffer_adapter.Config(reduction=16)),
        lambda shape: {"rho": 16},
    ),
    Row(
        "Scaled parallel",
        "scaled_parallel_adapter",
        _same("50.405M"),
        lambda model, shape: scaled_parallel_adapter.attach(model, scaled_parallel_adapter.Config(shape.d // 2)),
        lambda shape: {"m": shape.d // 2},
        note=LEARNED_SCALE,
    ),
    Row("LN tuning", "ln_tuning", _same("124,928"), lambda model, shape: ln_tuning.attach(model)),
    Row(
        "LoRA q,v",
        "lora",
        ("2.359M", "5.898M", "20.054M"),
        lambda model, shape: lora.attach(model, lora.Config(rank=8)),
        lambda shape: {"r": 8},
    ),
    Row(
        "LoRA all",
        "lora",
        ("8.651M", "25.166M", "91.226M"),
        lambda model, shape: lora.attach(model, lora.Config(rank=8, target=LINEAR)),
        lambda shape: {"r": 8},
        sites=("all_linear",),
    ),
    Row(
        "KronA",
        "krona",
        ("221,184", "405,504", "774,144"),
        lambda model, shape: krona.attach(model, krona.Config(**krona_shape(shape))),
        krona_shape,
        definition=(
            "The authors ran peft's LoKr with rank 8, which writes the second factor B (b1 × b2) as a product of rank 8; "
            "KronA trains B whole. Per matrix that is b1·b2 − 8·(b1 + b2) more, over 144 matrices; peft's LoKrConfig(r=8) "
            "itself gives their three figures, as a test shows."
        ),
    ),
    Row(
        "Compacter",
        "compacter",
        _same("304,192"),
        lambda model, shape: compacter.attach(model),
        lambda shape: {"rho": 32, "n": 4, "r": 1},
    ),
    Row(
        "Compacter++",
        "compacter_plus_plus",
        _same("152,128"),
        lambda model, shape: compacter_plus_plus.attach(model),
        lambda shape: {"rho": 32, "n": 4, "r": 1},
    ),
    Row("(IA)³", "ia3", ("344,064", "1.376M", "5.505M"), lambda model, shape: ia3.attach(model)),
    Row(
        "MAM",
        "mam_adapter",
        ("171.07M", "525.4M", None),
        lambda model, shape: mam_adapter.attach(model, mam_adapter.Config(30, hidden=800, bottleneck=shape.d // 2)),
        lambda shape: {"p": 30, "h": 800, "m": shape.d // 2},
        note=f"{LEARNED_SCALE} No figure for T5-11B.",
    ),
    Row(
        "Prefix (MLP)",
        "prefix_tuning",
        ("77.31M", "304.2M", "1.212B"),
        lambda model, shape: prefix_tuning.attach(model, prefix_tuning.Config(30, hidden=512)),
        lambda shape: {"p": 30, "h": 512},
    ),
    Row(
        "Prefix flat",
        "prefix_tuning",
        ("4.424M", "17.695M", "70.779M"),
        lambda model, shape: prefix_tuning.attach(model, prefix_tuning.Config(30, hidden=None)),
        lambda shape: {"p": 30},
        note="By the record's formula for what is stored: without a network that is also what trains.",
    ),
    Row(
        "UniPELT",
        "unipelt",
        ("86.22M", "316.7M", "1.239B"),
        lambda model, shape: unipelt.attach(model, unipelt.Config(8, 10, bottleneck=shape.d // 16, hidden=512)),
        lambda shape: {"r": 8, "p": 10, "m": shape.d // 16, "h": 512},
    ),
)

STEPS = len(ROWS) * len(MODELS)


def printed(count: int, like: str) -> str:
    """``count`` as it prints in the unit and with the decimals of ``like``."""
    if like[-1] not in _UNITS:
        return f"{count:,}"
    decimals = len(like[:-1].partition(".")[2])
    return f"{count / _UNITS[like[-1]]:.{decimals}f}{like[-1]}"


def by_formula(row: Row, model: str) -> int:
    """The count by the record's expression, summed over the linear layers where it is one per layer."""
    record, shape = load_methods()[row.slug], load_model(model).architecture
    count = record.counts.stored if row.name == "Prefix flat" else record.counts.trainable
    if count.expr is None:
        raise ValueError(f"the record {row.slug!r} has no formula for {row.name}")
    known: dict[str, int | float] = {**shape.variables(), **row.symbols(shape)}
    if count.scope == "model":
        return int(evaluate(count.expr, known))
    where = set(row.sites or record.mechanism.where)
    where |= {f"cross_{site}" for site in where}
    return sum(
        linear.count * int(evaluate(count.expr, {**known, "d_in": linear.d_in, "d_out": linear.d_out}))
        for linear in shape.linears()
        if linear.in_block and (linear.site in where or "all_linear" in where)
    )


@cache
def _config(model: str) -> T5Config:
    return T5Config(**{key: value for key, value in load_model(model).config.items() if key != "model_type"})


def built(model: str) -> nn.Module:
    """The model on torch's meta device: shapes without values."""
    with torch.device("meta"):
        return T5ForConditionalGeneration(_config(model))


def trainable(model: nn.Module) -> int:
    """Numbers that train."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def by_attaching(row: Row, model: str) -> int:
    """The count of what trains after our implementation was attached to the model that transformers builds."""
    with torch.device("meta"):
        return trainable(row.attach(built(model), load_model(model).architecture))


def compared(row: Row, model: str) -> dict[str, Any]:
    """One cell of the table: the authors' figure beside both counts."""
    formula, attached, figure = by_formula(row, model), by_attaching(row, model), row.figure(model)
    return {
        "method": row.name,
        "slug": row.slug,
        "model": model,
        "authors": figure,
        "formula": formula,
        "attached": attached,
        "equal": None if figure is None else formula == attached and printed(formula, figure) == figure,
        "definition": row.definition,
        "note": row.note,
    }


def measure(advance: Callable[[str], None]) -> dict[str, Any]:
    """Every cell, one after the other."""
    cells = []
    for row in ROWS:
        for model in MODELS:
            cells.append(compared(row, model))
            advance(f"{row.name}, {model}")
    return {"cells": cells}

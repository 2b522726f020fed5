"""Closed forms held against dry runs on models that no form was read from, as ``/benchmarks`` shows it."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from pydantic import Field

from kb.loader import KB
from kb.records import load_methods
from web.views.base import View

FILE = KB / "validation" / "closed_form.json"
ASKED = "median at most 1 %, all within 5 %, of allocated bytes"
_MEDIAN, _WORST = 0.01, 0.05


class FormCase(View):
    """A method in one setting on one model."""

    slug: str = Field(description="the method")
    name: str = Field(description="its name")
    implementation: str = Field(description="whose code was run: ours or peft")
    model: str = Field(description="model of the catalogue")
    setting: str = Field(description="storage, checkpointing, autocast, examples and tokens, in words")
    allocated: float = Field(description="relative error of the peak of allocated bytes")
    reserved: float = Field(description="relative error of the peak of reserved bytes")


class Spread(View):
    """The errors of one quantity."""

    median: float = Field(description="median of the absolute relative errors")
    within: int = Field(description="cases within 5 %")
    worst: float = Field(description="the largest")


class FormErrors(View):
    """All cases, the largest errors first."""

    generator: str = Field(description="the command that made these figures")
    asked: str = Field(description="the target in words")
    met: bool = Field(description="whether it was reached by the cases that there are")
    methods: int = Field(description="how many methods were compared")
    allocated: Spread
    reserved: Spread
    rows: tuple[FormCase, ...]


def form_errors() -> FormErrors:
    """The committed comparison; cases that the dry run refused are left out."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    rows = [_case(key, row) for key, row in found["rows"].items() if "allocated" in row]
    rows.sort(key=lambda row: -abs(row.allocated))
    allocated, reserved = _spread([row.allocated for row in rows]), _spread([row.reserved for row in rows])
    return FormErrors(
        generator=found["made_by"],
        asked=ASKED,
        met=allocated.median <= _MEDIAN and allocated.worst <= _WORST,
        methods=len({row.slug for row in rows}),
        allocated=allocated,
        reserved=reserved,
        rows=tuple(rows),
    )


def _case(key: str, row: dict[str, Any]) -> FormCase:
    slug, implementation, model, storage, checkpointing, *cast = key.split("/")
    recomputed = "".join((", checkpointing" if checkpointing == "1" else "", ", autocast" if cast else ""))
    known = load_methods()
    return FormCase(
        slug=slug,
        name=known[slug].name if slug in known else slug,
        implementation=implementation,
        model=model,
        setting=f"{storage}{recomputed}, {row['batch']} × {row['seq']} tokens",
        allocated=row["allocated"][0] / row["allocated"][1] - 1,
        reserved=row["reserved"][0] / row["reserved"][1] - 1,
    )


def _spread(errors: list[float]) -> Spread:
    sizes = [abs(error) for error in errors]
    return Spread(median=median(sizes), within=sum(size <= _WORST for size in sizes), worst=max(sizes))

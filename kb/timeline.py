"""The course of one training step: what is alive when, sampled from a dry run (``kb/timelines/<slug>.json``).

``peft-atlas profile`` writes the files, one for each method that runs, all on the same model and settings;
``peft-atlas estimate … --exact --plot`` draws one of any model.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kb.closed_form import Implementation
from kb.loader import KB

TIMELINES = KB / "timelines"
MEBIBYTE = 1 << 20

Phase = Literal["forward", "head", "head backward", "backward", "optimizer"]


class Timeline(BaseModel):
    """Live memory by part over one step. Samples follow the kernels, not the clock."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_by: str = Field(description="the command that writes the file")
    fingerprint: str = Field(description="of the implementation: tells whether the file is current")
    slug: str = Field(description="the method")
    implementation: Implementation = Field(description="whose code was run")
    model: str = Field(description="model of the catalogue, or what was run instead")
    settings: str = Field(description="how it was trained, in words")
    phases: tuple[tuple[Phase, int], ...] = Field(description="phases of the step, each with its first sample")
    mebibytes: dict[str, tuple[int, ...]] = Field(description="per part, what is alive at each sample, in MiB")
    peak: int = Field(description="the sample with the peak")

    @model_validator(mode="after")
    def _even(self) -> Timeline:
        lengths = {len(values) for values in self.mebibytes.values()}
        if len(lengths) != 1 or not self.phases or not 0 <= self.peak < max(lengths):
            raise ValueError("every part needs the same samples, the peak one of them, and the step a phase")
        return self

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.mebibytes.values())))

    def totals(self) -> tuple[int, ...]:
        """What is alive at each sample, all parts together, in MiB."""
        return tuple(map(sum, zip(*self.mebibytes.values(), strict=True)))


@lru_cache(maxsize=512)
def timeline(slug: str, folder: Path = TIMELINES) -> Timeline | None:
    """The committed timeline of a method, or ``None`` if there is none."""
    path = folder / f"{slug}.json"
    return Timeline.model_validate(json.loads(path.read_bytes())) if path.is_file() else None

"""Which methods do not run on which families of models: ``kb/families.json``, written by ``profiler.families``.

Closed forms are read from a few shapes. Other families may lack what a method needs, or have it in a way that its code does not
provide for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field

from kb.closed_form import Implementation
from kb.loader import KB

FILE = KB / "families.json"
Refusals = dict[Implementation, dict[str, str]]
"""Methods that do not run, by whose code, with the reason."""


class Families(BaseModel):
    """What was tried on a small model of every family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_by: str = Field(description="the command that writes the file")
    versions: dict[str, str] = Field(description="libraries that were run")
    refused: dict[str, Refusals] = Field(
        description="by ``kb.closed_form.backbone_key``; families that were not tried lack"
    )
    untried: dict[str, str] = Field(description="families of which no small model could be built, with the reason")


@lru_cache(maxsize=1)
def _families() -> Families | None:
    return Families.model_validate_json(FILE.read_bytes()) if FILE.is_file() else None


def refused(family: str, implementation: Implementation) -> Mapping[str, str]:
    """Methods that do not run on models of ``family``, with the reason; none of a family that was not tried."""
    known = _families()
    return known.refused.get(family, {}).get(implementation, {}) if known is not None else {}

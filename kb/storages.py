"""Which methods do not run on a base in 8 or 4 bits, by whose code: ``kb/storages.json``, written by ``profiler.storages``.

That a method can work so is a fact of its record; whether code that is there does is found out by running it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from pydantic import BaseModel, ConfigDict, Field

from kb.closed_form import Implementation, Storage
from kb.families import Refusals
from kb.loader import KB

FILE = KB / "storages.json"


class Storages(BaseModel):
    """What was tried on a small base stored by bitsandbytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    made_by: str = Field(description="the command that writes the file")
    versions: dict[str, str] = Field(description="libraries that were run")
    refused: dict[Storage, Refusals] = Field(description="by the storage of the base")


@lru_cache(maxsize=1)
def _storages() -> Storages:
    return Storages.model_validate_json(FILE.read_bytes())


def refused(storage: Storage, implementation: Implementation) -> Mapping[str, str]:
    """Methods that do not run on a base stored so, with the reason."""
    return _storages().refused.get(storage, {}).get(implementation, {})

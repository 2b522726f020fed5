"""From tensors to what a card's driver shows: the CUDA context, and the range in which a prediction holds.

The context is in what ``nvidia-smi`` shows and not in what PyTorch reports. It grows with the number of a card's processors
and with the kernels that were loaded, so that it is read off published processes: PyTorch's out-of-memory message states
what the process holds and what the allocator holds of it (``kb/contexts.yaml``). A card with two readings has their range,
else its generation if that has two, else the range of all readings stands, and the answer says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import NamedTuple

from pydantic import Field

from kb.loader import KB, Problem, RecordError, load_yaml, shown, validated
from kb.schema import Record, Text

CONTEXTS = KB / "contexts.yaml"
MIB = 1 << 20
ROUNDED = 16 * MIB  # what the message's figures, rounded to 0.01 GiB, may be off by together
ENOUGH = 2  # readings that make a range


class Reading(Record):
    """What one process held on a card beyond the allocator's bytes."""

    gpu: str | None = Field(description="id of the card in the catalogue, or null if the board is not said")
    name: Text = Field(description="the card, as its owner names it")
    architecture: Text = Field(description="its generation")
    used_gib: float = Field(gt=0, description="memory that the process had in use, in GiB")
    allocated_gib: float = Field(gt=0, description="of that, allocated by PyTorch, in GiB")
    unallocated_mib: float = Field(ge=0, description="reserved by PyTorch but unallocated, in MiB")
    source: Text = Field(description="where the message stands")

    @property
    def size(self) -> int:
        """Bytes of the context."""
        return round((self.used_gib - self.allocated_gib) * 1024 * MIB - self.unallocated_mib * MIB)


class Context(NamedTuple):
    """Bytes that a process holds beyond what its allocator holds: least, usual, most; and what that rests on."""

    low: int
    usual: int
    high: int
    basis: str

    @property
    def words(self) -> str:
        """The range as a reader wants it."""
        return f"a CUDA context of {self.low / 1e9:.1f} to {self.high / 1e9:.1f} GB ({self.basis})"


def read_contexts(path: Path) -> tuple[Reading, ...]:
    """Read a file of readings; ``RecordError`` names what does not fit."""
    content = load_yaml(path)
    if not isinstance(content, list):
        raise RecordError([Problem(shown(path), 1, "expected a list of readings")])
    return tuple(validated(path, each, Reading, inside=[at]) for at, each in enumerate(content))


@lru_cache(maxsize=1)
def _ranges() -> Mapping[str, Context]:
    """Ranges by card and by generation, those with enough readings; under the empty name that of all."""
    readings = read_contexts(CONTEXTS)
    sizes: dict[str, list[int]] = {}
    for each in readings:
        for name in {"", each.architecture, each.gpu or ""}:
            sizes.setdefault(name, []).append(each.size)
    generations = {each.architecture for each in readings}
    found = {}
    for name, some in sizes.items():
        if len(some) < ENOUGH:
            continue
        kind = f"the {name} generation" if name in generations else "this card" if name else "all cards"
        basis = f"{len(some)} readings of {kind}"
        found[name] = Context(min(some) - ROUNDED, round(median(some)), max(some) + ROUNDED, basis)
    return MappingProxyType(found)


def context(gpu: str | None = None, architecture: str | None = None) -> Context:
    """The context of a card of the catalogue, by its id and generation; of any card if neither is known."""
    ranges = _ranges()
    known = next((ranges[name] for name in (gpu, architecture) if name and name in ranges), None)
    if known is not None:
        return known
    every = ranges[""]
    if architecture is None:
        return every
    return every._replace(basis=f"{every.basis}; too few are known of the {architecture} generation")


ANY = context()
CONTEXT_LOW, CONTEXT, CONTEXT_HIGH = ANY.low, ANY.usual, ANY.high  # bytes


@lru_cache(maxsize=1)
def prediction_range() -> tuple[float, float]:
    """Ends of the 90 % range as shares of predicted bytes, from the runs that predictions were held against."""
    known = json.loads((KB / "validation" / "report.json").read_bytes())["range"]
    return float(known["low"]), float(known["high"])

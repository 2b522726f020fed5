"""Measurements on real cards: one result a line in ``kb/measurements/<card>-<date>.jsonl``, written by ``peft-atlas bench``.

Three kinds of rows: a ``Step`` is the memory and time of one method on one model, a ``Fit`` whether a batch fitted into a
limit of memory, a ``Check`` whether an implementation kept a promise on the card. Every row says on which machine and
with which code it was made; one without a card is refused: nothing here comes from anything but a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kb.closed_form import Implementation, Storage
from kb.loader import KB

MEASUREMENTS = KB / "measurements"
Outcome = Literal["measured", "out of memory", "failed"]


class Machine(BaseModel):
    """Where and with what code a result was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: str | None = Field(description="the card, as its driver names it; null on a machine without one")
    memory_bytes: int | None = Field(description="memory of the card as the driver reports it")
    driver: str | None = Field(description="version of the driver")
    cuda: str | None = Field(description="version of CUDA that torch was built for")
    versions: dict[str, str] = Field(description="torch, transformers, peft, bitsandbytes: those that were there")
    commit: str | None = Field(description="commit of this project, with -dirty where files differed from it")


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    at: str = Field(description="when, in UTC, as 2026-01-31T12:00:00Z")
    machine: Machine
    slug: str = Field(description="the method")


class Setting(BaseModel):
    """How a method was trained for a measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="a model of the catalogue, whose shape was given random weights")
    small: bool = Field(False, description="whether its widths and depth were cut to run on a processor")
    batch: int = Field(ge=1, description="examples in a step")
    seq: int = Field(ge=2, description="tokens of an example")
    dtype: Literal["bf16", "fp32"] = Field("bf16", description="number format of the base")
    storage: Storage = Field("bf16", description="how the linear layers of the blocks were stored")
    checkpointing: bool = Field(False, description="whether activations were recomputed")
    optimizer: Literal["adamw", "adamw_fused"] = Field("adamw", description="adamw works on lists of tensors")

    @property
    def said(self) -> str:
        """In a few words."""
        words = [f"{self.batch} × {self.seq}", self.dtype if self.storage == "bf16" else self.storage]
        words += ["checkpointing"] * self.checkpointing + ["fused AdamW"] * (self.optimizer == "adamw_fused")
        return f"{self.model}{' cut small' * self.small}, {', '.join(words)}"


class Step(_Row):
    """Peak memory and time of training steps."""

    kind: Literal["step"] = "step"
    setting: Setting
    implementation: Implementation = Field(description="whose code ran")
    turn: int = Field(ge=1, description="place in the order in which ours and PEFT's took turns in one process")
    outcome: Outcome
    message: str | None = Field(None, description="what went wrong, if something did")
    trainable: int | None = Field(None, description="numbers that the optimizer updated")
    allocated_bytes: int | None = Field(None, description="torch.cuda.max_memory_allocated over the steps")
    reserved_bytes: int | None = Field(None, description="torch.cuda.max_memory_reserved over the steps")
    device_bytes: int | None = Field(None, description="what the driver shows as used after them, context included")
    before_bytes: int | None = Field(None, description="allocated on the card before the model was built")
    prepare_bytes: int | None = Field(None, description="peak of allocated bytes while data was looked at beforehand")
    step_seconds: float | None = Field(None, description="median over the timed steps")
    seconds: tuple[float, ...] = Field((), description="each timed step")

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two rows the same measurement."""
        return ("step", self.slug, self.setting, self.implementation, self.turn)


class Fit(_Row):
    """Whether a batch fitted when the allocator was held to a limit."""

    kind: Literal["fit"] = "fit"
    setting: Setting
    limit_gb: int = Field(description="memory of the card that was played, in 10⁹ bytes")
    predicted_bytes: int = Field(description="reserved bytes that the dry run predicts for this batch")
    predicted: bool = Field(description="whether that fits beside the CUDA context")
    fitted: bool = Field(description="whether two training steps ran within the limit")
    reserved_bytes: int | None = Field(None, description="torch.cuda.max_memory_reserved, where it fitted")

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two rows the same measurement."""
        return ("fit", self.slug, self.setting, self.limit_gb)


class Check(_Row):
    """Whether an implementation kept a promise on the card."""

    kind: Literal["check"] = "check"
    name: str = Field(description="the test, as pytest names it")
    passed: bool
    seconds: float
    message: str | None = Field(None, description="what went wrong, if something did")

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two rows the same check."""
        return ("check", self.name)


Row = Annotated[Step | Fit | Check, Field(discriminator="kind")]
_ROW: TypeAdapter[Step | Fit | Check] = TypeAdapter(Row)


def read(path: Path) -> Iterator[Step | Fit | Check]:
    """The rows of one file; ``ValueError`` with the line of one that cannot be read."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield _ROW.validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "the line"
                raise ValueError(f"{path}:{number}: {where}: {first['msg']}") from None


def load_measurements(folder: Path = MEASUREMENTS) -> tuple[Step | Fit | Check, ...]:
    """Every row of the folder; none while it is empty or not there. Refuses a row that no card made."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for row in read(path):
            if row.machine.gpu is None:
                raise ValueError(f"{path}: a row of {row.slug} was made without a GPU; it does not belong here")
            found.append(row)
    return tuple(found)


def last(rows: Iterable[Step | Fit | Check]) -> dict[tuple[object, ...], Step | Fit | Check]:
    """The latest row of each key on each card."""
    return {(row.machine.gpu, *row.key): row for row in sorted(rows, key=lambda row: row.at)}


def append(path: Path, row: Step | Fit | Check) -> None:
    """Adds a row to a file in one write, so that no reader and no crash sees half of it.

    Raises ``ValueError`` when a row that no card made is to go where measurements are kept.
    """
    if row.machine.gpu is None and path.resolve().is_relative_to(MEASUREMENTS.resolve()):
        raise ValueError(f"{path} holds what GPUs measured; this machine has none")
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (row.model_dump_json() + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)

"""The catalogue of models (`kb/models/`) and of cards (`kb/gpus.yaml`).

A model's file name is its id. Its `config` is what a Hugging Face `config.json` says about sizes: counts are computed
from it and never typed by hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, model_validator
from rapidfuzz import process

from kb.architecture import Architecture, from_config
from kb.loader import KB, Problem, RecordError, line_of, load_record, load_yaml, shown, validated
from kb.schema import Grade, Many, Record, Text

MODELS = KB / "models"
GPUS = KB / "gpus.yaml"
VARIANTS = KB / "variants.yaml"

T = TypeVar("T")
_ID = re.compile(r"[a-z0-9][a-z0-9.-]*")
Id = Annotated[str, Field(pattern=f"^{_ID.pattern}$", max_length=60)]
Count = Annotated[int, Field(gt=0)]
Modality = Literal["text", "vision", "vision and text", "speech"]
Status = Literal["verified-exact", "verified-adjusted", "unverified-total"]


class Graded(Record, Generic[T]):
    """A fact about a model with what it rests on; `value: null` is 'not known'."""

    value: T | None = Field(description="the fact, or null if it is not known")
    grade: Grade | None = Field(
        description="A: read in the primary source; B: in a copy; U: recalled, unverified; null without a value"
    )
    source: Text | None = Field(description="where it was read; null without a value")

    @model_validator(mode="after")
    def _sourced(self) -> Graded[T]:
        if self.value is not None and (self.grade is None or self.source is None):
            raise ValueError(
                f"the value {self.value!r} needs a grade and a source; add them, or write null for the value"
            )
        return self


class ParameterCount(Record):
    """How many parameters a model has, and how that was verified."""

    computed: Count = Field(description="unique parameters of the released model, shared ones once")
    instantiated: Count = Field(description="parameters of the class that transformers builds from `config`")
    published: Count | None = Field(description="total that was published, or null if none was found")
    status: Status = Field(
        description="verified-exact: computed equals published; verified-adjusted: after a named correction"
    )
    adjustment: Text | None = Field(description="what explains published minus computed, or null if they are equal")
    active: Count | None = Field(description="parameters that one token uses; null for a dense model")
    source: Text = Field(description="where the published total stands")
    grade: Grade = Field(description="grade of the published total")

    @model_validator(mode="after")
    def _explained(self) -> ParameterCount:
        if self.status == "verified-exact" and self.published != self.computed:
            raise ValueError("the status says exact, but published and computed differ; correct one of them")
        if self.status != "verified-exact" and self.adjustment is None:
            raise ValueError("published and computed differ; write the reason as adjustment")
        return self


class ModelRecord(Record):
    """An open model: sizes, counts and terms."""

    id: Id = Field(description="name in the catalogue; equals the file name")
    name: Text = Field(description="name to show")
    hf_id: Text = Field(description="repository on the Hugging Face hub")
    model_type: Text = Field(description="family, as the configuration names it")
    transformers_class: Text = Field(description="class that builds it in transformers")
    year: int = Field(ge=2018, le=2100, description="year of release")
    modality: Modality = Field(description="what it reads")
    config: dict[str, Any] = Field(description="the part of its Hugging Face configuration that decides sizes")
    config_source: Text = Field(description="what the configuration was compared with")
    shape_grade: Grade = Field(
        description="B: heads and context agree with a second copy; U: only the total confirms the sizes"
    )
    parameters: ParameterCount = Field(description="how many parameters, and how that was verified")
    licence: Graded[str] = Field(description="licence of the weights; not legal advice")
    native_dtype: Graded[str] = Field(description="number format of the released weights")
    context: Count | None = Field(description="longest input in tokens, or null if the configuration sets none")
    notes: Many[Text] = Field(description="peculiarities and doubts")

    @model_validator(mode="after")
    def _consistent(self) -> ModelRecord:
        if self.config.get("model_type") != self.model_type:
            raise ValueError(f"config.model_type is not {self.model_type!r}; make the two agree")
        counted = self.architecture.parameters
        if counted != self.parameters.computed:
            raise ValueError(
                f"the configuration gives {counted} parameters, not {self.parameters.computed}; correct one"
            )
        return self

    @cached_property
    def architecture(self) -> Architecture:
        """The uniform description, read from `config`."""
        return from_config(self.config)


class Figure(Record):
    """A figure of a card; `value: null` is 'not known'."""

    value: float | None = Field(description="the figure, or null if it is not known")
    grade: Grade | None = Field(
        description="A: text of an official document; B: a second-hand text, a published reading of "
        "the driver, or a formula; U: recalled",
    )

    @model_validator(mode="after")
    def _graded(self) -> Figure:
        if (self.value is None) != (self.grade is None):
            raise ValueError("a figure has a grade and an unknown one has none; write both or neither")
        return self


class Gpu(Record):
    """A card: memory and rates."""

    id: Id = Field(description="name in the catalogue; equals its key")
    name: Text = Field(description="name to show")
    vendor: Literal["NVIDIA", "AMD", "Apple"] = Field(description="who makes it")
    architecture: Text = Field(description="generation")
    year: int = Field(description="year of release")
    memory_gb: Count = Field(description="memory as sold, in units of 10^9 bytes as far as the vendor is exact")
    memory_type: Text = Field(description="kind of memory")
    memory_reported_mib: Figure = Field(description="total memory as the driver reports it, in MiB")
    context_mib: Figure = Field(description="memory that an empty context of the driver takes, in MiB")
    bandwidth_gbs: Figure = Field(description="memory bandwidth in 10^9 bytes per second")
    link_gbs: Figure = Field(
        description="10^9 bytes per second between equal cards of one machine, both directions together: NVLink where a "
        "board joins all its cards, else PCI Express as generation and lanes give it",
    )
    tensor_tflops: Figure = Field(
        description="dense 16-bit matrix rate, sums in fp32, no sparsity, in 10^12 operations per second"
    )
    fp32_tflops: Figure = Field(description="fp32 rate in 10^12 operations per second")
    compute_capability: Text | None = Field(description="CUDA compute capability or AMD target, or null")
    bf16: bool | None = Field(description="whether it computes in bfloat16 itself, or null if not known")
    tdp_w: Figure = Field(description="board power in watts")
    devices: int = Field(ge=1, description="devices that software sees on one card")
    source_memory: Text | None = Field(description="where the reported memory was read, or null")
    source: Text = Field(description="where the other figures were read")
    notes: Many[Text] = Field(description="peculiarities and doubts")

    @model_validator(mode="after")
    def _memory_sourced(self) -> Gpu:
        if self.memory_reported_mib.value is not None and self.source_memory is None:
            raise ValueError("memory_reported_mib has no source; write source_memory, or null for the value")
        return self

    def usable_bytes(self) -> int:
        """Bytes that one device has: what the driver reports, else what was sold (`usable_note` says which)."""
        if self.memory_reported_mib.value is not None:
            return int(self.memory_reported_mib.value) * 2**20
        return self.memory_gb * 10**9 // self.devices

    def usable_note(self) -> str:
        """Say what `usable_bytes` rests on."""
        if self.memory_reported_mib.value is not None:
            return f"{int(self.memory_reported_mib.value)} MiB as the driver reports"
        shared = f", one of {self.devices} devices" if self.devices > 1 else ""
        unified = ", shared with the processor" if self.vendor == "Apple" else ""
        return f"{self.memory_gb} GB as sold{shared}{unified}; the driver may report less"


def read_model(path: Path) -> ModelRecord:
    """Read one file of the catalogue; `RecordError` when it does not hold what it should."""
    record = load_record(path, ModelRecord)
    if record.id != path.stem:
        line = line_of(path, ["id"])
        raise RecordError([Problem(shown(path), line, f"id is {record.id!r}; write {path.stem!r}, the file name")])
    return record


def read_gpus(path: Path) -> Mapping[str, Gpu]:
    """Read a file of cards; `RecordError` lists everything in it that does not fit."""
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise RecordError([Problem(shown(path), 1, "expected a mapping of ids to cards")])
    gpus: dict[str, Gpu] = {}
    problems: list[Problem] = []
    for key, value in content.items():
        fields = {"id": key, **value} if isinstance(value, dict) else value
        try:
            gpus[key] = validated(path, fields, Gpu, inside=[key])
        except RecordError as error:
            problems.extend(error.problems)
    if problems:
        raise RecordError(problems)
    return MappingProxyType(gpus)


def model_ids() -> tuple[str, ...]:
    """Ids of all models, without reading their files."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.yaml")))


@lru_cache(maxsize=512)
def load_model(model_id: str) -> ModelRecord:
    """Load one model; `KeyError` names the nearest id when there is none of this name."""
    path = MODELS / f"{model_id}.yaml"
    if not _ID.fullmatch(model_id) or not path.is_file():
        near = process.extractOne(model_id, model_ids(), score_cutoff=60)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"there is no model {model_id!r} in the catalogue{hint}")
    return read_model(path)


@lru_cache(maxsize=1)
def load_models() -> Mapping[str, ModelRecord]:
    """Load every model, by id."""
    return MappingProxyType({model_id: load_model(model_id) for model_id in model_ids()})


@lru_cache(maxsize=1)
def load_gpus() -> Mapping[str, Gpu]:
    """Load every card, by id."""
    return read_gpus(GPUS)


def read_variants(path: Path, models: Mapping[str, ModelRecord]) -> Mapping[str, str]:
    """The model that stands for each repository of a file; `RecordError` where their parameters are not equally many."""
    content = load_yaml(path)
    if not isinstance(content, dict) or not all(isinstance(totals, dict) for totals in content.values()):
        raise RecordError(
            [Problem(shown(path), 1, "expected a mapping of models to repositories with their parameters")]
        )
    found: dict[str, str] = {}
    problems = []
    for model_id, totals in content.items():
        counts = models[model_id].parameters if model_id in models else None
        for repository, total in totals.items():
            found[repository] = model_id
            if counts is None or total not in (counts.computed, counts.published):
                line = line_of(path, [model_id, repository])
                expected = f"those of {model_id}" if counts else "those of a model of the catalogue"
                problems.append(Problem(shown(path), line, f"{repository}: {total} parameters are not {expected}"))
    if problems:
        raise RecordError(problems)
    return MappingProxyType(found)


@lru_cache(maxsize=1)
def load_variants() -> Mapping[str, str]:
    """Ids of the models that stand for other repositories, by repository."""
    return read_variants(VARIANTS, load_models())

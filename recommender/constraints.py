"""What a person asks for: one model that is the query string, the form, the command's options and the JSON body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from recommender.naming import card_id, model_id
from recommender.units import parse_bytes, parse_count, parse_number

Objective = Literal["balanced", "quality", "memory", "speed", "storage", "serving"]
_TASKS = {
    "understanding": ("classification", "sentiment", "nlu", "glue", "ner", "extraction"),
    "generation": ("chat", "instruction", "instructions", "instruct", "summarization", "translation", "code", "coding"),
    "reasoning": ("math", "maths", "mathematics", "arithmetic", "commonsense"),
    "vision": ("image", "images"),
}
"""Other words for kinds of task, by what the evidence counts them among."""
_KINDS = {word: kind for kind, words in _TASKS.items() for word in words}


class Constraints(BaseModel):
    """The constraints of a recommendation. One field has to give the model; a recommendation also needs one that gives the memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu_mem: str | None = Field(
        None, max_length=40, description="memory of one card: 24GB (10⁹) or 24GiB (2³⁰)", examples=["24GB"]
    )
    gpu: str | None = Field(
        None,
        max_length=60,
        description="card of the catalogue, by id or name; its driver-reported memory is used",
        examples=["rtx-4090"],
    )
    gpus: int = Field(
        1,
        ge=1,
        le=1024,
        description="number of equal cards; above one, weights and states are sharded where that helps",
    )
    params: str | None = Field(
        None, max_length=40, description="size of a dense decoder: 7B, 0.5B, 350M", examples=["7B"]
    )
    model: str | None = Field(
        None,
        max_length=120,
        description="model of the catalogue, by id, name or repository of the Hugging Face hub; tuned and repacked variants of it, too",
        examples=["llama-3.1-8b"],
    )
    config: dict[str, Any] | None = Field(
        None, description="a Hugging Face config.json object, for a model that the catalogue lacks (JSON body only)"
    )
    seq: int = Field(
        1024, ge=16, le=1_048_576, description="longest sequence in tokens (not the mean: the longest batch decides)"
    )
    batch: int = Field(
        8, ge=1, le=4096, description="examples per optimizer step; split into micro-batches where needed"
    )
    quantization: Literal["any", "none", "8bit", "4bit"] = Field(
        "any", description="storage of frozen weights: none is bf16, 4bit is NF4 with double quantisation"
    )
    checkpointing: Literal["any", "on", "off"] = Field(
        "any",
        description="gradient checkpointing: recompute activations in the backward pass; true and false mean on and off",
        json_schema_extra={"type": ["string", "boolean"], "enum": ["any", "on", "off", "true", "false", True, False]},
    )
    autocast: Literal["any", "on", "off"] = Field(
        "any",
        description="whether PEFT's code runs under autocast to bf16, as training scripts run it, or not, as in PEFT's published comparison; any is on in a recommendation and off in an estimate; our code is bf16 throughout and has no use for it; true and false mean on and off",
        json_schema_extra={"type": ["string", "boolean"], "enum": ["any", "on", "off", "true", "false", True, False]},
    )
    optimizer: Literal["adamw", "adamw_fused", "adamw_8bit", "adamw_paged_8bit", "adafactor", "sgd"] = Field(
        "adamw",
        description="optimizer of the trained parameters; adamw works on lists of tensors (foreach), as PyTorch does by default",
    )
    head_chunks: int = Field(
        1,
        ge=1,
        le=1024,
        description="in how many pieces logits and loss are computed; 1 is all tokens at once, as transformers does",
    )
    implementation: Literal["any", "ours", "peft"] = Field(
        "any",
        description="whose code is run: Hugging Face PEFT's, ours, or PEFT's where it ships the method and ours elsewhere",
    )
    rank: int | None = Field(None, ge=1, le=65_536, description="rank instead of the one that we advise", examples=[32])
    targets: str | None = Field(
        None,
        max_length=400,
        description="adapted layers: q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj, all_linear, or paper for those of each method's paper; a recommendation that is not told takes all linear layers where they fit with the base stored as it is, at most in twice the time, an estimate the paper's",
        examples=["q_proj,v_proj"],
    )
    task: Literal["any", "understanding", "generation", "reasoning", "vision", "diffusion"] = Field(
        "any",
        description="kind of task: vision and diffusion decide which methods apply, and the expected quality is that for such tasks; classification is understanding, chat and code are generation, maths is reasoning",
    )
    data: int | None = Field(None, ge=1, le=10**10, description="number of training examples: 16000 or 16k")
    epochs: float | None = Field(
        None, gt=0, le=10_000, description="passes over the data; with data it gives the time of a whole run"
    )
    merge: Literal["any", "required"] = Field("any", description="required: the result must be one plain model")
    adapters: int = Field(
        1, ge=1, le=10**6, description="tasks served at once from one base model, in mixed batches when above one"
    )
    backprop: Literal["any", "avoid"] = Field("any", description="avoid: no gradients through the frozen model")
    library: str | None = Field(
        None, max_length=40, description="only methods that this library ships", examples=["peft"]
    )
    family: str | None = Field(
        None, max_length=60, description="only methods of this class of the taxonomy", examples=["reparameterization"]
    )
    budget: Literal["none", "small", "large"] = Field(
        "small",
        description="search for hyperparameters that you can afford: none is one run, small a few, large a sweep per method",
    )
    forgetting: Literal["any", "matters"] = Field(
        "any", description="matters: what the model could do before is to be kept"
    )
    latency: Literal["any", "matters"] = Field("any", description="matters: nothing may slow the trained model down")
    objective: Objective = Field("balanced", description="preset of weights of the criteria")
    why: str | None = Field(
        None,
        max_length=60,
        description="a method by its slug: why it is not the answer, and what would make it so",
        examples=["dora"],
    )
    limit: int = Field(8, ge=1, le=500, description="how many ranked methods to return")
    detail: Literal["full", "brief"] = Field(
        "full",
        description="brief: without standings, training scripts and configurations of other tools, for programs that ask often",
    )

    @field_validator("gpu_mem")
    @classmethod
    def _memory(cls, text: str | None) -> str | None:
        if text is not None:
            parse_bytes(text)
        return text

    @field_validator("gpu")
    @classmethod
    def _card(cls, name: str | None) -> str | None:
        return None if name is None else card_id(name)

    @field_validator("model")
    @classmethod
    def _model(cls, name: str | None) -> str | None:
        return None if name is None else model_id(name)

    @field_validator("task", mode="before")
    @classmethod
    def _kind(cls, value: object) -> object:
        return _KINDS.get(value.strip().lower(), value) if isinstance(value, str) else value

    @field_validator("data", mode="before")
    @classmethod
    def _examples(cls, value: object) -> object:
        return parse_number(value) if isinstance(value, str) else value

    @field_validator("checkpointing", "autocast", mode="before")
    @classmethod
    def _switched(cls, value: object) -> object:
        if isinstance(value, bool):
            return "on" if value else "off"
        return {"true": "on", "false": "off"}.get(value.lower(), value) if isinstance(value, str) else value

    @field_validator("params")
    @classmethod
    def _parameters(cls, text: str | None) -> str | None:
        if text is not None:
            parse_count(text)
        return text

    @model_validator(mode="after")
    def _complete(self) -> Constraints:
        given = [name for name in ("params", "model", "config") if getattr(self, name) is not None]
        if not given:
            raise ValueError("say which model: params=7B, or one of the catalogue such as model=llama-3.1-8b")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both describe the model; give one of them")
        return self


def from_query(query: Mapping[str, str]) -> Constraints:
    """``Constraints`` from text values as a query string or a form gives them; empty values count as absent.

    Raises ``pydantic.ValidationError`` with one entry per bad field.
    """
    return Constraints.model_validate({key: value for key, value in query.items() if value != ""}, strict=False)

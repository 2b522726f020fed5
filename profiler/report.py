"""What a dry run reports: the peak by part and by block, its moment, the course of a step, what is reserved, and the work."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from kb.closed_form import Implementation
from profiler.settings import Settings


class Layer(BaseModel):
    """What belongs to one block at the peak."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="dotted name in the base model; empty for what is outside of the blocks")
    parts: dict[str, int] = Field(description="bytes by what they hold; parts of no bytes are left out")


class Timeline(BaseModel):
    """Live bytes over the last step, in order: the highest instant of each of equal stretches of its events."""

    model_config = ConfigDict(frozen=True)

    parts: tuple[str, ...] = Field(description="what the columns of bytes are")
    moments: tuple[str, ...] = Field(description="when each row was, in words")
    bytes: tuple[tuple[int, ...], ...] = Field(description="a row for each instant, a column for each part")


class Report(BaseModel):
    """What a dry run found. Bytes are those of one card."""

    model_config = ConfigDict(frozen=True)

    slug: str = Field(description="the method")
    implementation: Implementation = Field(description="whose code was run")
    settings: Settings = Field(description="as they were read")
    allocated_bytes: int = Field(description="peak of tensors that are alive: torch.cuda.max_memory_allocated")
    reserved_bytes: int = Field(
        description="what the caching allocator holds for them: torch.cuda.max_memory_reserved, by a replay of its rules"
    )
    parts: dict[str, int] = Field(description="allocated_bytes by what they hold; the parts add up to it")
    moment: str = Field(description="when the peak is reached, in words")
    trainable: int = Field(description="parameters that the optimizer updates")
    flops: int = Field(description="floating-point operations of one step, a product and a sum counted as two")
    bytes_moved: int = Field(description="bytes that the kernels of one step read and write")
    kernels: int = Field(description="kernels of one step")
    flops_fp32: int = Field(description="of flops, those of products of fp32 matrices")
    kernels_inside: int = Field(description="kernels that operations launch beside the one that Python does")
    solver_steps: int = Field(description="columns that decompositions and solvers go through one after the other")
    bytes_host: int = Field(description="bytes that are read in the computer's memory in one step")
    device_bytes: int = Field(description="reserved_bytes and the usual CUDA context: what nvidia-smi shows")
    device_range: tuple[int, int] = Field(description="device_bytes with the least and the largest context known")
    by_layer: tuple[Layer, ...] = Field(
        description="what each block holds at the peak, then what is outside of the blocks"
    )
    timeline: Timeline = Field(description="live bytes over the last step")
    depths: tuple[int, ...] = Field(description="numbers of layers that were run; the model's own if it was run whole")

"""What is compared with what, what was asked for, and why a row is missed."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from profiler.validation import frameworks, language, speed
from profiler.validation.outcome import Outcome, Summary, summary

RESERVED = "maximum of reserved bytes (torch.cuda.max_memory_reserved)"
ALLOCATED = "peak of allocated bytes (torch.cuda.max_memory_allocated)"
LANGUAGE_MEMORY, IMAGE_MEMORY, FRAMEWORK_MEMORY, STEP_TIME = (
    "language-memory",
    "image-memory",
    "framework-memory",
    "step-time",
)
# What was missed by more than 3 % of PEFT's memory, 10 % of the frameworks' or 15 % of time, and what the run did.
_EVALUATED = (
    "Probably the evaluation in between, which the published maximum includes: the prefix of its 50 examples is one block of "
    "2.1 GiB."
)
_FRAGMENTS = "The replayed allocator holds 0.3 GiB more than the run's; where it differs is not known."
_GENERATED = (
    "Probably the images generated in between: what the transform of the widest layer takes at once stays reserved. In "
    "training it does not reach the peak, its work area included."
)
_BLOCKS = "Products of many small matrices, as here, reach less of the card's rate than those of large ones."
WHY = {
    "memory/prefixtuning/llama-3.2-3B-lr_0.001": _EVALUATED,
    "memory/prefixtuning/llama-3.2-3B-lr_0.005_zero_init": _EVALUATED,
    "memory/fourierft/flux2-klein-default": _GENERATED,
    "memory/waveft/flux2-klein-default": _GENERATED,
    "memory/adalora/flux2-klein-default": "Not explained.",
    "memory/frod/flux2-klein-default": "The run held 0.8 GiB less than the replayed allocator; where it differs is not known.",
    "memory/ia3/flux2-klein-default": _FRAGMENTS,
    "memory/ln_tuning/flux2-klein-default": _FRAGMENTS,
    "memory/oft/flux2-klein-default": _FRAGMENTS,
    "memory/hra/flux2-klein-default": "The run took what the card had left.",
    "time/boft/llama-3.2-3B-default": (
        "Hundreds of blocks are copied to their places one by one from within an operation; each is counted with the least "
        "time of a kernel only."
    ),
    "time/c3a/llama-3.2-3B-default": "Its transforms of 64 numbers reach less of the card's rates than large ones.",
    "time/gralora/llama-3.2-3B-rank32": _BLOCKS,
    "time/lora/llama-3.2-3B-rank14-target-mlp-bdlora": _BLOCKS,
    "time/oft/llama-3.2-3B-rank32": _BLOCKS,
    "time/vblora/llama-3.2-3B-default": "Its choice of the largest goes over its numbers several times; once is counted.",
    "time/waveft/llama-3.2-3B-n_frequency-5000": "Its convolutions with tiny filters reach little of the card's rates.",
}


class Goal(BaseModel):
    """One target: what was asked for and what was reached."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(description="what is compared")
    quantity: str = Field(description="what was measured")
    asked: str = Field(description="the target in words")
    met: bool = Field(description="whether it was reached")
    reached: Summary = Field(description="errors of the rows that no constant was fitted on")
    rank_correlation: float | None = Field(description="Spearman's, over the same rows; null where it says nothing")
    fitted: str = Field(description="what was fitted, and on which rows")
    too_small: int | None = Field(None, description="rows whose card, named by us, is too small; null if none is named")
    left_out: dict[str, int] = Field(default_factory=dict, description="rows that are not compared, by reason")


class Peer(BaseModel):
    """A rival calculator's errors on 30 public measurements of LoRA, QLoRA and full tuning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="the tool")
    median: float = Field(description="median of the absolute relative errors")
    worst: float = Field(description="the largest")
    too_small: int = Field(description="how often, of 30, the card that it names is too small")


PEERS = tuple(
    Peer(name=name, median=middle / 100, worst=worst / 100, too_small=small)
    for name, middle, worst, small in (
        ("fitcheck-llm 0.3.1", 13, 111, 1),
        ("Unsloth Studio's estimator", 24, 98, 16),
        ("fm-training-estimator (theory)", 29, 156, 19),
        ("training_hub (mid)", 39, 195, 19),
        ("gpu_poor", 45, 326, 3),
        ("LLaMA-Factory's rule of thumb", 47, 84, 28),
        ("canifinetune 0.4.1", 57, 247, 0),
        ("accelerate estimate-memory", 161, 350, 4),
        ("llm-analysis (no LoRA)", 447, 905, 0),
    )
)


def language_goal(rows: Sequence[Outcome]) -> Goal:
    """PEFT on a language model: reserved bytes."""
    found = summary(rows)
    return Goal(
        title="Memory of 63 runs of Hugging Face PEFT on Llama-3.2-3B",
        quantity=RESERVED,
        asked="median at most 1 %, nine of ten rows within 3 %, all within 10 %",
        met=found.median <= 0.01 and found.p90 <= 0.03 and found.worst <= 0.1,
        reached=found,
        rank_correlation=None,
        fitted=f"the length of the longest batch, {language.LONGEST} tokens, on {language.FITTED_ON}",
    )


def image_goal(rows: Sequence[Outcome]) -> Goal:
    """PEFT on a diffusion transformer: reserved bytes."""
    found = summary(rows)
    return Goal(
        title="Memory of 31 runs of Hugging Face PEFT on FLUX.2-klein-base-4B, image generation",
        quantity=RESERVED,
        asked="median at most 5 %",
        met=found.median <= 0.05,
        reached=found,
        rank_correlation=None,
        fitted="nothing",
    )


def time_goal(rows: Sequence[Outcome]) -> Goal:
    """PEFT on a language model: time."""
    found = summary(rows)
    checked = [one for one in rows if one.use == "validation"]
    rank = speed.rank_correlation([one.predicted for one in checked], [one.measured for one in checked])
    return Goal(
        title="Step time of the 63 runs on Llama-3.2-3B",
        quantity="mean length of a training step",
        asked="median at most 5 %, rank correlation at least 0.95",
        met=found.median <= 0.05 and rank >= 0.95,
        reached=found,
        rank_correlation=round(rank, 4),
        fitted="six constants of the card and its computer, on every third row by name",
    )


def framework_goal(rows: Sequence[Outcome]) -> Goal:
    """Two frameworks of fine-tuning: allocated bytes, and the card that we name."""
    found, small = summary(rows), sum(one.too_small or False for one in rows)
    return Goal(
        title="Memory of fine-tuning with litgpt and torchtune",
        quantity=ALLOCATED,
        asked="median at most 5 %, the smallest standard card that we name too small in at most 2 % of rows",
        met=found.median <= 0.05 and small <= 0.02 * found.rows,
        reached=found,
        rank_correlation=None,
        fitted="nothing",
        too_small=small,
        left_out=frameworks.left_out(),
    )

"""The shape of an answer. HTTP, command line and Python give the same object; pages render it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from kb.closed_form import Implementation, Storage

Relation = Literal["independent", "rival", "own"]
"""How the authors of a study stand to a method."""
Basis = Literal["measured", "dry_run", "closed_form"]
CriterionName = Literal["quality", "memory", "speed", "storage", "inference", "robustness", "retention"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Parts(_Part):
    """Bytes that are allocated at the moment of the peak, by what they hold."""

    weights: int = Field(description="frozen and trained weights of the model, as stored")
    adapter: int = Field(description="added parameters, master copies of trained ones, fixed projections and masks")
    gradients: int = Field(description="gradients of trained parameters that are alive at the peak")
    optimizer: int = Field(description="optimizer states, and its temporaries if the peak is in its step")
    activations: int = Field(description="what the forward pass keeps for the backward pass")
    logits: int = Field(description="logits and the loss's temporaries")
    overhead: int = Field(description="other temporaries: dequantised weights, one gathered layer, dense deltas")


class Sizes(_Part):
    """One end of a range: the three quantities of ``Memory``."""

    allocated_bytes: int = Field(description="tensors that are alive")
    reserved_bytes: int = Field(description="what the caching allocator holds")
    device_bytes: int = Field(description="what nvidia-smi shows")


class Memory(_Part):
    """Predicted peak memory of one card. Three different quantities, always named."""

    allocated_bytes: int = Field(description="peak of tensors that are alive: torch.cuda.max_memory_allocated")
    reserved_bytes: int = Field(description="peak that the caching allocator holds: torch.cuda.max_memory_reserved")
    device_bytes: int = Field(description="what nvidia-smi shows: reserved and the CUDA context")
    low: Sizes = Field(description="lower end of a 90 % range")
    high: Sizes = Field(description="upper end of the range; a plan 'fits' only if its device_bytes fit")
    parts: Parts = Field(description="allocated_bytes by part; the parts add up to it")
    moment: str = Field(description="when the peak is reached, in words")
    basis: Basis = Field(description="how it was predicted")


class Plan(_Part):
    """How a method is run."""

    implementation: Implementation = Field(description="whose code is run: ours or Hugging Face PEFT's")
    storage: Storage = Field(description="how frozen weights are stored")
    checkpointing: bool = Field(description="whether activations are recomputed in the backward pass")
    autocast: bool = Field(description="whether it runs under autocast to bf16; only PEFT's code does")
    micro_batch: int = Field(description="examples in one forward pass on one card")
    accumulation: int = Field(description="forward passes per optimizer step and card")
    seq: int = Field(description="tokens per example, the longest")
    optimizer: str = Field(description="optimizer of the trained parameters")
    targets: tuple[str, ...] = Field(
        description="places that are adapted; all_linear: every linear layer of the blocks"
    )
    gpus: int = Field(description="cards")
    sharding: Literal["none", "full"] = Field(
        description="full: weights, gradients and states are spread over the cards (FSDP)"
    )


class ParameterCounts(_Part):
    """The survey's three counts for this model, and what one task stores."""

    trainable: int | None = Field(description="parameters that the optimizer updates; null if not known")
    trainable_percent: float | None = Field(description="of the model's parameters")
    changed: int | None = Field(description="parameters of the model whose effective value changes; null if not known")
    rank: int | None = Field(description="largest rank of the change of a matrix; null if it has no meaning")
    stored_bytes: int | None = Field(description="bytes per task on disk; null if not known")


class EvidenceItem(_Part):
    """One published result that speaks for or against a method."""

    study: str = Field(description="id of the study, as in /evidence/<study>")
    title: str = Field(description="its title")
    url: str | None = Field(description="where to read it, or null")
    year: int | None = Field(description="year of publication, or null if not known")
    independent: bool = Field(description="whether its authors propose none of the methods that they compare")
    relation: Relation = Field(
        description="independent; rival: they propose another method; own: they propose this one"
    )
    table: str = Field(description="table or file of the study")
    model: str = Field(description="model that was adapted")
    task: str = Field(description="data set")
    metric: str = Field(description="what the values are")
    value: float = Field(description="the method's value, as reported")
    against: str | None = Field(
        description="slug of the method that it is held against; null for the rest of the table"
    )
    against_value: float | None = Field(description="value of that method, as reported")
    difference: float = Field(description="in standard deviations within the cell; above zero if the method is better")
    text: str = Field(description="the result in a sentence")


class StudyEffect(_Part):
    """What one study says about a method, as a line of a forest plot."""

    study: str = Field(description="id of the study, as in /evidence/<study>")
    title: str = Field(description="its title")
    url: str | None = Field(description="where to read it, or null")
    year: int | None = Field(description="year of publication, or null if not known")
    independent: bool = Field(description="whether its authors propose none of the methods that they compare")
    relation: Relation = Field(
        description="independent; rival: they propose another method; own: they propose this one"
    )
    estimate: float = Field(description="in standard deviations within a cell; 0 is the average method of a comparison")
    low: float = Field(description="lower end of an 80 % interval")
    high: float = Field(description="upper end of an 80 % interval")
    n: int = Field(description="cells (table, model, task, metric and data size) of the study that contain the method")


class Tally(_Part):
    """How often a method came out ahead in published comparisons: plain counts beside the estimate."""

    relation: Relation = Field(description="who made the comparisons: independent ones, else rivals, else its authors")
    studies: int = Field(description="studies that the comparisons come from")
    comparisons: int = Field(description="cells (table, model, task, metric and data size) that contain the method")
    ahead: int = Field(description="of these, cells in which it is better than the average method")
    against_full: int = Field(description="cells that also contain full fine-tuning; 0 for full fine-tuning itself")
    level_with_full: int = Field(description="of these, cells in which it is at least as good as full fine-tuning")
    situated: bool = Field(description="whether they are of the situation asked about; false: of all situations")


class Quality(_Part):
    """Expected quality from published comparisons, in standard deviations within a table."""

    estimate: float = Field(description="0 is the average method of a comparison")
    low: float = Field(description="lower end of an 80 % interval")
    high: float = Field(description="upper end of an 80 % interval")
    situation: str = Field(description="which estimate this is: for all situations, or for which task, data and model")
    independent: int = Field(
        description="studies that contain the method, by authors who propose none of those compared"
    )
    rivals: int = Field(description="studies by authors who propose another of the methods compared")
    self_reported: int = Field(description="studies by authors who propose the method")
    rows: int = Field(description="result rows of all of them")
    basis: str = Field(description="what the estimate rests on, in words")
    tally: Tally | None = Field(description="how often it came out ahead; null if no study compares it")
    strongest_for: tuple[EvidenceItem, ...] = Field(description="up to two results that speak for it, strongest first")
    strongest_against: tuple[EvidenceItem, ...] = Field(
        description="up to two results that speak against it, strongest first"
    )


class Robustness(_Part):
    """How much the results of a method depend on seed, configuration and task."""

    estimate: float = Field(
        description="logarithm (base 2) of its spread of results against the average method's; below zero is steadier"
    )
    low: float = Field(description="lower end of an 80 % interval")
    high: float = Field(description="upper end of an 80 % interval")
    studies: int = Field(description="studies that report a spread of it")
    basis: str = Field(description="what the estimate rests on, in words")


class Citation(_Part):
    """A source that can be followed."""

    ref: str = Field(description="id of the paper, repository or finding")
    title: str = Field(description="its title")
    where: str = Field(description="section, table or finding number")
    url: str | None = Field(description="link, or null")
    grade: str | None = Field(
        description="A read in the primary source, B secondary, U unverified; null if it is our computation"
    )


class Criterion(_Part):
    """One criterion of the score."""

    name: CriterionName = Field(description="what is judged")
    value: float = Field(description="between 0 and 1, higher is better")
    weight: float = Field(description="share of the score; the weights add up to 1")
    note: str = Field(description="what the value stands for here, in plain words with their number")
    detail: str = Field(description="the statistics behind it, with units and range")
    source: Citation = Field(description="where the value comes from")


class Reason(_Part):
    """One statement for or against a method in this situation."""

    text: str = Field(description="the statement in plain words; the statistics stand with its criterion")
    kind: Literal["for", "against", "note"] = Field(description="which way it speaks")
    source: Citation = Field(description="where it comes from")
    criterion: CriterionName | None = Field(None, description="the criterion that it explains; null for a remark")
    weight: float = Field(
        0.0,
        description="how far the criterion moves the score from that of the average method that fits; 0 for a remark",
    )


class Effect(_Part):
    """What one constraint does to the ranking besides deciding what fits."""

    constraint: str = Field(description="the constraint as in the query string, e.g. budget=none")
    criterion: CriterionName | None = Field(description="whose weight it changes; null if it leaves methods out")
    factor: float | None = Field(description="by how much the weight is multiplied before all are scaled to 1, or null")
    text: str = Field(description="the effect and its reason, in a sentence")
    source: Citation = Field(description="finding, study or record that gives the reason")


class Start(_Part):
    """A hyperparameter to start from."""

    name: str
    value: int | float | str | bool | None
    why: str
    source: Citation | None = Field(None, description="where the value comes from; null if it is our advice alone")


class Change(_Part):
    """One thing that could be different, and what it would do."""

    text: str = Field(description="what to change and what follows")
    query: dict[str, str] = Field(description="the constraint to change, as in the query string")
    device_bytes: int | None = Field(
        None, description="device memory that it would give; null if it is not about one plan"
    )
    fits: bool | None = Field(None, description="whether the upper end would then fit the card; null without a card")


class Code(_Part):
    """Code that runs the method."""

    run: str | None = Field(description="our command line, or null if there is no implementation of ours")
    own: str | None = Field(
        None,
        description="our command line for your model and rows of text: of a plan of ours as it is, else in fp32 where twice the predicted memory fits; null where neither holds, and without an implementation of ours",
    )
    peft: str | None = Field(description="Hugging Face PEFT snippet, or null if it does not ship the method")
    script: str | None = Field(
        None,
        description="complete training script for Hugging Face PEFT with this plan; null if it does not ship it, or in a brief answer",
    )
    llama_factory: str | None = Field(
        None,
        description="LLaMA-Factory configuration (YAML) with this plan; null if it does not support it, or in a brief answer",
    )
    axolotl: str | None = Field(
        None,
        description="axolotl configuration (YAML) with this plan; null if it does not support it, or in a brief answer",
    )


class Twin(_Part):
    """Another name by which a plan goes: LoRA on a base of four bits is QLoRA."""

    slug: str = Field(description="the other method, ranked beside this one with the same plan and standing")
    name: str = Field(description="its name")
    text: str = Field(description="what the two share, and on whose evidence")
    source: Citation | None = Field(description="where the one is defined as the other; null if it is not known")


class Ranked(_Part):
    """A method that can be run, with its best plan."""

    slug: str
    name: str
    rank: int
    verdict: Literal["fits", "tight"] = Field(
        description="fits: the upper end of the prediction fits; tight: only the middle does"
    )
    plan: Plan
    memory: Memory
    headroom_bytes: int = Field(description="usable memory minus device_bytes")
    step_time_relative: float = Field(
        description="seconds per token against LoRA in bf16 without checkpointing on this model"
    )
    tokens_per_second: float | None = Field(description="of all cards together; null if no card was named")
    run_seconds: float | None = Field(
        description="the whole run; null unless a card, the examples and the epochs are given"
    )
    counts: ParameterCounts
    quality: Quality
    score: float = Field(description="weighted sum of the criteria, 0 to 1")
    criteria: tuple[Criterion, ...]
    reasons: tuple[Reason, ...] = Field(description="the weightiest first, remarks last")
    changes: tuple[Change, ...]
    hyperparameters: tuple[Start, ...]
    code: Code
    twin: Twin | None = Field(description="another name by which this plan goes; null if there is none")
    links: dict[str, str]


class Standing(_Part):
    """A method that fits, in a line."""

    slug: str
    name: str
    rank: int
    verdict: Literal["fits", "tight"]
    device_bytes: int = Field(description="device memory of its plan")
    step_time_relative: float = Field(description="seconds per token against LoRA in bf16 without checkpointing")
    stored_bytes: int | None = Field(description="bytes per task on disk; null if not known")
    quality: float = Field(description="expected quality")
    quality_low: float = Field(description="lower end of an 80 % interval")
    quality_high: float = Field(description="upper end of an 80 % interval")
    robustness: float = Field(description="the criterion, 0 to 1")
    score: float


class Excluded(_Part):
    """A method that is not offered, and why."""

    slug: str
    name: str
    reason: str
    code: Literal["memory", "requirement", "not_applicable", "unknown"]
    constraint: str | None = Field(
        description="name of the constraint that leaves it out; null if it is memory, or the model itself"
    )
    missing_bytes: int | None = Field(
        description="device memory that its smallest plan lacks; null if memory is not the reason"
    )
    plan: Plan | None = Field(description="the smallest plan that was tried, or null")
    needed_bytes: int | None = Field(description="device memory of that plan, or null")


class Difference(_Part):
    """One criterion in which a method and the leader differ."""

    criterion: CriterionName = Field(description="the criterion")
    points: float = Field(description="difference of the scores from this criterion: leader minus method")
    text: str = Field(description="both values, in words")
    source: Citation = Field(description="where the method's value comes from")


class WhyNot(_Part):
    """Why a method is not the answer."""

    slug: str
    name: str
    outcome: Literal["leads", "ranked", "excluded"] = Field(description="where it stands under the constraints")
    rank: int | None = Field(description="its place; null if it is left out")
    leader: str | None = Field(description="slug of the leading method; null if nothing fits")
    behind: float | None = Field(description="leader's score minus its own; null if it is left out")
    text: str = Field(description="the answer in a sentence or two")
    losses: tuple[Difference, ...] = Field(description="criteria in which the leader is ahead, the largest first")
    gains: tuple[Difference, ...] = Field(description="criteria in which it is ahead of the leader, the largest first")
    admits: tuple[Change, ...] = Field(description="what would let it in, or put it first")


class Mixture(_Part):
    """The experts of a mixture, which no storage of the base reaches: libraries pack linear layers alone."""

    parameters: int = Field(description="parameters in routed experts")
    percent: float = Field(description="of the model's parameters")
    held_bytes: int = Field(description="weights with all linear layers in NF4 and the experts in bf16")
    packed_bytes: int = Field(description="weights with the experts in NF4, too: an orientation, from the shape alone")
    notes: tuple[Reason, ...] = Field(description="what that means, each with its source")


class ModelView(_Part):
    """The model as it was read."""

    id: str | None = Field(description="id in the catalogue, or null")
    name: str
    repository: str | None = Field(
        description="repository on the Hugging Face hub that scripts load; null without a model of the catalogue"
    )
    read_as: str | None = Field(
        description="how a name that is none of the catalogue's was read, in a sentence or two; null for its own names"
    )
    parameters: int
    kind: str
    layers: int
    hidden_size: int
    notes: tuple[str, ...]
    mixture: Mixture | None = Field(None, description="its experts; null for a dense model")


class CardView(_Part):
    """The card as it was read."""

    id: str | None
    name: str
    usable_bytes: int = Field(description="memory that a process can use, per card")
    count: int
    note: str


class Answer(_Part):
    """A recommendation."""

    schema_version: str
    data_version: str
    constraints: dict[str, Any] = Field(description="the constraints as read, each with its meaning")
    model: ModelView
    card: CardView
    summary: str = Field(description="the answer in two or three sentences")
    effects: tuple[Effect, ...] = Field(description="what the constraints do to the ranking, each with its reason")
    ranked: tuple[Ranked, ...]
    standings: tuple[Standing, ...] = Field(
        description="every method that fits in a line, whatever the limit; none in a brief answer"
    )
    total_ranked: int = Field(description="how many methods fit, before the limit")
    excluded: tuple[Excluded, ...]
    pareto: tuple[str, ...] = Field(
        description="slugs that no other method beats in quality, memory, speed and storage at once"
    )
    why: WhyNot | None = Field(description="why the method named by the constraint why is not the answer; null without")
    advice: tuple[Change, ...] = Field(description="what would change the answer as a whole")
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]


class Estimate(_Part):
    """Memory and time of one method under given settings."""

    schema_version: str
    data_version: str
    slug: str
    name: str
    constraints: dict[str, Any]
    model: ModelView
    card: CardView | None = Field(description="null if no card was given")
    plan: Plan
    fits: Literal["fits", "tight", "too_large"] | None = Field(description="null if no card was given")
    peak: Memory
    missing_bytes: int | None
    counts: ParameterCounts
    formula: tuple[str, ...] = Field(
        description="the closed form at the peak in words, one line per part; empty for a dry run"
    )
    step_time_relative: float
    step_seconds: float | None = Field(description="one optimizer step; null if no card with known rates was named")
    tokens_per_second: float | None
    run_seconds: float | None = Field(
        description="all of data times epochs; null if one of them, or the rates, are unknown"
    )
    kernels: float | None = Field(description="kernels that one micro-batch launches")
    bytes_moved: float | None = Field(description="bytes that the kernels of one micro-batch read and write")
    flops: float = Field(description="floating-point operations of one micro-batch, forward and backward")
    changes: tuple[Change, ...]
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]

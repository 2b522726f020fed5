"""``peft-atlas estimate <slug> --exact``: the answer from a dry run instead of closed forms.

Torch is imported by the dry run alone, so that a copy of the process can do that meanwhile (``profiler.fork``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cli.terminal import stop
from kb.architecture import Architecture, from_config
from kb.catalogue import load_models
from kb.closed_form import Implementation, Storage
from kb.collector import set_aside
from kb.device import Context
from kb.records import load_method, load_methods
from kb.schema import Method
from kb.speed import step_seconds
from profiler.report import Report
from profiler.settings import Settings
from recommender import ConstraintError, Constraints, Estimate, estimate
from recommender.answer import Memory, ParameterCounts, Parts, Plan
from recommender.base import weights
from recommender.experts import viewed
from recommender.footprint import subject
from recommender.memory import ranged
from recommender.reading import Card, echo, read_card, read_model, read_targets, within
from recommender.scoring import read_case
from recommender.service import NO_CARD, SCHEMA_VERSION, default_catalogue
from recommender.setting import STORED_AS
from recommender.speed import TYPICAL, Rates, exchange, times

_READ = {
    "params", "model", "config", "gpu", "gpu_mem", "gpus", "seq", "batch", "quantization", "checkpointing", "autocast",
    "optimizer",
    "head_chunks", "implementation", "rank", "targets", "data", "epochs",
}  # fmt: skip
_STORAGES: Mapping[str, Storage] = {"any": "bf16", **STORED_AS}


@dataclass(frozen=True)
class Exact:
    """A dry run, as an answer and as it was."""

    answer: Estimate
    report: Report


def exact(slug: str, constraints: Constraints, call: Callable[..., Any]) -> Exact:
    """Runs the method without values; ends the command with the reason if that cannot be done.

    ``call`` calls a function with its arguments where torch has been imported, here or elsewhere. It runs the plan that
    the closed form would choose, or bf16 without checkpointing where there is no closed form. Raises ``ConstraintError``
    for a model, card or layer that does not exist.
    """
    unread = sorted(constraints.model_fields_set - _READ)
    if unread:
        stop(f"--exact does not read --{unread[0].replace('_', '-')}; leave it away")
    card, (shape, view) = read_card(constraints), read_model(constraints)
    constraints = within(constraints, shape)
    method, targets = load_methods()[slug], read_targets(constraints)
    closed = _closed(slug, constraints)
    plan = closed.plan if closed else _plain_plan(method, constraints)
    settings = Settings(
        batch=plan.micro_batch,
        seq=constraints.seq,
        checkpointing=plan.checkpointing,
        optimizer=constraints.optimizer,
        storage=plan.storage,
        head_chunks=constraints.head_chunks,
        autocast=plan.autocast,
        devices=plan.gpus,
        sharding="fsdp2" if plan.sharding == "full" else "ddp",
    )
    try:
        config = _config(constraints, view.id, shape)
        report = call(_run, config, slug, settings, plan.implementation, constraints.rank, targets)
    except (ValueError, RuntimeError) as error:
        fixed = shape.kind == "vision"  # an image has as many tokens as its model says, whatever was asked
        if shape.context is not None and constraints.seq > shape.context and not fixed:
            stop(f"--seq {constraints.seq}: {view.name} takes at most {shape.context} tokens")
        if isinstance(error, RuntimeError):
            raise
        stop(str(error))
    peak, doubts = _memory(report, plan, (card or NO_CARD).context)
    seconds, relative = _time(report, plan, constraints, shape, card, ",".join(targets))
    usable = None if card is None else card.usable
    answer = Estimate(
        schema_version=SCHEMA_VERSION,
        data_version=default_catalogue().data_version,
        slug=slug,
        name=method.name,
        constraints=echo(constraints),
        model=viewed(view, subject(shape), default_catalogue().library),
        card=card.view if card is not None else None,
        plan=plan,
        fits=None if usable is None else _verdict(peak, usable),
        peak=peak,
        missing_bytes=peak.device_bytes - usable if usable is not None and peak.device_bytes > usable else None,
        counts=_counts(report, closed, shape),
        formula=(),
        step_time_relative=round(relative, 3),
        **times(seconds if card is not None and card.rates is not None else None, plan, constraints),
        kernels=report.kernels,
        bytes_moved=report.bytes_moved,
        flops=report.flops,
        changes=closed.changes if closed else (),
        assumptions=_assumptions(report, closed is not None, (card or NO_CARD).context),
        warnings=(*doubts, *(closed.warnings if closed else ("There is no closed form to choose a plan by.",))),
    )
    return Exact(answer, report)


def _run(
    config: Mapping[str, object],
    slug: str,
    settings: Settings,
    implementation: Implementation,
    rank: int | None,
    targets: tuple[str, ...],
) -> Report:
    """The dry run; torch is imported only here."""
    from profiler.dry_run import dry_run

    fields = _fields(slug, implementation, rank, targets)
    with set_aside():
        return dry_run(config, slug, settings, implementation, fields, beside=True)


def _closed(slug: str, constraints: Constraints) -> Estimate | None:
    """The closed form's answer, or ``None`` where there is none for these settings; names were read before."""
    try:
        return estimate(slug, constraints)
    except ConstraintError:
        return None


def _plain_plan(method: Method, constraints: Constraints) -> Plan:
    """What is run where no closed form chooses: the whole batch at once, stored as asked for."""
    from profiler.profiles import implementations

    known = [*implementations(method)]
    if constraints.implementation == "any" and not known:
        stop(f"{method.name} cannot be dry-run: neither this project nor PEFT has code of it")
    code = known[-1] if constraints.implementation == "any" else constraints.implementation
    return Plan(
        implementation=code,
        storage=_STORAGES[constraints.quantization],
        checkpointing=constraints.checkpointing == "on",
        autocast=code == "peft" and constraints.autocast == "on",
        micro_batch=-(-constraints.batch // constraints.gpus),
        accumulation=1,
        seq=constraints.seq,
        optimizer=constraints.optimizer,
        targets=read_targets(constraints) or method.mechanism.where,
        gpus=constraints.gpus,
        sharding="none",
    )


def _fields(slug: str, implementation: Implementation, rank: int | None, targets: tuple[str, ...]) -> dict[str, object]:
    """Rank and layers as fields of the method's configuration, ours or PEFT's; ``ValueError`` where it has no such choice."""
    from profiler import profiles

    method = load_method(slug)
    if method is None:
        raise ValueError(f"there is no record of a method {slug!r}")
    knobs, fields = profiles.fields(method, implementation, targets)
    if rank is None:
        return dict(fields)
    if "r" not in knobs:
        raise ValueError(f"--rank: {method.name} has no rank")
    return dict(fields) | {knobs["r"]: rank}


def _config(constraints: Constraints, model_id: str | None, shape: Architecture) -> dict[str, Any]:
    """The configuration that was asked for; of a size alone, a Llama of that shape."""
    if constraints.config is not None:
        return dict(constraints.config)
    if model_id is not None:
        return dict(load_models()[model_id].config)
    config = {
        "model_type": "llama",
        "hidden_size": shape.d,
        "intermediate_size": shape.d_ff,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
    }
    if from_config(config).parameters != shape.parameters:
        stop("--exact cannot build a model of this size alone; name one with --model")
    return config


def _width(plan: Plan, report: Report) -> int:
    """Bytes of a trained number and of its gradient."""
    return 4 if plan.implementation == "peft" and report.slug != "full_fine_tuning" else 2


def _memory(report: Report, plan: Plan, context: Context) -> tuple[Memory, list[str]]:
    """The three quantities with their range, and what is doubtful about them."""
    doubts: list[str] = []
    parts = dict(report.parts)
    carried = report.trainable * _width(plan, report) if plan.accumulation > 1 else 0
    missing = max(carried - parts["gradients"], 0)
    if missing:
        parts["gradients"] += missing
        doubts.append(
            "One micro-batch was run; the gradients that earlier ones leave are added at the peak, and to the upper end "
            "in full."
        )
    above = (carried - missing) if missing else 0
    reserved = report.reserved_bytes + missing
    return ranged(Parts(**parts), reserved, report.moment, "dry_run", above, context), doubts


def _verdict(peak: Memory, usable: int) -> Literal["fits", "tight", "too_large"]:
    if peak.high.device_bytes <= usable:
        return "fits"
    return "tight" if peak.device_bytes <= usable else "too_large"


def _time(
    report: Report, plan: Plan, constraints: Constraints, shape: Architecture, card: Card | None, targets: str
) -> tuple[float, float]:
    """Seconds of an optimizer step, and seconds per token against LoRA in bf16 without checkpointing."""
    placed = card or NO_CARD
    rates: Rates = placed.rates or TYPICAL
    case = read_case(constraints, default_catalogue(), subject(shape), placed, rates, targets)
    seconds = plan.accumulation * step_seconds(
        report.flops,
        report.bytes_moved,
        report.kernels,
        tensor_tflops=rates.operations / 1e12,
        fp32_tflops=rates.operations_fp32 / 1e12,
        bandwidth_gbs=rates.bandwidth / 1e9,
        flops_fp32=report.flops_fp32,
        kernels_inside=report.kernels_inside,
        solver_steps=report.solver_steps,
        bytes_host=report.bytes_host,
    )
    if plan.gpus > 1:
        held, sharded = weights(subject(shape), plan.storage), plan.sharding == "full"
        seconds = max(
            seconds,
            exchange(held, _width(plan, report) * report.trainable, plan.accumulation, plan.gpus, sharded, rates),
        )
    return seconds, seconds / (plan.micro_batch * plan.accumulation * plan.seq * case.reference)


def _counts(report: Report, closed: Estimate | None, shape: Architecture) -> ParameterCounts:
    """The record's counts, with the trained parameters as the run had them."""
    trained = {
        "trainable": report.trainable,
        "trainable_percent": round(100 * report.trainable / shape.parameters, 4),
    }
    if closed is not None:
        return closed.counts.model_copy(update=trained)
    return ParameterCounts(**trained, changed=None, rank=None, stored_bytes=None)


def _assumptions(report: Report, closed: bool, context: Context) -> tuple[str, ...]:
    settings = report.settings
    layers = " and ".join(map(str, report.depths))
    whole = "" if len(report.depths) == 1 else ", extended to all"
    adapters = "fp32 adapters, as PEFT makes them" if report.implementation == "peft" else "adapters in bf16 too"
    products = ", products in bf16 by autocast" if settings.autocast else ""
    said = [
        f"Two whole optimizer steps were run without values, with {layers} layers{whole}; every storage was followed.",
        f"A {settings.dtype} base stored as {settings.storage}, {adapters}{products}; the attention kernel that a CUDA card would take.",
        f"Every example has {settings.seq} tokens, so that no mask is needed; logits are fp32 for the loss.",
        "allocated: live tensors; reserved: what the caching allocator holds for them, replayed; device: that and "
        f"{context.words}.",
    ]
    if closed:
        said.append("The single changes come from the closed form.")
    return tuple(said)

"""The work behind ``peft-atlas run``: train, save, reload, and put what happened into one object.

Nothing here is imported before the command runs, because it needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field

from kb.architecture import Architecture, from_config
from kb.expression import ExpressionError, evaluate
from kb.schema import Count, Method
from reference_impls.ladder import climb as ladder
from reference_impls.ladder import task
from reference_impls.ladder.base import load_base
from reference_impls.training import checkpoint, head, loop, own, row, sense, text
from reference_impls.training.own import Held

NUMBERS = {"fp32": torch.float32, "bf16": torch.bfloat16}
CLIMBED = 0.9  # exact match from which a rung counts as climbed
Progress = Callable[[str, int, int, float], None]  # task, step, steps, loss
Sites = tuple[str, ...] | None  # places of linear layers that are adapted; None where they were given as a pattern


class Score(BaseModel):
    """How good the model is at the task."""

    exact: float = Field(description="share of answers that are right throughout")
    token: float = Field(description="share of answer tokens that are right, given the true tokens before")
    loss: float | None = Field(
        default=None, description="mean loss per answer token, or per label, in nats; only for your own data"
    )


class Counts(BaseModel):
    """The three counts of the record on this model, and the number that really trained."""

    trained: int = Field(description="numbers that the optimizer updated, counted in the running model")
    head: int = Field(default=0, description="those of them that are a new classification head, beside the method")
    total: int = Field(description="numbers in the model while it trained")
    trainable: int | None = Field(description="the record's formula for trained numbers; null if it has none")
    changed: int | None = Field(description="the record's formula for parameters of the base whose value changes")
    rank: int | None = Field(description="the record's formula for the largest rank of a weight's change")


class Outcome(BaseModel):
    """One training run."""

    task: str = Field(description="rung of the default ladder, or the data")
    says: str = Field(description="the task in words")
    example: str | None = Field(description="a question with the answers before and after; only on the ladder")
    learning_rate: float
    steps: int
    labels: list[str] = Field(default_factory=list, description="the classes, when rows of your data have labels")
    majority: float | None = Field(
        default=None, description="share of the held-out rows with the commonest label of the learned ones"
    )
    head_alone: Score | None = Field(
        default=None, description="the frozen base with its new head, trained alone on the same batches"
    )
    before: Score = Field(description="the base, not adapted; a new classification head is random then")
    after: Score = Field(description="the adapted model")
    reloaded: Score = Field(description="a fresh base with the saved adapter")
    climbed: bool | None = Field(description=f"at least {CLIMBED:.0%} of the answers right; null on your own data")
    counts: Counts
    memory_bytes: int
    memory_kind: str = Field(description="what memory_bytes is")
    seconds: float = Field(description="preparation and training")
    losses: list[float] = Field(description="loss of every step")
    adapter: str = Field(description="file of the saved adapter")


class Run(BaseModel):
    """The answer of ``peft-atlas run``."""

    slug: str
    name: str
    model: str
    device: str
    seed: int
    config: dict[str, Any] = Field(description="the method's configuration, every field")
    expected_rung: str | None = Field(description="highest rung that the record expects it to climb, if it says so")
    outcomes: list[Outcome]

    @property
    def reload_differs(self) -> list[str]:
        """Tasks at which a fresh base with the saved adapter answers otherwise than the trained model."""
        return [one.task for one in self.outcomes if not _same(one.reloaded, one.after)]


def _same(one: Score, other: Score) -> bool:
    pairs = zip(one.model_dump().values(), other.model_dump().values(), strict=True)
    return all(a == b or math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def configured(slug: str, overrides: Mapping[str, object]) -> tuple[Any, Any]:
    """The method's module and its configuration with ``overrides``."""
    method = import_module(f"reference_impls.{slug}")
    return method, loop.configure(method, dict(overrides))


def count(
    formula: Count, record: Method, config: Any, architecture: Architecture, where: Sites, largest: bool = False
) -> int | None:
    """A count of the record for this configuration and model; ``None`` if it has no formula or lacks a number.

    ``where`` are the layers of the run; a count per linear layer is unknown where these are.
    """
    if formula.expr is None:
        return None
    known: dict[str, float] = dict(architecture.variables())
    for knob in record.mechanism.hyperparameters:
        value = getattr(config, knob.name, knob.paper_default)
        if isinstance(value, int | float):
            known[knob.symbol] = value
    try:
        if formula.scope == "model":
            return int(evaluate(formula.expr, known))
        if where is None:
            return None
        reached = {*where, *(f"cross_{site}" for site in where)}
        values = [
            (int(evaluate(formula.expr, known | {"d_in": linear.d_in, "d_out": linear.d_out})), linear.count)
            for linear in architecture.reached(reached)
        ]
    except ExpressionError:
        return None
    if largest:
        return max((value for value, _ in values), default=None)
    return sum(value * times for value, times in values)


def _counts(
    record: Method, config: Any, model_config: Mapping[str, object], where: Sites, result: loop.Result, in_head: int = 0
) -> Counts:
    try:
        architecture = from_config(model_config)
    except ValueError:  # a family that the formulas do not cover: the number that trained is still exact
        return Counts(
            trained=result.trainable, head=in_head, total=result.total, trainable=None, changed=None, rank=None
        )
    formulas = record.counts
    return Counts(
        trained=result.trainable,
        head=in_head,
        total=result.total,
        trainable=count(formulas.trainable, record, config, architecture, where),
        changed=count(formulas.changed, record, config, architecture, where),
        rank=count(formulas.rank, record, config, architecture, where, largest=True),
    )


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """One thread on the CPU while the small base works: it is too small for several, which would wait for each other.

    On a busy machine two threads took nine times as long as one.
    """
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def climb(
    record: Method,
    config: Any,
    rung: str,
    *,
    lr: float,
    steps: int,
    seed: int,
    device: torch.device,
    folder: Path,
    where: Sites,
    progress: Progress,
) -> Outcome:
    """Adapts the small base to one rung, saves the adapter, reloads it on a fresh base and examines that too."""
    with _one_thread(device):
        return _climb(record, config, rung, lr, steps, seed, device, folder, where, progress)


def _climb(
    record: Method,
    config: Any,
    rung: str,
    lr: float,
    steps: int,
    seed: int,
    device: torch.device,
    folder: Path,
    where: Sites,
    progress: Progress,
) -> Outcome:
    slug, goal = record.slug, task.RUNGS[rung]
    method = import_module(f"reference_impls.{slug}")
    model, result = ladder.climb(
        method,
        config,
        goal,
        lr=lr,
        steps=steps,
        seed=seed,
        device=device,
        progress=lambda step, loss: progress(rung, step, steps, loss),
    )
    path = checkpoint.save(model, folder / f"{rung}.safetensors", slug, config)
    model_config = load_base().config.to_dict()
    exam = {name: tensor.to(device) for name, tensor in task.exam(goal).items()}
    fresh = load_base(device)
    question = exam["input_ids"][:1, : -task.ANSWER]
    answers = [task.text(task.decode(one, question)[0]) for one in (fresh, model)]
    loaded = checkpoint.load(fresh, path, slug).to(device)
    after = Score(**asdict(result.after))
    return Outcome(
        task=rung,
        says=goal.says,
        example=f"{task.text(question[0])} → before: {answers[0]}; after: {answers[1]}",
        learning_rate=lr,
        steps=steps,
        before=Score(**asdict(result.before)),
        after=after,
        reloaded=Score(**asdict(task.accuracy(loaded, exam))),
        climbed=after.exact >= CLIMBED,
        counts=_counts(record, config, model_config, where, result),
        memory_bytes=result.memory_bytes,
        memory_kind=result.memory_kind,
        seconds=result.seconds,
        losses=list(result.losses),
        adapter=str(path),
    )


def adapt(
    record: Method,
    config: Any,
    model_id: str,
    data: str,
    *,
    lr: float,
    steps: int,
    batch: int,
    accumulation: int,
    longest: int,
    seed: int,
    device: torch.device,
    held: Held,
    folder: Path,
    where: Sites,
    progress: Progress,
) -> Outcome:
    """Adapts a Hugging Face model, by id or folder, to rows of text; a tenth of them is held out for examination.

    Rows with labels are classified: the head trains beside the method, and for comparison once alone.
    """
    slug = record.slug
    method = import_module(f"reference_impls.{slug}")
    rows = row.read_rows(data)
    source = own.source(model_id, rows, held)
    learned, aside = text.hold_out(source.examples(rows, longest), seed)

    def fresh() -> tuple[Any, list[str]]:
        torch.manual_seed(seed)
        model, names = source.fresh(device)
        return model, names

    def score(model: Any) -> Score:
        return Score(**asdict(text.examine(model, aside, batch, source.pad, source.paired)))

    def train(model: Any, method: Any, says: str) -> loop.Result:
        def advance(step: int, loss: float) -> None:
            progress(says, step, steps, loss)

        feed = text.endless(learned, batch, source.pad, seed)
        return loop.train(
            model, method, config, feed, lr=lr, steps=steps, accumulation=accumulation, head=top, progress=advance
        )

    base, top = fresh()
    before, alone = score(base), None
    if top:
        train(head.attach(base), head, f"{data}, head alone")
        alone, (base, _) = score(base), fresh()
    with sense.aside(base):
        model = method.attach(base, config)
    result = train(model, method, data)
    after = score(model)
    path = checkpoint.save(model, folder / "adapter.safetensors", slug, config, top)
    del model, base  # the fresh base takes their place in memory
    plain, _ = fresh()
    numbers = sum(plain.get_parameter(name).numel() for name in top)
    loaded = checkpoint.load(plain, path, slug).to(device)
    return Outcome(
        task=data,
        says=f"{len(learned)} rows to learn from, {len(aside)} held out",
        example=None,
        learning_rate=lr,
        steps=steps,
        labels=list(source.names),
        majority=text.majority(learned, aside) if source.names else None,
        head_alone=alone,
        before=before,
        after=after,
        reloaded=score(loaded),
        climbed=None,
        counts=_counts(record, config, source.config.to_dict(), where, result, numbers),
        memory_bytes=result.memory_bytes,
        memory_kind=result.memory_kind,
        seconds=result.seconds,
        losses=list(result.losses),
        adapter=str(path),
    )

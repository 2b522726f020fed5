"""``peft-atlas run``: train a method now, on the small base that ships with the project or on your model and data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import reference_impls
from kb.loader import KB, RecordError, load_record
from kb.records import load_methods
from kb.schema import Method, Reference
from recommender.reading import near, read_sites
from recommender.setting import STORED_AS
from recommender.units import show_bytes, show_count

if TYPE_CHECKING:
    from cli._runs import Outcome, Run
    from reference_impls.training.own import Held

RUNGS = ("rename", "composition", "new_skill")
NEEDS_TORCH = 'peft-atlas run needs PyTorch and transformers: pip install "peft-atlas[torch]"'

# Where a record says nothing yet: rates that suit the small base, by what the method does.
_LADDER_DEFAULT = {"baseline": 1e-3, "additive.soft_prompt": 0.3}
_OWN_MODEL_DEFAULT = {"baseline": 1e-5, "additive.soft_prompt": 1e-2}
_OTHER_LADDER, _OTHER_OWN_MODEL = 1e-2, 2e-4
_LADDER_STEPS, _OWN_MODEL_STEPS = 300, 100


def implemented() -> list[str]:
    """Slugs with an implementation: the folder is the registry. Imports none of them."""
    found: list[str] = reference_impls.slugs()
    return found


def run(
    slug: Annotated[str, typer.Argument(help="The method, as in `peft-atlas list`.")],
    rung: Annotated[
        str | None,
        typer.Option(help=f"Rung of the default ladder: {', '.join(RUNGS)} or all. Without it, the highest expected."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1_000_000, help="Optimizer steps.")] = None,
    lr: Annotated[float | None, typer.Option(min=1e-9, max=1e3, help="Learning rate.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="The same seed gives the same run.")] = 0,
    device: Annotated[str, typer.Option(help="auto takes CUDA when there is one; else cpu, cuda, cuda:1 …")] = "auto",
    output: Annotated[Path | None, typer.Option(help="Folder for the adapter; runs/<slug> without it.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A field of the method's Config, as in rank=16; may be repeated.")
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(help="Layers to adapt instead of the paper's: all_linear, or q_proj,v_proj and the like."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Your model instead of the small base: a Hugging Face id or a folder.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Your data: JSONL with prompt and completion, text and label, or text; or the id of a dataset."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Rows per batch of your data.")] = 8,
    accumulation: Annotated[int, typer.Option(min=1, max=4096, help="Batches of your data for each step.")] = 1,
    longest: Annotated[int, typer.Option(min=2, max=1_000_000, help="Tokens kept of a row of your data.")] = 512,
    dtype: Annotated[str, typer.Option(help="Numbers of your model: fp32 or bf16, in half the memory.")] = "fp32",
    quantization: Annotated[
        str, typer.Option(help="Your model's linear layers in fewer bits: none, 8bit (LLM.int8) or 4bit (NF4).")
    ] = "none",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Recompute activations of your model instead of keeping them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> None:
    """Train a method, show its accuracy before and after, and save the adapter."""
    record = _record(slug)
    if (model is None) != (data is None):
        _stop("--model and --data go together: which model, and what it is to learn")
    if model is None and (dtype, quantization, checkpointing, accumulation) != ("fp32", "none", False, 1):
        _stop("--dtype, --quantization, --checkpointing and --accumulation belong to --model and --data")
    if model is not None and rung is not None:
        _stop("--rung belongs to the default ladder; it has no meaning with --model and --data")
    if rung not in (None, "all", *RUNGS):
        _stop(f"there is no rung {rung!r}{near(str(rung), RUNGS)}; the ladder has {', '.join(RUNGS)}, or all")
    if find_spec("torch") is None or find_spec("transformers") is None:
        _stop(NEEDS_TORCH, code=1)
    from cli import _runs
    from reference_impls.training.loop import choose_device

    held = _held(record, dtype, quantization, checkpointing)
    folder = output or Path("runs") / slug
    reference = record.reference if model is None else None
    sites, settings = _sites(targets), _settings(setting or [])
    overrides = {**(reference.config if reference else {}), **_layers(record, sites), **settings}
    own = model is not None
    rate = lr or (reference.learning_rate if reference else _rate(record, own))
    length = steps or (reference.steps if reference else _OWN_MODEL_STEPS if own else _LADDER_STEPS)
    outcomes: list[Outcome] = []
    try:
        place = choose_device(device)
        _, config = _runs.configured(slug, overrides)
        with _bar(quiet=as_json) as progress:
            common: dict[str, Any] = {"lr": rate, "steps": length, "seed": seed, "device": place, "folder": folder}
            common["where"] = None if "target" in settings else sites or record.mechanism.where
            if model is not None and data is not None:
                more: dict[str, Any] = {"batch": batch, "accumulation": accumulation, "longest": longest}
                more |= {"held": held, "progress": progress}
                outcomes.append(_runs.adapt(record, config, model, data, **common, **more))
            else:
                for one in _rungs(rung, reference):
                    outcomes.append(_runs.climb(record, config, one, **common, progress=progress))
    except (ValueError, OSError) as error:
        _stop(str(error))
    done = _runs.Run(
        slug=slug,
        name=record.name,
        model=model or "the small base (Llama, 0.67M parameters)",
        device=str(place),
        seed=seed,
        config=asdict(config),
        expected_rung=record.reference.expected_rung if record.reference else None,
        outcomes=outcomes,
    )
    if as_json:
        typer.echo(done.model_dump_json(indent=2))
    else:
        _show(done, reference)
    if done.reload_differs:
        _stop(f"the saved adapter answers otherwise than the trained model: {', '.join(done.reload_differs)}", code=1)


def _stop(message: str, code: int = 2) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


def _record(slug: str) -> Method:
    """The record of an implemented method, or an error that names near ones."""
    here = implemented()
    path = KB / "methods" / f"{slug}.yaml"
    if slug in here:
        try:
            return load_record(path, Method)
        except (RecordError, OSError) as error:
            _stop(f"the record of {slug} cannot be read: {error}", code=1)
    records = load_methods()
    renamed = next((one for one, method in records.items() if slug in method.aliases and one in here), None)
    if renamed:
        return records[renamed]
    if slug in records:
        _stop(f"{records[slug].name} has a record but no implementation yet; there is one of {', '.join(here)}")
    _stop(f"there is no method {slug!r}{near(slug, here)}")


def _held(record: Method, dtype: str, quantization: str, checkpointing: bool) -> Held:
    """How the base is held; a method that packs its base itself is given it whole."""
    from cli import _runs
    from reference_impls.training.own import Held

    numbers, storages = _runs.NUMBERS, STORED_AS
    if dtype not in numbers:
        _stop(f"--dtype {dtype!r} is unknown{near(dtype, numbers)}; give {' or '.join(numbers)}")
    if quantization not in storages:
        _stop(f"--quantization {quantization!r} is unknown{near(quantization, storages)}; give {', '.join(storages)}")
    packs = "quantised_base" in record.applies_to.needs
    if packs and quantization == "8bit":
        _stop(f"{record.name} stores its base in 4 bits itself; leave --quantization away")
    if quantization != "none" and not packs and record.efficiency.quantised_base.value is not True:
        _stop(f"{record.name} is not known to work on a base in fewer bits; leave --quantization away")
    if checkpointing and record.efficiency.backprop_through_backbone.value is False:
        _stop(f"{record.name} sends no gradient through the model, so --checkpointing has nothing to recompute")
    storage = None if packs or quantization == "none" else storages[quantization]
    return Held(dtype=numbers[dtype], storage=storage, recompute=checkpointing)


def _settings(pairs: list[str]) -> dict[str, object]:
    """``rank=16`` as ``{"rank": 16}``: numbers, true, false and null are read as such, all else as text."""
    values: dict[str, object] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            _stop(f"--set {pair!r} is not name=value, as in --set rank=16")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def _sites(targets: str | None) -> tuple[str, ...]:
    """The layers that ``targets`` names; empty for those of the method's paper."""
    try:
        return read_sites(targets) if targets else ()
    except ValueError as error:
        _stop(f"--targets: {error}")


def _layers(record: Method, sites: tuple[str, ...]) -> dict[str, object]:
    """The field of the method's Config that says which layers are adapted, where they are not those of its paper."""
    from profiler.profiles import fields

    try:
        return fields(record, "ours", sites)[1] if sites else {}
    except ValueError as error:
        _stop(f"--targets: {error}")


def _rate(record: Method, own_model: bool) -> float:
    """The learning rate to start from: on your model the paper's, where it has one; else one for its kind."""
    guidance = record.mechanism.learning_rate
    if own_model and guidance is not None and guidance.paper.value is not None:
        return guidance.paper.value
    table, other = (_OWN_MODEL_DEFAULT, _OTHER_OWN_MODEL) if own_model else (_LADDER_DEFAULT, _OTHER_LADDER)
    return next((table[one] for one in record.taxonomy.classes if one in table), other)


def _rungs(wanted: str | None, reference: Reference | None) -> tuple[str, ...]:
    if wanted == "all":
        return RUNGS
    if wanted is not None:
        return (wanted,)
    expected = reference.expected_rung if reference else "none"
    return (RUNGS[0],) if expected == "none" else (expected,)


@contextmanager
def _bar(quiet: bool) -> Iterator[Any]:
    """A progress bar per task, on the error stream, so that the output stays clean."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps, loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        tasks: dict[str, Any] = {}

        def advance(name: str, step: int, total: int, loss: float) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(escape(name), total=total, loss=loss)
            bar.update(tasks[name], completed=step, loss=loss)

        yield advance


def _show(done: Run, reference: Reference | None) -> None:
    console = Console(highlight=False)
    console.print(f"[bold]{escape(done.name)}[/] on {escape(done.model)}, {escape(done.device)}, seed {done.seed}")
    for outcome in done.outcomes:
        console.print()
        _show_outcome(console, outcome)
    if reference and reference.note:
        console.print(f"\n{escape(reference.note)}")


def _show_outcome(console: Console, outcome: Outcome) -> None:
    table = Table(title=escape(f"{outcome.task}: {outcome.says}"), title_justify="left", show_edge=False)
    columns = {"before": outcome.before, "head alone": outcome.head_alone, "after": outcome.after}
    columns["saved and reloaded"] = outcome.reloaded
    scores = {heading: score for heading, score in columns.items() if score is not None}
    table.add_column("")
    for heading in scores:
        table.add_column(heading, justify="right")
    exact = [f"{score.exact:.1%}" for score in scores.values()]
    if outcome.labels:
        table.add_row("labels right", *exact)
    else:
        table.add_row("whole answers right", *exact)
        table.add_row("answer tokens right", *(f"{score.token:.1%}" for score in scores.values()))
    if outcome.before.loss is not None:
        row = "loss per label" if outcome.labels else "loss per token"
        table.add_row(row, *(f"{score.loss:.4f}" for score in scores.values()))
    console.print(table)
    counts = outcome.counts
    facts = Table.grid(padding=(0, 2))
    facts.add_row(
        "trained", f"{_plain(counts.trained)} of {_plain(counts.total)} numbers ({counts.trained / counts.total:.3%})"
    )
    if outcome.majority is not None:
        facts.add_row("of them the head", _plain(counts.head))
        facts.add_row("labels", f"{', '.join(outcome.labels)}; {outcome.majority:.1%} right without reading")
    facts.add_row(
        "by the record's formulas",
        f"trainable {_plain(counts.trainable)}, changed {_plain(counts.changed)}, rank {_plain(counts.rank)}",
    )
    facts.add_row("memory", f"{show_bytes(outcome.memory_bytes)} ({outcome.memory_kind})")
    facts.add_row(
        "time", f"{outcome.seconds:.1f} s for {outcome.steps} steps at learning rate {outcome.learning_rate:g}"
    )
    facts.add_row("adapter", escape(outcome.adapter))
    if outcome.example:
        facts.add_row("for example", escape(outcome.example))
    if outcome.climbed is not None:
        facts.add_row("rung", "[green]climbed[/]" if outcome.climbed else "[yellow]not climbed[/] (90% is the mark)")
    console.print(facts)


def _plain(number: int | None) -> str:
    if number is None:
        return "unknown"
    return f"{number:,}" if number < 10**9 else show_count(number)

"""What an answer looks like in the shell."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recommender import Answer, Constraints, Estimate
from recommender.answer import Citation, Code, Excluded, ModelView, Plan, WhyNot
from recommender.citations import OWN
from recommender.phrase import sentence
from recommender.placement import EVERYWHERE, said
from recommender.units import show_bytes, show_count, show_seconds, with_minus
from recommender.variant import CONFIG

FIELDS = {name: field for name, field in Constraints.model_fields.items() if name != "config"}
"""Fields that are options. ``config`` is read from the file that ``--model`` names."""


def option(name: str) -> str:
    """The option that a field is on the command line."""
    return "--why-not" if name == "why" else f"--{name.replace('_', '-')}"


def spoken(text: str) -> str:
    """``gpu_mem=24GB``, as a query string says it, in the words of the command line."""
    text = text.replace(CONFIG, "--model PATH")
    return re.sub(r"\b([a-z_]+)=(?=\S)", lambda each: f"{option(each[1])} " if each[1] in FIELDS else each[0], text)


def _plan(plan: Plan) -> str:
    code = {"ours": "our implementation", "peft": "PEFT's implementation"}[plan.implementation]
    parts = [
        code,
        *([layers] if (layers := said(plan.targets)) else []),
        plan.storage,
        f"micro-batch {plan.micro_batch}",
    ]
    if plan.accumulation > 1:
        parts.append(f"{plan.accumulation} of them per step")
    if plan.checkpointing:
        parts.append("checkpointing")
    if plan.autocast:
        parts.append("autocast")
    if plan.sharding == "full":
        parts.append(f"sharded over {plan.gpus}")
    return ", ".join(parts)


def _in_short(plan: Plan) -> str:
    """The plan for a column of a table; ``_SHORT`` is its key."""
    code = {"ours": "ours", "peft": "PEFT"}[plan.implementation]
    marks = ("a" if plan.targets == EVERYWHERE else "") + ("c" if plan.checkpointing else "")
    marks += "s" if plan.sharding == "full" else ""
    return f"{code} {plan.storage} {plan.micro_batch}×{plan.accumulation} {marks}".rstrip()


_SHORT = (
    "Plan: whose code, storage of the frozen weights, micro-batch × micro-batches per step; "
    "a all linear layers, c checkpointing, s sharded."
)


def show_answer(out: Console, answer: Answer) -> None:
    """Prints a recommendation: the answer, the ranking, why the leader leads, how to begin, and what is left out."""
    out.print(f"[bold]{escape(sentence(f'{answer.model.name} on {answer.card.name}'))}[/] {escape(answer.summary)}")
    _show_reading(out, answer.model)
    if answer.ranked:
        table = Table(show_edge=False, pad_edge=False)
        timed = all(each.tokens_per_second is not None for each in answer.ranked)
        pace = "tokens/s" if timed else "time"
        numbers = ("#", "on card", pace, "trained", "score")
        for heading in ("#", "method", "verdict", "on card", pace, "trained", "score", "plan"):
            table.add_column(heading, justify="right" if heading in numbers else "left")
        for each in answer.ranked:
            trained = "unknown" if each.counts.trainable is None else show_count(each.counts.trainable)
            star = " *" if each.slug in answer.pareto else ""
            table.add_row(
                str(each.rank),
                escape(each.name) + ("" if each.twin is None else f" = {escape(each.twin.name)}") + star,
                f"[green]{each.verdict}[/]" if each.verdict == "fits" else f"[yellow]{each.verdict}[/]",
                show_bytes(each.memory.device_bytes),
                f"{each.tokens_per_second:,.0f}" if timed else f"{each.step_time_relative:.2f}×",
                trained,
                f"{each.score:.3f}",
                _in_short(each.plan),
            )
        out.print(table)
        against = "" if timed else " Time per token against LoRA."
        out.print(f"[dim]* no other method beats it in everything.{against} {answer.total_ranked} fit. {_SHORT}[/]")
        first = answer.ranked[0]
        if first.run_seconds is not None:
            out.print(f"\nThe whole run of {escape(first.name)} takes about {show_seconds(first.run_seconds)}.")
        out.print(f"\n[bold]Why {escape(first.name)}[/]")
        if first.twin is not None:
            cited = "" if first.twin.source is None else f" [dim]({escape(_source(first.twin.source))})[/]"
            out.print(f" · {escape(first.twin.text)}{cited}")
        for reason in first.reasons:
            mark = {"for": "+", "against": "−", "note": "·"}[reason.kind]
            points = "" if reason.criterion is None else f"{_points(reason.weight)} for {reason.criterion}; "
            out.print(f" {mark} {escape(reason.text)} [dim]({points}{escape(_source(reason.source))})[/]")
        if first.changes:
            out.print(f"\n[bold]{escape(first.name)} with one thing changed[/]")
            for change in first.changes:
                out.print(f"[cyan]→[/] {escape(spoken(change.text))}")
        _show_start(out, first.code)
    if answer.why is not None:
        _show_why(out, answer.why)
    if answer.effects:
        out.print("\n[bold]What your constraints do to the ranking[/]")
        for effect in answer.effects:
            out.print(f" · {escape(spoken(effect.text))} [dim]({escape(effect.source.where)})[/]")
    if answer.excluded:
        _show_excluded(out, answer.excluded)
    for change in answer.advice:
        out.print(f"[cyan]→[/] {escape(spoken(change.text))}")
    for warning in answer.warnings:
        out.print(f"[yellow]![/] {escape(spoken(warning))}")


def _show_reading(out: Console, model: ModelView) -> None:
    """How the name of the model was read, where it is none of the catalogue's, and what holds for its experts."""
    if model.read_as is not None:
        out.print(f"[dim]{escape(model.read_as)}[/]", highlight=False)
    for note in () if model.mixture is None else model.mixture.notes:
        out.print(f" · {escape(note.text)} [dim]({escape(_source(note.source))})[/]")


def _show_start(out: Console, code: Code) -> None:
    """How to begin: in a minute on the small base, and on the model that was asked about."""
    if code.run:
        out.print("\n[bold]Try it in a minute[/], on a small model that ships with this command")
        out.print(f"  {escape(code.run)}", soft_wrap=True)
    there = [name for name in ("script", "llama_factory", "axolotl") if getattr(code, name) is not None]
    if there:
        out.print("\n[bold]Train your model[/]: give the same command this option, and keep what it prints")
        out.print(f"  {' or '.join(f'--code {name}' for name in there)}", soft_wrap=True)
    if code.own:
        numbers = "" if "--dtype" in code.own else ", in fp32"
        out.print(f"\n[bold]Or train it with this command[/]{numbers}, on a file with one JSON object per line")
        out.print(f"  {escape(code.own)}", soft_wrap=True)


def _show_excluded(out: Console, excluded: Sequence[Excluded]) -> None:
    """What is left out, in short; ``--why-not`` tells more of one."""
    out.print(f"\n[bold]Not offered[/] ({len(excluded)}; --why-not METHOD says why)")
    large = [f"{each.name} ({show_bytes(each.needed_bytes or 0)})" for each in excluded if each.code == "memory"]
    if large:
        out.print(f" · need more memory: {escape(', '.join(large))}")
    reasons: dict[str, list[str]] = {}
    for each in excluded:
        if each.code != "memory":
            reasons.setdefault(each.reason, []).append(each.name)
    for reason, names in reasons.items():
        out.print(f" · {escape(', '.join(names))}: {escape(reason)}")


def _source(source: Citation) -> str:
    """A source in short: a title without what follows its colon, and where; of our own figures, the model alone."""
    if source.ref == OWN and source.url is None:
        return f"our {source.where}"
    return f"{source.title.partition(': ')[0]}, {source.where}"


def _points(weight: float) -> str:
    """Points of 100 by which a criterion moves the score from that of the average method that fits."""
    return with_minus(f"{100 * weight:+.1f} points")


def _show_why(out: Console, why: WhyNot) -> None:
    """Why one method is not the answer."""
    out.print(f"\n[bold]Why not {escape(why.name)}?[/] {escape(why.text)}")
    for sign, differences in (("−", why.losses), ("+", why.gains)):
        for each in differences:
            out.print(
                f" {sign} {abs(100 * each.points):.1f} {escape(each.text)} [dim]({escape(_source(each.source))})[/]"
            )
    for change in why.admits:
        out.print(f"[cyan]→[/] {escape(spoken(change.text))}")


def show_estimate(out: Console, answer: Estimate) -> None:
    """Prints an estimate: the peak by part, the plan, and what would change it."""
    peak = answer.peak
    place = f" on {escape(answer.card.name)}" if answer.card else ""
    verdict = ""
    if answer.fits is not None:
        colour = {"fits": "green", "tight": "yellow", "too_large": "red"}[answer.fits]
        verdict = f": [{colour}]{answer.fits.replace('_', ' ')}[/]"
    out.print(f"[bold]{escape(answer.name)}[/] for {escape(answer.model.name)}{place}{verdict}")
    _show_reading(out, answer.model)
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("at the peak")
    table.add_column("memory", justify="right")
    table.add_column("90 % range", style="dim")
    for name, size in peak.parts.model_dump().items():
        table.add_row(name, show_bytes(size), "")
    for name in ("allocated", "reserved", "device"):
        low, middle, high = (getattr(each, f"{name}_bytes") for each in (peak.low, peak, peak.high))
        table.add_row(f"[bold]{name}[/]", show_bytes(middle), f"{show_bytes(low)} to {show_bytes(high)}")
    out.print(table)
    out.print(
        f"Plan: {_plan(answer.plan)}, {answer.plan.seq} tokens. The peak is {escape(peak.moment)}. Basis: {_words(peak.basis)}."
    )
    if answer.missing_bytes:
        out.print(f"[red]{show_bytes(answer.missing_bytes)} are missing.[/]")
    out.print(_work(answer))
    for line in answer.formula:
        out.print(f"[dim]  {escape(line)}[/]", soft_wrap=True)
    for change in answer.changes:
        out.print(f"[cyan]→[/] {escape(spoken(change.text))}")
    for warning in answer.warnings:
        out.print(f"[yellow]![/] {escape(spoken(warning))}")


def _work(answer: Estimate) -> str:
    """Time and work of a step in a line."""
    parts = [f"Time per token: {answer.step_time_relative:.2f} times LoRA's"]
    if answer.step_seconds is not None and answer.tokens_per_second is not None:
        parts.append(f"{answer.step_seconds:.3g} s per step, {answer.tokens_per_second:,.0f} tokens/s")
    if answer.run_seconds is not None:
        parts.append(f"{show_seconds(answer.run_seconds)} for the whole run")
    if answer.bytes_moved is not None and answer.kernels is not None:
        moved = show_bytes(answer.bytes_moved)
        parts.append(f"a micro-batch: {answer.flops / 1e12:.3g} TFLOP, {moved} moved, {answer.kernels:,.0f} kernels")
    return "; ".join(parts) + "."


def _words(name: str) -> str:
    return name.replace("_", " ")

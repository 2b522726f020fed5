"""``peft-atlas list``, ``show`` and ``compare``: the records, read at the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.terminal import console, envelope, near, stop, write_json
from kb.bibliography import entry
from kb.schema import Architecture, Form, Method, Source, Value
from kb.table import COLUMNS, Cell, Column, cited, differing, row, shown
from taxonomy import Taxonomy, UnknownMethod, build

_JSON = Annotated[bool, typer.Option("--json", help="Print the answer as JSON and nothing else.")]
_STATUS = ("baseline", "established", "research")
FEWEST, MOST = 2, 6


def _summary(taxonomy: Taxonomy, method: Method) -> dict[str, Any]:
    """A method in a list."""
    return {
        "slug": method.slug,
        "name": method.name,
        "full_name": method.full_name,
        "year": method.year,
        "status": method.status,
        "summary": method.summary,
        "classes": list(method.taxonomy.classes),
        "hybrid": taxonomy.is_hybrid(method.slug),
        "form": list(method.mechanism.form),
        "mergeable": method.efficiency.mergeable.value,
        "libraries": [each.name for each in method.code.libraries],
        "runs_here": method.reference is not None,
    }


def list_(
    class_: Annotated[
        str | None, typer.Option("--class", help="A class of the taxonomy, e.g. additive or low_rank.")
    ] = None,
    library: Annotated[str | None, typer.Option(help="Shipped by this library, e.g. peft.")] = None,
    form: Annotated[str | None, typer.Option(help="Form of the change, e.g. low_rank, bottleneck, prompt.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Applies to decoder, encoder, encoder_decoder, vision …")
    ] = None,
    status: Annotated[str | None, typer.Option(help="baseline, established or research.")] = None,
    mergeable: Annotated[
        bool | None, typer.Option("--mergeable/--not-mergeable", help="Merges into the weights.")
    ] = None,
    backprop: Annotated[
        bool | None, typer.Option("--backprop/--no-backprop", help="Gradients flow through the backbone.")
    ] = None,
    quantised: Annotated[
        bool | None, typer.Option("--quantised/--not-quantised", help="Works on a quantised base.")
    ] = None,
    hybrid: Annotated[
        bool | None, typer.Option("--hybrid/--no-hybrid", help="Lies in an overlap of the survey's figure.")
    ] = None,
    runs_here: Annotated[
        bool | None, typer.Option("--runs-here/--not-here", help="Has an implementation in this project.")
    ] = None,
    since: Annotated[int | None, typer.Option(help="Published in this year or later.")] = None,
    search: Annotated[str | None, typer.Option(help="Words in its names, aliases or summary.")] = None,
    as_json: _JSON = False,
) -> None:
    """List the methods, filtered as you like."""
    taxonomy = build()
    tests: list[Callable[[Method], bool]] = []
    if class_ is not None:
        members = set(taxonomy.members(_class(taxonomy, class_)))
        tests.append(lambda method: method.slug in members)
    if library is not None:
        shipped = sorted({each.name for method in taxonomy.methods.values() for each in method.code.libraries})
        _known("--library", library, shipped)
        tests.append(lambda method: any(each.name == library for each in method.code.libraries))
    if form is not None:
        _known("--form", form, get_args(Form))
        tests.append(lambda method: form in method.mechanism.form)
    if architecture is not None:
        _known("--architecture", architecture, get_args(Architecture))
        tests.append(lambda method: architecture in method.applies_to.architectures)
    if status is not None:
        _known("--status", status, _STATUS)
        tests.append(lambda method: method.status == status)
    tests += _yes_or_no(taxonomy, mergeable, backprop, quantised, hybrid, runs_here)
    if since is not None:
        tests.append(lambda method: method.year >= since)
    if search is not None:
        words = search.casefold().split()
        tests.append(lambda method: all(word in _text(method) for word in words))
    found = [method for method in taxonomy.methods.values() if all(test(method) for test in tests)]
    if as_json:
        write_json(envelope(total=len(found), methods=[_summary(taxonomy, method) for method in found]))
    else:
        _show_list(console(), taxonomy, found)


def _yes_or_no(
    taxonomy: Taxonomy,
    mergeable: bool | None,
    backprop: bool | None,
    quantised: bool | None,
    hybrid: bool | None,
    runs_here: bool | None,
) -> Iterable[Callable[[Method], bool]]:
    """Tests for the filters that are yes, no or not asked; what is not known is neither."""
    if mergeable is not None:
        yield lambda method: method.efficiency.mergeable.value is mergeable
    if backprop is not None:
        yield lambda method: method.efficiency.backprop_through_backbone.value is backprop
    if quantised is not None:
        yield lambda method: method.efficiency.quantised_base.value is quantised
    if hybrid is not None:
        yield lambda method: taxonomy.is_hybrid(method.slug) is hybrid
    if runs_here is not None:
        yield lambda method: (method.reference is not None) is runs_here


def _known(option: str, value: str, known: Iterable[str]) -> None:
    names = tuple(known)
    if value not in names:
        stop(f"{option}: there is no {value!r}{near(value, names)}")


def _class(taxonomy: Taxonomy, text: str) -> str:
    """A class id, also by its last part."""
    if text in taxonomy.classes:
        return text
    short = {each.rpartition(".")[2]: each for each in taxonomy.classes}
    if text in short:
        return short[text]
    stop(f"--class: there is no class {text!r}{near(text, taxonomy.classes)}")


def _text(method: Method) -> str:
    return " ".join((method.slug, method.name, method.full_name, *method.aliases, method.summary)).casefold()


def _show_list(out: Console, taxonomy: Taxonomy, methods: list[Method]) -> None:
    if not methods:
        out.print(f"No method of {len(taxonomy.methods)} fits all filters; leave one out.")
        return
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("slug", "name", "year", "classes", "mergeable", "libraries"):
        table.add_column(heading, overflow="fold")
    for method in methods:
        table.add_row(
            method.slug,
            escape(method.name),
            str(method.year),
            " ∩ ".join(method.taxonomy.classes),
            shown(method.efficiency.mergeable.value),
            ", ".join(each.name for each in method.code.libraries) or "none",
        )
    out.print(table)
    out.print(f"[dim]{len(methods)} of {len(taxonomy.methods)} methods[/]")


def show(
    slug: Annotated[str, typer.Argument(help="The method, as in `peft-atlas list`, or another name of it.")],
    bibtex: Annotated[bool, typer.Option(help="Only the BibTeX entry of its paper.")] = False,
    as_json: _JSON = False,
) -> None:
    """Show everything about one method."""
    taxonomy = build()
    method = _method(taxonomy, slug)
    if bibtex:
        if method.paper is None:
            stop(f"{method.slug} has no paper to cite", code=1)
        typer.echo(entry(method), nl=False)
    elif as_json:
        write_json(
            envelope(
                method=method.model_dump(mode="json"),
                hybrid=taxonomy.is_hybrid(method.slug),
                region=list(taxonomy.region(method.slug)),
                lineage=asdict(taxonomy.lineage(method.slug)),
                descendants=[asdict(each) for each in taxonomy.descendants(method.slug)],
                nearest=[asdict(each) for each in taxonomy.nearest(method.slug)],
            )
        )
    else:
        _show_method(console(), taxonomy, method)


def _method(taxonomy: Taxonomy, slug: str) -> Method:
    try:
        return taxonomy.method(slug)
    except UnknownMethod as error:
        stop(str(error))


def _source(source: Source | None) -> str:
    return "" if source is None else f"{source.basis} {source.ref}, {source.where} ({source.grade})"


def _show_method(out: Console, taxonomy: Taxonomy, method: Method) -> None:
    kind = " ∩ ".join(taxonomy.classes[each].name for each in method.taxonomy.classes)
    hybrid = ", a hybrid" if taxonomy.is_hybrid(method.slug) else ""
    out.print(f"[bold]{escape(method.name)}[/] ({escape(method.full_name)}), {method.year}: {escape(kind)}{hybrid}")
    out.print(f"\n{escape(method.summary)}\n")
    out.print(escape(method.mechanism.description))
    out.print(f"\n  {escape(method.mechanism.equation)}\n", soft_wrap=True)
    _show_facts(out, method)
    _show_knobs(out, method)
    for title, lines in (
        ("Use it when", method.advice.use_when),
        ("Avoid it when", method.advice.avoid_when),
        ("Common mistakes", method.advice.mistakes),
        ("Relations", [_relation(taxonomy, each) for each in taxonomy.relations_of(method.slug)]),
        ("Nearest", [f"{each.name}: {'; '.join(each.reasons)}" for each in taxonomy.nearest(method.slug, 3)]),
        ("Not verified", method.review.doubts),
    ):
        if lines:
            out.print(f"\n[bold]{title}[/]")
            for line in lines:
                out.print(f" · {escape(line)}")
    if method.paper is not None:
        where = f"https://arxiv.org/abs/{method.paper.arxiv}" if method.paper.arxiv else method.paper.url or ""
        out.print(f"\n{escape(', '.join(method.paper.authors))}: {escape(method.paper.title)}. {escape(where)}")
    if method.code.official is not None:
        out.print(f"Code: {escape(method.code.official.url)}", soft_wrap=True)
    if method.reference is not None:
        out.print(f"\nRun it: peft-atlas run {method.slug}")


def _relation(taxonomy: Taxonomy, statement: Any) -> str:
    names = (taxonomy.methods[each].name for each in (statement.method, statement.other))
    return f" {statement.kind.replace('_', ' ')} ".join(names) + f": {statement.note}"


def _show_facts(out: Console, method: Method) -> None:
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("fact", "value", "source"):
        table.add_column(heading, overflow="fold")
    labels = {column.key: column.label for column in COLUMNS}
    for name, count in ((name, getattr(method.counts, name)) for name in type(method.counts).model_fields):
        text = (
            f"{count.expr} (per {count.scope})"
            if count.expr is not None
            else f"not known or without meaning: {count.note}"
        )
        table.add_row(labels[f"count_{name}"], escape(text), escape(_source(count.source)))
    for name in type(method.efficiency).model_fields:
        value = getattr(method.efficiency, name)
        if isinstance(value, Value):
            note = f" ({value.note})" if value.note else ""
            table.add_row(labels[name], escape(shown(value.value) + note), escape(_source(value.source)))
    out.print(table)


def _show_knobs(out: Console, method: Method) -> None:
    if not method.mechanism.hyperparameters:
        return
    out.print()
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("hyperparameter", "paper", "start with", "effect"):
        table.add_column(heading, overflow="fold")
    for knob in method.mechanism.hyperparameters:
        name = f"{knob.name} ({knob.symbol})"
        table.add_row(escape(name), escape(shown(knob.paper_default)), escape(shown(knob.ours)), escape(knob.effect))
    out.print(table)
    if method.mechanism.learning_rate is not None:
        rate = method.mechanism.learning_rate
        out.print(f"Learning rate: paper {shown(rate.paper.value)}. {escape(rate.advice)}")


def compare(
    slugs: Annotated[list[str], typer.Argument(help="Two to six methods.")],
    only_differences: Annotated[bool, typer.Option("--only-differences", help="Leave out what is equal.")] = False,
    as_json: _JSON = False,
) -> None:
    """Compare two to six methods side by side."""
    taxonomy = build()
    methods = [_method(taxonomy, slug) for slug in slugs]
    chosen = [method.slug for method in methods]
    twice = next((slug for place, slug in enumerate(chosen) if slug in chosen[:place]), None)
    if twice is not None:
        stop(f"{twice} is named twice; name different methods")
    if not FEWEST <= len(methods) <= MOST:
        stop(f"{len(methods)} method(s) named; a comparison takes {FEWEST} to {MOST}")
    different = differing(methods)
    columns = different if only_differences else COLUMNS
    rows = {method.slug: row(method) for method in methods}
    if as_json:
        facts = [_fact(column, methods, rows, differs=column in different) for column in columns]
        common = taxonomy.common(*chosen)
        write_json(envelope(methods=chosen, only_differences=only_differences, facts=facts, common=asdict(common)))
        return
    sources, numbers = cited(methods, columns)
    table = Table(show_edge=False, pad_edge=False, show_lines=True)
    table.add_column("")
    for method in methods:
        table.add_column(escape(method.name), overflow="fold")
    for column in columns:
        style = "bold" if column in different else "dim"
        texts = (_marked(shown(rows[slug][column.key]), numbers.get((slug, column.key))) for slug in chosen)
        table.add_row(f"[{style}]{column.label}[/]", *texts)
    out = console()
    out.print(table)
    out.print("\n[bold]Sources[/]")
    for number, source in enumerate(sources, 1):
        out.print(f"[dim]{escape(f'[{number}]')} {escape(_source(source))}[/]")


def _marked(text: str, number: int | None) -> str:
    """A value with the number of its source."""
    return escape(text) if number is None else f"{escape(text)} [dim]{escape(f'[{number}]')}[/]"


def _fact(
    column: Column, methods: Sequence[Method], rows: dict[str, dict[str, Cell]], *, differs: bool
) -> dict[str, Any]:
    found = {method.slug: column.source(method) for method in methods}
    return {
        "key": column.key,
        "label": column.label,
        "differs": differs,
        "values": {slug: cells[column.key] for slug, cells in rows.items()},
        "sources": {slug: None if source is None else source.model_dump() for slug, source in found.items()},
    }

"""What cards measured here, beside what the dry run predicts for the same runs: ``python -m profiler.validation.card``.

Rows come from ``kb/measurements``. Of the turns of one run the higher peak and the median time count. The result is
``kb/validation/card.json``, which the site shows; while nothing has been measured there is no such file, and the table
says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from kb.catalogue import Gpu, load_gpus
from kb.closed_form import Implementation
from kb.files import put
from kb.measured import FILE, Beside, CardReport, CardRun, Tried
from kb.measurement import Fit, Setting, Step, last, load_measurements
from kb.speed import step_seconds
from profiler.build import kind_of
from profiler.dry_run import dry_run
from profiler.measure import config_of, overrides_of, settings_of
from profiler.report import Report

GENERATOR = "python -m profiler.validation.card"
NOTHING = (
    "No card has been measured yet: kb/measurements is empty. `peft-atlas bench` on a machine with a GPU fills it.\n"
)
Run = tuple[str, str, Setting, Implementation]  # card, method, setting, whose code
Predict = Callable[[Run], Report]


def predicted(run: Run) -> Report:
    """A dry run of the same; ``ValueError`` as that raises it."""
    _, slug, setting, implementation = run
    config = config_of(setting)
    overrides = overrides_of(slug, implementation, kind_of(config), setting.small)
    return dry_run(config, slug, settings_of(setting), implementation, overrides)


def runs(rows: Iterable[Step]) -> dict[Run, list[Step]]:
    """The measured turns of each run, the latest of each turn; models cut small are no measurement of a card."""
    found: dict[Run, list[Step]] = {}
    for row in last(rows).values():
        if isinstance(row, Step) and row.outcome == "measured" and row.machine.gpu and not row.setting.small:
            found.setdefault((row.machine.gpu, row.slug, row.setting, row.implementation), []).append(row)
    return found


def compared(found: Mapping[Run, Sequence[Step]], predict: Predict = predicted) -> Iterator[CardRun]:
    """Each run beside its prediction; one that cannot be dry-run says why."""
    for run, turns in sorted(found.items(), key=lambda item: (item[0][0], item[0][2].said, item[0][1], item[0][3])):
        card, slug, setting, implementation = run
        reason, report = None, None
        try:
            report = predict(run)
        except ValueError as error:
            reason = str(error).splitlines()[0]
        yield CardRun(
            card=card,
            date=max(row.at for row in turns)[:10],
            commit=turns[-1].machine.commit,
            slug=slug,
            implementation=implementation,
            setting=setting.said,
            allocated_bytes=_most(turns, "allocated_bytes"),
            reserved_bytes=_most(turns, "reserved_bytes"),
            step_seconds=_time(turns),
            predicted_allocated=report.allocated_bytes if report else None,
            predicted_reserved=report.reserved_bytes if report else None,
            predicted_seconds=_seconds(card, report) if report else None,
            reason=reason,
        )


def _most(turns: Sequence[Step], name: str) -> int | None:
    return max((value for row in turns if (value := getattr(row, name)) is not None), default=None)


def _time(turns: Sequence[Step]) -> float | None:
    seconds = [value for row in turns for value in row.seconds]
    return median(seconds) if seconds else None


def _seconds(card: str, report: Report) -> float | None:
    """By the catalogue's rates of the card, with the constants that were fitted on another; ``None`` if it has none."""
    known = card_of(card)
    if known is None or known.bandwidth_gbs.value is None:
        return None
    tensor, plain = known.tensor_tflops.value, known.fp32_tflops.value
    if tensor is None or plain is None:
        return None
    return step_seconds(
        report.flops,
        report.bytes_moved,
        report.kernels,
        flops_fp32=report.flops_fp32,
        tensor_tflops=tensor,
        fp32_tflops=plain,
        bandwidth_gbs=known.bandwidth_gbs.value,
    )


def card_of(name: str) -> Gpu | None:
    """The catalogue's card that a driver calls ``name``, if exactly one is meant."""
    words = set(name.lower().replace("-", " ").split())
    fitting = [gpu for gpu in load_gpus().values() if set(gpu.name.lower().replace("-", " ").split()) <= words]
    return fitting[0] if len(fitting) == 1 else None


def beside(found: Mapping[Run, Sequence[Step]]) -> Iterator[Beside]:
    """Ours as a share of PEFT's, for each run that both have."""
    for (card, slug, setting, implementation), mine in sorted(found.items(), key=lambda item: str(item[0])):
        theirs = found.get((card, slug, setting, "peft"))
        if implementation != "ours" or theirs is None:
            continue
        memory = (_most(mine, "allocated_bytes"), _most(theirs, "allocated_bytes"))
        times = (_time(mine), _time(theirs))
        yield Beside(
            card=card,
            slug=slug,
            setting=setting.said,
            memory=memory[0] / memory[1] if memory[0] and memory[1] else None,
            time=times[0] / times[1] if times[0] and times[1] else None,
        )


def tried(rows: Iterable[Fit]) -> Iterator[Tried]:
    """Each batch that was tried within a limit."""
    for row in last(rows).values():
        if isinstance(row, Fit):
            yield Tried(
                card=row.machine.gpu or "",
                slug=row.slug,
                setting=row.setting.said,
                limit_gb=row.limit_gb,
                predicted_bytes=row.predicted_bytes,
                predicted=row.predicted,
                fitted=row.fitted,
            )


def make(predict: Predict = predicted, rows: Sequence[object] | None = None) -> CardReport | None:
    """The whole comparison; ``None`` while nothing has been measured."""
    every = load_measurements() if rows is None else rows
    found = runs(row for row in every if isinstance(row, Step))
    fits = tuple(tried(row for row in every if isinstance(row, Fit)))
    if not found and not fits:
        return None
    return CardReport(
        made_by=GENERATOR, compared=tuple(compared(found, predict)), beside=tuple(beside(found)), tried=fits
    )


def table(card: CardReport | None) -> str:
    """The comparison in lines of text."""
    if card is None:
        return NOTHING
    lines = []
    for quantity, goal in card.goals().items():
        lines.append(
            f"{quantity}: median {goal.median:.2%}, {goal.within:.0%} of {goal.rows} rows within {goal.bound:.0%} "
            f"(wanted: median {goal.wanted:.0%})"
        )
    lines += [
        f"{row.card}, {row.slug} ({row.implementation}), {row.setting}: "
        + ", ".join(f"{name} {error:+.1%}" for name, error in row.errors().items())
        + (f" not predicted: {row.reason}" if row.reason else "")
        for row in card.compared
    ]
    lines += [
        f"{row.slug}, {row.setting}: memory {_share(row.memory)}, time {_share(row.time)} of PEFT's"
        for row in card.beside
    ]
    lines += [
        f"{row.slug}, {row.limit_gb} GB, {row.setting}: predicted {'to fit' if row.predicted else 'too large'}, "
        f"{'fitted' if row.fitted else 'did not fit'}"
        for row in card.tried
    ]
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}×"


def main(path: Path = FILE) -> None:
    """Compares, prints, and keeps the comparison where there is one."""
    card = make()
    sys.stdout.write(table(card))
    if card is not None:
        put(path, card.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    main()

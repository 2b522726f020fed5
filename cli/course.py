"""The course of a training step from a dry run: as a file of ``kb/timelines``, and as a drawing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.terminal import stop
from kb.files import put
from kb.timeline import MEBIBYTE, TIMELINES, Phase, Timeline

if TYPE_CHECKING:
    from kb.schema import Method

SAMPLES = 120  # as many as a page's drawing can show
_WORDS: Mapping[str, Phase] = {
    "in the forward pass": "forward",
    "while logits and loss": "head",
    "at the start of the backward pass": "head backward",
    "in the backward pass": "backward",
    "in the optimizer's step": "optimizer",
}
_EXAMPLES = {  # what the committed files are run on, by the first kind of model that a method applies to
    "decoder": "llama-3.2-1b",
    "encoder": "roberta-large",
    "encoder_decoder": "t5-large",
    "vision": "vit-large-patch16-224",
}
_BATCH, _SEQ = 4, {"encoder": 384}  # tokens: room for a prompt among the 512 positions; 512 of the other kinds


def sampled(report: Any, model: str, made_by: str, fingerprint: str = "") -> Timeline:
    """The timeline of a dry run's report; of equal stretches of samples the highest is kept."""
    course = report.timeline
    width = -(-len(course.bytes) // SAMPLES)
    starts = range(0, len(course.bytes), width)
    kept = [max(range(at, min(at + width, len(course.bytes))), key=lambda row: sum(course.bytes[row])) for at in starts]
    rows = [course.bytes[row] for row in kept]
    phases: list[tuple[Phase, int]] = []
    for place, row in enumerate(kept):
        phase = next(phase for words, phase in _WORDS.items() if course.moments[row].startswith(words))
        if not phases or phases[-1][0] != phase:
            phases.append((phase, place))
    settings = report.settings
    return Timeline(
        made_by=made_by,
        fingerprint=fingerprint,
        slug=report.slug,
        implementation=report.implementation,
        model=model,
        settings=", ".join(_said(settings, report.implementation)),
        phases=tuple(phases),
        mebibytes={
            part: tuple(round(row[column] / MEBIBYTE) for row in rows) for column, part in enumerate(course.parts)
        },
        peak=max(range(len(rows)), key=lambda place: sum(rows[place])),
    )


def _said(settings: Any, implementation: str) -> Iterator[str]:
    yield {"ours": "our implementation", "peft": "Hugging Face PEFT's implementation"}[implementation]
    yield f"{settings.batch} × {settings.seq} tokens"
    yield f"weights in {settings.dtype if settings.storage == 'bf16' else settings.storage}"
    yield "checkpointing" if settings.checkpointing else "no checkpointing"
    yield settings.optimizer.replace("_", " ")


def draw(timeline: Timeline, title: str, path: Path) -> None:
    """Writes the drawing as SVG; ends the command if the file cannot be written."""
    from web.render import render
    from web.views.timeline import course

    _write(path, render("timeline.svg", page=course(timeline, title)).decode())


def committed(slug: str, fingerprint: str, folder: Path = TIMELINES) -> bool:
    """Whether the method's committed timeline is there and was made from what there is now."""
    path = folder / f"{slug}.json"
    return path.is_file() and json.loads(path.read_bytes()).get("fingerprint") == fingerprint


def commit(method: Method, implementation: str, fingerprint: str, made_by: str, folder: Path = TIMELINES) -> str | None:
    """Runs the method on the example of its kind of model and writes its file; the reason if it cannot be run."""
    from kb.catalogue import load_models
    from profiler.dry_run import dry_run
    from profiler.profiles import fields
    from profiler.settings import Settings

    kind = next((kind for kind in method.applies_to.architectures if kind in _EXAMPLES), None)
    if kind is None:
        return f"no model of the kinds {', '.join(method.applies_to.architectures)} can be dry-run"
    storage = "nf4" if "quantised_base" in method.applies_to.needs else "bf16"
    model, settings = _EXAMPLES[kind], Settings(batch=_BATCH, seq=_SEQ.get(kind, 512), storage=storage)
    try:
        further = fields(method, implementation)[1]
        report = dry_run(dict(load_models()[model].config), method.slug, settings, implementation, further)
    except ValueError as error:
        return str(error).splitlines()[0]
    found = sampled(report, model, made_by, fingerprint)
    folder.mkdir(exist_ok=True)
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in found.model_dump(mode="json").items()]
    parts = ",\n".join(f"  {json.dumps(part)}: {json.dumps(row)}" for part, row in found.mebibytes.items())
    lines = [f' "mebibytes": {{\n{parts}\n }}' if line.startswith(' "mebibytes"') else line for line in lines]
    _write(folder / f"{method.slug}.json", "{\n" + ",\n".join(lines) + "\n}\n")
    return None


def _write(path: Path, content: str) -> None:
    try:
        put(path, content)
    except OSError as error:
        stop(f"{path} cannot be written: {error.strerror}", code=1)

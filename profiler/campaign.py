"""Which measurements are made, in which order, and which are done already: ``peft-atlas bench`` works through them.

Every method is measured at the shapes below, ours and PEFT's taking turns in one process (ours, PEFT's, ours, PEFT's),
so that a card that warms up or slows down treats both alike. The first shape is done for all methods before the second
begins. What a file holds is not measured again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module, util
from pathlib import Path

import torch

import reference_impls
from kb.catalogue import load_model
from kb.closed_form import Implementation
from kb.measurement import MEASUREMENTS, Machine, Setting, Step, append, read
from kb.records import load_methods
from kb.schema import Method
from profiler.build import peft_config
from profiler.measure import TIMED, Measured, measure, row
from profiler.profiles import untrained

TURNS: tuple[Implementation, ...] = ("ours", "peft", "ours", "peft")
SHAPES = (
    Setting(model="llama-3.2-3b", batch=4, seq=768),  # of Hugging Face's published runs, their longest batch
    Setting(model="llama-3.2-1b", batch=4, seq=768),
    Setting(model="llama-3.2-3b", batch=4, seq=210),  # their mean length
    Setting(model="llama-2-7b", batch=4, seq=768, checkpointing=True),
    Setting(model="t5-large", batch=8, seq=256),
    Setting(model="roberta-large", batch=16, seq=256),
    Setting(model="llama-3.2-3b", batch=4, seq=768, storage="nf4"),
    Setting(model="llama-3.2-3b", batch=4, seq=768, storage="int8"),
    Setting(model="llama-3.2-1b", batch=4, seq=768, optimizer="adamw_fused"),
)
_LACKING = {"cross_attention": "encoder_decoder", "biases": "encoder"}  # kind of model that has what a method needs
Progress = Callable[[str, int, int], None]  # what is measured, how many are done, of how many


@dataclass(frozen=True)
class Case:
    """One measurement to be made."""

    slug: str
    setting: Setting
    implementation: Implementation
    turn: int

    @property
    def key(self) -> tuple[object, ...]:
        """As ``Step.key``."""
        return ("step", self.slug, self.setting, self.implementation, self.turn)

    @property
    def said(self) -> str:
        """In a few words."""
        return f"{self.slug} ({self.implementation}, turn {self.turn}), {self.setting.said}"


def cases(
    slugs: Iterable[str] | None = None, shapes: Sequence[Setting] = SHAPES, small: bool = False
) -> Iterator[Case]:
    """Every measurement in its order; cut small, on a processor, each shape is two rows of sixteen tokens."""
    records = load_methods()
    chosen = sorted(slugs) if slugs is not None else reference_impls.slugs()
    for shape in shapes:
        setting = shape.model_copy(update={"small": True, "batch": 2, "seq": 16}) if small else shape
        for slug in chosen:
            if not suits(records[slug], setting):
                continue
            for turn, implementation in enumerate(TURNS, start=1):
                if storable(setting, implementation) and (implementation == "ours" or shipped(slug, setting)):
                    yield Case(slug, setting, implementation, turn)


def suits(method: Method, setting: Setting) -> bool:
    """Whether the record lets the method work on this kind of model, stored so."""
    kind = load_model(setting.model).architecture.kind
    needs = method.applies_to.needs
    if kind not in method.applies_to.architectures:
        return False
    if any(need in needs and kind != home for need, home in _LACKING.items()):
        return False
    if "masked_lm" in needs or untrained(method):  # other heads, other files than random weights
        return False
    own_storage = "quantised_base" in needs
    if setting.storage != "bf16":
        return method.efficiency.quantised_base.value is True and not own_storage
    return True


def storable(setting: Setting, implementation: Implementation) -> bool:
    """Whether the base can be stored so here: our codecs need nothing, PEFT's layers bitsandbytes and a card."""
    if setting.storage == "bf16" or implementation == "ours":
        return True
    return torch.cuda.is_available() and util.find_spec("bitsandbytes") is not None


def shipped(slug: str, setting: Setting) -> bool:
    """Whether PEFT has the method by a configuration of its own; full fine-tuning needs none."""
    if util.find_spec("peft") is None:
        return False
    if slug == "full_fine_tuning":
        return False  # it is the model itself on both sides
    import_module("peft")
    try:
        peft_config(slug, {}, layers=1)
    except ValueError:
        return False
    return setting.storage == "bf16" or load_methods()[slug].efficiency.quantised_base.value is True


def remaining(planned: Iterable[Case], path: Path) -> list[Case]:
    """What the file does not hold yet, whatever came of it."""
    done = {found.key for found in read(path)} if path.is_file() else set()
    return [case for case in planned if case.key not in done]


def file_for(where: Machine, date: str, folder: Path = MEASUREMENTS) -> Path:
    """The file of a card and a day; ``ValueError`` where there is no card."""
    if where.gpu is None:
        raise ValueError(
            "measurements are kept of GPUs only; name a scratch file with --output on a machine without one"
        )
    name = "-".join("".join(sign if sign.isalnum() else " " for sign in where.gpu.lower()).split())
    return folder / f"{name}-{date}.jsonl"


def work(
    todo: Sequence[Case],
    path: Path,
    where: Machine,
    device: torch.device,
    *,
    minutes: float | None = None,
    timed: int = TIMED,
    progress: Progress = lambda said, done, of: None,
    run: Callable[..., Measured] = measure,
) -> list[Step]:
    """Measures one after the other, each at once written to ``path``, until all are done or the time is up.

    A measurement is begun only while one as long as the longest so far still fits. A CUDA context that an error has
    spoilt ends the work: what is not measured yet is measured by the next call, in a new process.
    """
    begun, longest, found = time.monotonic(), 0.0, []
    for number, case in enumerate(todo):
        spent = time.monotonic() - begun
        if minutes is not None and spent + longest > 60 * minutes:
            break
        progress(case.said, number, len(todo))
        done = row(
            case.slug,
            case.setting,
            case.implementation,
            case.turn,
            where,
            run(case.slug, case.setting, case.implementation, device, timed),
        )
        append(path, done)
        found.append(done)
        longest = max(longest, time.monotonic() - begun - spent)
        if done.outcome == "failed" and not usable(device):
            break
    return found


def usable(device: torch.device) -> bool:
    """Whether the device still computes: after some errors a CUDA context does nothing any more."""
    try:
        torch.ones(1, device=device).add_(1).item()
    except RuntimeError:
        return False
    return True

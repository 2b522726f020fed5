"""Peaks that fine-tuning frameworks published, one card each: ``kb/validation/framework_runs.csv``.

Rows with a ``reason`` are left out: what they were run with, or which quantity they state, is not known well enough. The
others are run as the framework's own code would have run them, with settings that its code and documents name:

- litgpt: its own model and loop (``profiler.validation.litgpt``). In October 2023 the longest example came first, so that
  nothing was held from an earlier step; later, batches came in any order, and the step before is taken to have been as
  long as the longest, which among thousands of steps happens.
- torchtune: examples are packed to the length that is stated; all parameters are bf16 and so are AdamW's states; logits are
  made fp32, whole or in eight pieces; recomputation is that of every block. AdamW's kernel is taken to be the fused one:
  the unpacked run of the same table, which is not compared, leaves no room for lists of temporaries. A run that was
  compiled is dry-run without the compiler, and only where blocks are computed again, so that the compiler changes no more
  than what one block holds.

Nothing is fitted.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from unittest.mock import patch

import torch
from torch import Tensor, nn

from kb.catalogue import Gpu, load_gpus, load_models
from kb.device import CONTEXT_HIGH, CONTEXT_LOW, prediction_range
from kb.loader import KB
from profiler import build, optimizers
from profiler.dry_run import dry_run
from profiler.report import Report
from profiler.settings import Settings
from profiler.validation import litgpt
from profiler.validation.litgpt import Setup, Sizes

FILE = KB / "validation" / "framework_runs.csv"
UNITS = {"GB": 10**9, "GiB": 2**30}
OLD = 2023  # litgpt's code of that year
FEW = 2  # tokens: the shortest batch

SIZES: dict[str, Sizes] = {
    "phi-1.5": Sizes(24, 2048, 32, 51200, 8192, norm="layer", gated=False, parallel=True, shared_norm=True, bias=True, head_bias=True, rotary=0.5),
    "StableLM Alpha 3B": Sizes(16, 4096, 32, 50688, 16384, norm="layer", gated=False, parallel=True, bias=True, rotary=0.25),
    "Llama-2-7B": Sizes(32, 4096, 32, 32000, 11008),
    "Llama-2-13B": Sizes(40, 5120, 40, 32000, 13824),
    "falcon-7b": Sizes(32, 4544, 71, 65024, 18176, groups=1, norm="layer", gated=False, parallel=True, shared_norm=True),
    "gemma-2b": Sizes(18, 2048, 8, 256000, 16384, groups=1),
    "gemma-7b": Sizes(28, 3072, 16, 256000, 24576, head_width=256),
    "gemma-2-2b": Sizes(26, 2304, 8, 256000, 9216, groups=4, head_width=256, after_norms=True, window=2, capped=True),
    "gemma-2-9b": Sizes(42, 3584, 16, 256000, 14336, groups=8, head_width=256, after_norms=True, window=2, capped=True),
    "Llama-3-8B": Sizes(32, 4096, 32, 128256, 14336, groups=8),
    "Llama-3.2-1B": Sizes(16, 2048, 32, 128256, 8192, groups=8),
    "Llama-3.2-3B": Sizes(28, 3072, 24, 128256, 8192, groups=8),
    "Mistral-7B": Sizes(32, 4096, 32, 32000, 14336, groups=8),
    "phi-2": Sizes(32, 2560, 32, 51200, 10240, norm="layer", gated=False, parallel=True, shared_norm=True, bias=True, head_bias=True, rotary=0.4),
    "Phi-3-mini-4k": Sizes(32, 3072, 32, 32064, 8192, window=1),
    "TinyLlama-1.1B": Sizes(22, 2048, 32, 32000, 5632, groups=4),
}  # fmt: skip
SIZES["stablelm-base-alpha-3b"] = SIZES["StableLM Alpha 3B"]  # two names of one model
SIZES["Llama-3.1-8B"] = SIZES["Llama-3-8B"]

# One common card for each size of memory.
STANDARD = (
    "rtx-3080-10gb",
    "rtx-3060-12gb",
    "t4",
    "rtx-4090",
    "rtx-5090",
    "a100-sxm4-40gb",
    "l40s",
    "a100-sxm4-80gb",
    "h200-sxm-141gb",
)


@dataclass(frozen=True)
class FrameworkRun:
    """One published peak of allocated bytes, and what it was made with."""

    name: str
    framework: str
    url: str
    card: str
    model: str
    setup: Setup
    settings: Settings
    measured: int  # bytes

    @property
    def alike(self) -> tuple[object, ...]:
        """All that memory depends on."""
        made = self.setup
        return (
            self.framework,
            SIZES[self.model],
            (made.method, made.rank, made.targets, made.storage, made.old),
            self.settings.model_dump_json(),
        )


@cache
def framework_runs() -> tuple[FrameworkRun, ...]:
    """The rows that are checked, in the order of the file."""
    return tuple(_read(row) for row in _rows() if not row["reason"])


def left_out() -> dict[str, int]:
    """How many rows are not checked, by reason."""
    return dict(Counter(row["reason"] for row in _rows() if row["reason"]).most_common())


def _rows() -> list[dict[str, str]]:
    with FILE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _read(row: Mapping[str, str]) -> FrameworkRun:
    old = int(row["year"]) <= OLD
    first = old and row["framework"] == "litgpt"
    return FrameworkRun(
        name=row["name"],
        framework=row["framework"],
        url=row["url"],
        card=row["card"],
        model=row["model"],
        setup=Setup(row["method"], int(row["rank"] or 0), tuple(row["targets"].split()), row["storage"], old),  # type: ignore[arg-type]  # checked by a test
        settings=Settings(
            batch=int(row["batch"]),
            seq=int(row["seq"]),
            optimizer=row["optimizer"],
            checkpointing=row["checkpointing"] == "true",
            head_chunks=int(row["head_chunks"]),
            before=FEW if first else None,
        ),
        measured=round(float(row["peak"]) * UNITS[row["unit"]]),
    )


def memory(run: FrameworkRun) -> dict[str, float]:
    """Allocated and reserved bytes at the peak of one run, and the parameters that train in it."""
    found = _litgpt(run) if run.framework == "litgpt" else _torchtune(run)
    return {"allocated": found.allocated_bytes, "reserved": found.reserved_bytes, "trainable": found.trainable}


def _torchtune(run: FrameworkRun) -> Report:
    return dry_run(load_models()[run.model.lower()].config, "full_fine_tuning", run.settings)


def _litgpt(run: FrameworkRun) -> Report:
    sizes = SIZES[run.model]
    config: dict[str, object] = {"num_hidden_layers": sizes.layers}
    if sizes.window > 1:  # then blocks repeat in groups
        config["layer_types"] = [at % sizes.window == 0 for at in range(sizes.layers)]
    with _as_litgpt(run):
        return dry_run(config, "full_fine_tuning", run.settings)


@contextmanager
def _as_litgpt(run: FrameworkRun) -> Iterator[None]:
    """Inside, a dry run builds litgpt's model instead of that of ``transformers``."""
    setup = replace(run.setup, held=[])

    def base(config: Mapping[str, object], *args: object) -> nn.Module:
        sizes = replace(SIZES[run.model], layers=int(str(config["num_hidden_layers"])))
        torch.set_default_dtype(torch.bfloat16)
        try:
            return litgpt.Gpt(sizes, setup)
        finally:
            torch.set_default_dtype(torch.float32)

    def batch_for(model: nn.Module, config: object, settings: Settings, tokens: int) -> dict[str, Tensor]:
        return {"input_ids": torch.zeros(settings.batch, tokens, dtype=torch.long)}

    def training(model: nn.Module, slug: str, settings: Settings, *args: object) -> build.Training:
        made = optimizers.make(settings.optimizer, model)
        return build.Training(model, litgpt.loss, made, lambda t, total: None, ())

    with (
        patch.object(build, "ready", lambda *args: None),
        patch.object(build, "suits", lambda *args: None),
        patch.object(build, "base", base),
        patch.object(build, "batch_for", batch_for),
        patch.object(build, "training", training),
    ):
        yield


def card_named(reserved: float) -> Gpu | None:
    """The smallest standard card that holds the upper end of the range for ``reserved`` bytes, if any does."""
    needed = reserved * prediction_range()[1] + CONTEXT_HIGH
    cards = (load_gpus()[name] for name in STANDARD)
    return next((card for card in cards if card.usable_bytes() >= needed), None)


def too_small(run: FrameworkRun, reserved: float) -> bool:
    """Whether the card that we name for ``reserved`` predicted bytes cannot have held what was measured."""
    card = card_named(reserved)
    return card is not None and run.measured + CONTEXT_LOW > card.usable_bytes()

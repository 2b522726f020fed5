"""PEFT's 63 runs on MetaMathQA: Llama-3.2-3B, batches of four, one NVIDIA L40S.

The training loop, which is public, tells what a dry run has to assume: the model's output is held until the next step, keys
and values are cached, gradients are dropped before the forward pass and clipped before the optimizer's step, batches come
sorted by length, the longest of twenty first, and the cache is emptied just before it. What it does not tell is how long the
longest batch was: texts are cut at 768 tokens, but those of more than 1,300 characters had been left out. ``LONGEST`` is
therefore the one number that is fitted, on one row (``FITTED_ON``); all other rows are predictions.

Time is that of the mean step: ``MEAN`` tokens per example, from the published number of tokens of all 20,000 examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from torch import nn

from kb.catalogue import load_models
from profiler import build, depth
from profiler.account import requests
from profiler.allocator import replay
from profiler.live import Live, Moment, Work
from profiler.run import STEPS, run
from profiler.settings import Settings
from profiler.validation import osf
from profiler.validation.published import PublishedRun, adapted, after_step, elsewhere, optimizer_of
from profiler.validation.values import assumed

LONGEST = 692  # tokens of the longest batch; fitted on FITTED_ON
FITTED_ON = "lora/llama-3.2-3B-rank32"
MEAN = 210  # tokens per example: 4,198,051 tokens in 20,000 examples
MODEL = "llama-3.2-3b"
SETTINGS = Settings(batch=4, seq=LONGEST, padded=True, keep_outputs=True, use_cache=True, before=100, emptied=True)
TARGET = "reserved memory, language"

WHY: dict[str, str] = {}


@contextmanager
def as_run(published: PublishedRun) -> Iterator[None]:
    """Inside, a dry run attaches the method as ``published`` did, whatever the slug says."""

    def training(
        model: nn.Module, slug: str, settings: Settings, implementation: object, overrides: Mapping[str, object]
    ) -> build.Training:
        with assumed():
            changed = adapted(model, published)
            older = osf.as_then(changed)
        return build.Training(
            changed,
            _loss,
            optimizer_of(changed, published),
            after_step(changed, published),
            (*elsewhere(changed), *older),
        )

    with patch.object(build, "training", training):
        yield


def _loss(model: nn.Module, batch: dict[str, object]) -> object:
    with assumed(), osf.forward_then():
        return model(**batch).loss


def memory(published: PublishedRun) -> dict[str, float]:
    """The maximum of reserved bytes of one run, and the parameters that train in it."""
    config = load_models()[MODEL].config
    with as_run(published):
        done = run(config, "full_fine_tuning", SETTINGS, "peft", {})
    return {"reserved": replay(requests(done.trace, SETTINGS.emptied)), "trainable": done.trainable}


def _shallow(config: Mapping[str, object], layers: int) -> dict[str, object]:
    """Fields that state the model's depth, for a model of ``layers``."""
    return {key: layers for key in ("num_layers", "adapter_layers") if isinstance(config.get(key), int)}


def work(published: PublishedRun) -> dict[str, float]:
    """Operations, bytes and kernels of the mean step: straight lines in the number of layers."""
    config = load_models()[MODEL].config
    settings = SETTINGS.model_copy(update={"seq": MEAN, "before": None})
    plan = depth.plan(config)
    if plan is None:
        raise ValueError(f"{MODEL} is not deep enough to be extended")
    found: list[dict[str, int]] = []
    for layers in plan.depths:
        live = Live()
        with as_run(replace(published, config=published.config | _shallow(published.config, layers))):
            done = run(depth.shallow(config, layers), "full_fine_tuning", settings, "peft", {}, live)
        update = live.works.get(Moment(STEPS, "optimizer"), Work())
        found.append({**vars(done.work), "bytes_optimizer": update.bytes_moved})
    one, two = found
    return {name: float(plan.line(one[name], two[name])) for name in one}

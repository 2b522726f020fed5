"""The dry run: two whole training steps of a method on a model, without weights, without a GPU.

``dry_run`` builds the model from its configuration, attaches the method, steps it twice under fake tensors and reports
the peak of allocated bytes by part and by block, the moment of the peak, the course of the last step, what the caching
allocator reserves for it, and the work of that step. Of deep models few layers are run and their trace is stretched
(``profiler.stretch``); several cards are computed from one (``profiler.sharding``).

Limits: no value exists, so that what depends on values (pruning by importance, an early stop, a router's choice, the
columns that 8-bit products treat apart) is taken as it first stands, or refused by name. Layers in 4 and 8 bits, paged and
8-bit optimizers are imitations of bitsandbytes (``profiler.quantised``, ``profiler.optimizers``). What the kernels of a card
allocate for themselves is counted for attention only; the CUDA context is a range (``kb.device``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from kb.closed_form import Implementation
from profiler import depth
from profiler.account import reported
from profiler.fork import side_by_side
from profiler.live import Work
from profiler.report import Report
from profiler.run import Run, peaks, run
from profiler.settings import Settings
from profiler.stretch import stretch

_LIMITS = (
    (("vocab_size",), 1 << 24),
    (("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2048),
    (("expert",), 1 << 14),
    (("_size", "n_embd", "d_model", "d_ff", "d_kv", "head_dim", "_dim", "n_inner"), 1 << 20),
    (("heads", "n_head"), 1 << 14),
)


def dry_run(
    config: Mapping[str, object],
    slug: str,
    settings: Settings | None = None,
    implementation: Implementation = "ours",
    overrides: Mapping[str, object] | None = None,
    extend: bool | None = None,
    beside: bool = False,
) -> Report:
    """Peak memory and work of ``slug`` on the model that ``config`` (as in a ``config.json``) describes.

    ``overrides`` are fields of the method's ``Config``, or of PEFT's class if ``implementation`` is "peft". With
    ``extend``, few layers are run and their trace is stretched to all (``profiler.stretch``); left out, this is done
    where it is less work and the layers are uniform. With ``beside``, a copy of this process runs one of the two depths
    (``profiler.fork``): for a command on its own, not for one of many processes. Raises ``ValueError`` naming what does
    not exist, does not fit, is absurd, or cannot be run without values.
    """
    settings = settings or Settings()
    sane(config)
    go = partial(run, slug=slug, settings=settings, implementation=implementation, overrides=overrides or {})
    plan = None if extend is False else depth.plan(config)
    if plan is not None and extend is None and plan.wanted <= sum(plan.depths):
        plan = None
    done, depths = None, (depth.layers(config),)
    if plan is not None:
        try:
            one, two = (partial(go, depth.shallow(config, layers)) for layers in plan.depths)
            done = _extended(*_both(one, two, beside), plan)
            depths = plan.depths
        except depth.UnevenError:
            if extend:
                raise
    return reported(done or go(config), slug, settings, implementation, depths)


def _both(one: Callable[[], Run], two: Callable[[], Run], beside: bool) -> tuple[Run, Run]:
    """The runs of both depths."""
    if not beside:
        return one(), two()
    longer, shorter = side_by_side(two, one)  # the copy has the shorter one, for it has to send the result
    return shorter, longer


def _extended(one: Run, two: Run, plan: depth.Plan) -> Run:
    """The run of the wanted depth."""
    lengths = {name: plan.line(one.lengths.get(name, 0), length) for name, length in two.lengths.items()}
    trace = stretch(one.trace, two.trace, lengths, plan)
    work = Work(*(plan.line(getattr(one.work, name), getattr(two.work, name)) for name in Work.__dataclass_fields__))
    period = plan.depths[1] - plan.depths[0]
    owned = {}
    for name, blocks in two.owned.items():
        middle = blocks[plan.ends : plan.ends + period] * ((lengths[name] - len(blocks)) // period)
        owned[name] = [*blocks[: plan.ends], *middle, *blocks[plan.ends :]]
    return Run(peaks(trace), lengths, work, plan.line(one.trainable, two.trainable), trace, owned, two.outside)


def sane(config: Mapping[str, object]) -> None:
    """Raises ``ValueError`` naming a field of ``config`` that no model has by far."""
    for key, value in config.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        limit = next((limit for words, limit in _LIMITS if any(word in key for word in words)), None)
        if limit is not None and not 0 <= value <= limit:
            raise ValueError(f"{key}: {value} is out of reason; a dry run takes 0 to {limit}")
    text = config.get("text_config")
    if isinstance(text, Mapping):
        sane(text)

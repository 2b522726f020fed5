"""The dry run: two whole training steps of a method on a model, without weights, without a GPU.

``dry_run`` builds the model from its configuration, attaches the method, steps it twice under fake tensors and reports
the peak of allocated bytes by part, the moment of the peak, what the caching allocator reserves for it, and the work of
the second step. Deep models are run with few layers and extended: layers are uniform, so that the peak of each stretch of
the step is a straight line in their number.

Limits: one card, AdamW or SGD, base weights in bf16 or fp32, the attention that
``transformers`` chooses by itself (SDPA, or plain where a family has no other); no value exists, so that what depends on
values (pruning by importance, an early stop, a router's choice) is taken as it first stands or refused by name. What the
kernels of a card allocate for themselves is counted for attention only, and the CUDA context not at all.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch._subclasses import fake_tensor

from profiler import build, depth, quantised
from profiler.allocator import EMPTY, MIB, replay
from profiler.fake import without_values
from profiler.kernel import cuda_kernels
from profiler.live import PARTS, Live, Moment, Peak, Trace, Work, tensors_of
from profiler.settings import Implementation, Settings

STEPS = 2
_VALUES = (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException, NotImplementedError)
CUBLAS = 8 * MIB + 128 * 1024  # bytes; cuBLAS's workspace, ":4096:2:16:8", which it takes from the allocator


class Report(BaseModel):
    """What a dry run found. Bytes are those of one card."""

    model_config = ConfigDict(frozen=True)

    slug: str = Field(description="the method")
    implementation: Implementation = Field(description="whose code was run")
    settings: Settings = Field(description="as they were read")
    allocated_bytes: int = Field(description="peak of tensors that are alive: torch.cuda.max_memory_allocated")
    reserved_bytes: int | None = Field(
        description="what the caching allocator holds for them: torch.cuda.max_memory_reserved; null if not replayed"
    )
    parts: dict[str, int] = Field(description="allocated_bytes by what they hold; the parts add up to it")
    moment: str = Field(description="when the peak is reached, in words")
    trainable: int = Field(description="parameters that the optimizer updates")
    flops: int = Field(description="floating-point operations of one step, a product and a sum counted as two")
    bytes_moved: int = Field(description="bytes that the kernels of one step read and write")
    kernels: int = Field(description="kernels of one step")
    depths: tuple[int, ...] = Field(description="numbers of layers that were run; the model's own if it was run whole")


@dataclass(frozen=True)
class Run:
    """One dry run of one depth, before it is put into words."""

    peaks: dict[Moment, Peak]
    lengths: dict[str, int]  # stack of blocks -> its length
    work: Work
    trainable: int
    trace: Trace


def dry_run(
    config: Mapping[str, object],
    slug: str,
    settings: Settings | None = None,
    implementation: Implementation = "ours",
    overrides: Mapping[str, object] | None = None,
    extend: bool = False,
) -> Report:
    """Peak memory and work of ``slug`` on the model that ``config`` (as in a ``config.json``) describes.

    ``overrides`` are fields of the method's ``Config``, or of PEFT's class if ``implementation`` is "peft". With
    ``extend``, few layers are run and the result is extended to all; the allocator is then not replayed. Raises
    ``ValueError`` naming what does not exist, does not fit, or cannot be run without values.
    """
    settings = settings or Settings()
    go = partial(run, slug=slug, settings=settings, implementation=implementation, overrides=overrides or {})
    plan = depth.plan(config) if extend else None
    if plan is None:
        done = go(config)
        moment, peak = max(done.peaks.items(), key=lambda item: item[1].total)
        work, trainable = done.work, done.trainable
        depths: tuple[int, ...] = (depth.layers(config),)
        lengths = done.lengths
        reserved = replay(_requests(done.trace, settings.emptied))
    else:
        one, two = (go(depth.shallow(config, layers)) for layers in plan.depths)
        moment, peak, lengths = depth.extend(one, two, plan)
        work = Work(
            *(plan.line(getattr(one.work, name), getattr(two.work, name)) for name in Work.__dataclass_fields__)
        )
        trainable, reserved, depths = plan.line(one.trainable, two.trainable), None, plan.depths
    return Report(
        slug=slug,
        implementation=implementation,
        settings=settings,
        allocated_bytes=peak.total,
        reserved_bytes=reserved,
        parts={part: peak.parts[part] for part in PARTS},
        moment=in_words(moment, lengths),
        trainable=trainable,
        flops=work.flops,
        bytes_moved=work.bytes_moved,
        kernels=work.kernels,
        depths=depths,
    )


def run(
    config: Mapping[str, object],
    slug: str,
    settings: Settings,
    implementation: Implementation,
    overrides: Mapping[str, object],
    live: Live | None = None,
) -> Run:
    """Two steps of the model as it is, whole; ``live`` may bring its own way of counting."""
    build.ready(config, slug, implementation)
    build.suits(slug, settings)
    pretended = implementation == "peft" and settings.storage != "bf16"
    with (
        _quietly(),
        quantised.pretended() if pretended else nullcontext(),
        without_values(),
        live or Live() as live,
        cuda_kernels(settings.autocast),
    ):
        model = build.base(config, settings, implementation)
        live.hold([*_state(model), *quantised.beside(model)], "weights")
        try:
            training = build.training(model, slug, settings, implementation, overrides)
            _label(live, model, training)
            gc.collect()
            lengths = _watch(training.model, live)
            if settings.keep_outputs:
                kept: list[Any] = []
                training.model.register_forward_hook(
                    lambda module, args, output: kept.__setitem__(slice(None), [output])
                )
            for t in range(1, STEPS + 1):
                tokens = settings.before if t < STEPS and settings.before else settings.seq
                _step(live, training, build.batch_for(model, config, settings, tokens), t, settings.autocast)
        except _VALUES as error:
            raise ValueError(
                f"{slug} ({implementation}) reads values, which a dry run does not have: {error}"
            ) from error
        except (RuntimeError, TypeError) as error:
            if settings.head_chunks == 1 and settings.storage == "bf16":
                raise
            knob = "a head in chunks" if settings.storage == "bf16" else f"a base stored as {settings.storage}"
            raise ValueError(f"{slug} ({implementation}) does not work with {knob} here: {error}") from error
        trainable = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
        peaks = {moment: peak for moment, peak in live.trace.segments().items() if moment.step > 0}
        return Run(peaks, lengths, live.total(STEPS), trainable, live.trace)


def _state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _label(live: Live, model: nn.Module, training: build.Training) -> None:
    """Says which tensors are the method's, and notes gradients as they come."""
    live.ignore(training.elsewhere)
    live.hold([tensor for tensor in _state(training.model) if live.unknown(tensor)], "adapter")
    for one in live.alive(("build",), 0):
        one.part = "adapter"  # masks and fixed projections that no module has registered
    for parameter in training.model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: live.hold([p.grad], "gradients"))


def _watch(model: nn.Module, live: Live) -> dict[str, int]:
    """Lets ``live`` know when a block or the head begins, forwards and backwards; gives the stacks' lengths."""
    lengths: dict[str, int] = {}
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{stack}.") for stack in lengths)
        if isinstance(module, nn.ModuleList) and len(module) > 1 and not nested:
            lengths[name] = len(module)
            for index, block in enumerate(module):
                _at(block, live, name, index)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        head.register_forward_pre_hook(partial(_head_begins, live))
    return lengths


def _at(block: nn.Module, live: Live, stack: str, index: int) -> None:
    """Marks where ``block`` begins and ends."""

    def begins(module: nn.Module, args: Any) -> None:
        if live.moment.phase == "forward":
            live.enter(Moment(live.moment.step, "forward", stack, index))

    def ends(module: nn.Module, args: Any, output: Any) -> None:
        if live.moment.phase != "forward":
            return  # a block that is computed again in the backward pass
        step = live.moment.step
        for tensor in tensors_of(output)[:1]:
            if tensor.requires_grad:
                tensor.register_hook(lambda _: live.enter(Moment(step, "backward", stack, index)))
        live.enter(Moment(step, "forward"))

    block.register_forward_pre_hook(begins)
    block.register_forward_hook(ends)


def _head_begins(live: Live, module: nn.Module, args: Any) -> None:
    """From the head on, what is made belongs to logits and loss, until their gradient has come back to its input."""
    if live.moment.phase != "forward":
        return
    step = live.moment.step
    live.enter(Moment(step, "head"))
    if args and isinstance(args[0], Tensor) and args[0].requires_grad:
        args[0].register_hook(lambda _: live.enter(Moment(step, "backward")))


def _step(live: Live, training: build.Training, batch: dict[str, Tensor], t: int, autocast: bool) -> None:
    """One training step, phase by phase."""
    live.enter(Moment(t, "forward"))
    training.optimizer.zero_grad()
    training.model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = training.loss(training.model, batch)
    headed = live.moment.phase == "head"
    for one in live.alive(("forward",), t):
        one.part = "activations"
    live.enter(Moment(t, "head backward" if headed else "backward"))
    loss.backward()
    live.enter(Moment(t, "optimizer"))
    training.optimizer.step()
    for state in training.optimizer.state.values():
        for tensor in tensors_of(list(state.values())):
            if tensor.dim() == 0:
                live.ignore([tensor])  # the step counter stays in the computer's memory
            else:
                live.hold([tensor], "optimizer")
    live.hold(getattr(training.optimizer, "tables", ()), "optimizer")
    live.ignore(getattr(training.optimizer, "elsewhere", ()))
    training.after(t, 1000)
    del loss
    for one in live.trace.held:
        if one.part is None and one.moment.step == t:
            one.part = {"head": "logits", "head backward": "logits", "optimizer": "optimizer"}.get(one.moment.phase)


def _requests(trace: Trace, emptied: bool) -> Iterator[tuple[int, int]]:
    """The trace as an allocator sees it: kernels' workspaces come and go, the cache is emptied before the last step.

    What was made and dropped while the model was built is left out: weights are loaded, not computed.
    """
    starts = {moment.step: at for at, moment in reversed(trace.marks)}
    built, last = trace.events[: starts[1]], starts[STEPS]
    lent = len(trace.held)
    yield lent, CUBLAS
    gone = {-event for event in built if event < 0}
    for event in built:
        if event > 0 and event not in gone and trace.held[event - 1].size:
            yield event - 1, trace.held[event - 1].size
    for at, event in enumerate(trace.events[starts[1] :], starts[1]):
        if emptied and at == last:
            yield EMPTY
        held = trace.held[abs(event) - 1]
        if at in trace.extra:
            lent += 1
            yield lent, -(-trace.extra[at] // 512) * 512
            yield lent, 0
        if held.size:
            yield abs(event) - 1, held.size if event > 0 else 0


@contextmanager
def _quietly() -> Iterator[None]:
    """On one thread, for there is nothing to compute, and with cycles of references freed at set times only."""
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # what is there already need not be looked at again
    gc.disable()
    told = fake_tensor.log.disabled
    fake_tensor.log.disabled = True  # it prints what is raised as well
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT and transformers rename between releases
            yield
    finally:
        fake_tensor.log.disabled = told
        gc.unfreeze()
        torch.set_num_threads(threads)
        if collecting:
            gc.enable()


def in_words(moment: Moment, lengths: Mapping[str, int]) -> str:
    """A moment as a person would say it."""
    place = {
        "forward": "in the forward pass",
        "head": "while logits and loss are computed",
        "head backward": "at the start of the backward pass, with the gradient of the logits",
        "backward": "in the backward pass",
        "optimizer": "in the optimizer's step",
    }[moment.phase]
    if moment.block >= 0:
        place += f", in block {moment.block + 1} of {lengths[moment.stack]}"
    return f"{place} (step {moment.step} of {STEPS})"

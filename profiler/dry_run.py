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

import gc
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch._subclasses import fake_tensor

from kb import device
from kb.closed_form import Implementation
from kb.collector import resting, set_aside
from profiler import build, depth, optimizers, quantised, sharding
from profiler.allocator import EMPTY, MIB, replay
from profiler.fake import without_values
from profiler.kernel import cuda_kernels
from profiler.live import BLOCK, PARTS, Live, Moment, Peak, Trace, Work, tensors_of
from profiler.settings import Settings
from profiler.stretch import stretch
from reference_impls.parts.nf4 import NF4Linear

STEPS = 2
_VALUES = (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException, NotImplementedError)
SAMPLES = 300  # of a timeline
_KEPT = ("weights", "adapter", "optimizer")  # told by the parameters that they belong to
_LIMITS = (
    (("vocab_size",), 1 << 24),
    (("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2048),
    (("expert",), 1 << 14),
    (("_size", "n_embd", "d_model", "d_ff", "d_kv", "head_dim", "_dim", "n_inner"), 1 << 20),
    (("heads", "n_head"), 1 << 14),
)
CUBLAS = 8 * MIB + 128 * 1024  # bytes; cuBLAS's workspace, ":4096:2:16:8", which it takes from the allocator


class Layer(BaseModel):
    """What belongs to one block at the peak."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="dotted name in the base model; empty for what is outside of the blocks")
    parts: dict[str, int] = Field(description="bytes by what they hold; parts of no bytes are left out")


class Timeline(BaseModel):
    """Live bytes over the last step, in order: the highest instant of each of equal stretches of its events."""

    model_config = ConfigDict(frozen=True)

    parts: tuple[str, ...] = Field(description="what the columns of bytes are")
    moments: tuple[str, ...] = Field(description="when each row was, in words")
    bytes: tuple[tuple[int, ...], ...] = Field(description="a row for each instant, a column for each part")


class Report(BaseModel):
    """What a dry run found. Bytes are those of one card."""

    model_config = ConfigDict(frozen=True)

    slug: str = Field(description="the method")
    implementation: Implementation = Field(description="whose code was run")
    settings: Settings = Field(description="as they were read")
    allocated_bytes: int = Field(description="peak of tensors that are alive: torch.cuda.max_memory_allocated")
    reserved_bytes: int = Field(
        description="what the caching allocator holds for them: torch.cuda.max_memory_reserved, by a replay of its rules"
    )
    parts: dict[str, int] = Field(description="allocated_bytes by what they hold; the parts add up to it")
    moment: str = Field(description="when the peak is reached, in words")
    trainable: int = Field(description="parameters that the optimizer updates")
    flops: int = Field(description="floating-point operations of one step, a product and a sum counted as two")
    bytes_moved: int = Field(description="bytes that the kernels of one step read and write")
    kernels: int = Field(description="kernels of one step")
    flops_fp32: int = Field(description="of flops, those of products of fp32 matrices")
    kernels_inside: int = Field(description="kernels that operations launch beside the one that Python does")
    solver_steps: int = Field(description="columns that decompositions and solvers go through one after the other")
    bytes_host: int = Field(description="bytes that are read in the computer's memory in one step")
    device_bytes: int = Field(description="reserved_bytes and the usual CUDA context: what nvidia-smi shows")
    device_range: tuple[int, int] = Field(description="device_bytes with the least and the largest context known")
    by_layer: tuple[Layer, ...] = Field(
        description="what each block holds at the peak, then what is outside of the blocks"
    )
    timeline: Timeline = Field(description="live bytes over the last step")
    depths: tuple[int, ...] = Field(description="numbers of layers that were run; the model's own if it was run whole")


@dataclass(frozen=True)
class Run:
    """One dry run of one depth, before it is put into words."""

    peaks: dict[Moment, Peak]
    lengths: dict[str, int]  # stack of blocks -> its length
    work: Work
    trainable: int
    trace: Trace
    owned: dict[str, list[dict[str, int]]] = field(default_factory=dict)  # stack -> what each block's parameters take
    outside: dict[str, int] = field(default_factory=dict)  # likewise, of parameters outside of the blocks


def dry_run(
    config: Mapping[str, object],
    slug: str,
    settings: Settings | None = None,
    implementation: Implementation = "ours",
    overrides: Mapping[str, object] | None = None,
    extend: bool | None = None,
) -> Report:
    """Peak memory and work of ``slug`` on the model that ``config`` (as in a ``config.json``) describes.

    ``overrides`` are fields of the method's ``Config``, or of PEFT's class if ``implementation`` is "peft". With
    ``extend``, few layers are run and their trace is stretched to all (``profiler.stretch``); left out, this is done
    where it is less work and the layers are uniform. Raises ``ValueError`` naming what does not exist, does not fit, is
    absurd, or cannot be run without values.
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
            done = _extended(go(depth.shallow(config, plan.depths[0])), go(depth.shallow(config, plan.depths[1])), plan)
            depths = plan.depths
        except depth.UnevenError:
            if extend:
                raise
    return _reported(done or go(config), slug, settings, implementation, depths)


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
    return Run(_peaks(trace), lengths, work, plan.line(one.trainable, two.trainable), trace, owned, two.outside)


def _reported(
    done: Run, slug: str, settings: Settings, implementation: Implementation, depths: tuple[int, ...]
) -> Report:
    """A run in words, on one of as many cards as were asked for."""
    trace, peaks = done.trace, done.peaks
    if settings.devices > 1:
        trace = sharding.share(trace, _sizes(done), settings)
        peaks = _peaks(trace)
    moment, peak = max(peaks.items(), key=lambda item: item[1].total)
    reserved = replay(requests(trace, settings.emptied))
    return Report(
        slug=slug,
        implementation=implementation,
        settings=settings,
        allocated_bytes=peak.total,
        reserved_bytes=reserved,
        device_bytes=reserved + device.CONTEXT,
        device_range=(reserved + device.CONTEXT_LOW, reserved + device.CONTEXT_HIGH),
        parts={part: peak.parts[part] for part in PARTS},
        moment=in_words(moment, done.lengths),
        trainable=done.trainable,
        **vars(done.work),
        by_layer=_by_layer(done, trace, peak, settings),
        timeline=_timeline(trace, done.lengths),
        depths=depths,
    )


def _peaks(trace: Trace) -> dict[Moment, Peak]:
    return {moment: peak for moment, peak in trace.segments().items() if moment.step > 0}


def _sizes(done: Run) -> sharding.Sizes:
    """What sharding has to know of the model."""
    blocks = [block for blocks in done.owned.values() for block in blocks]
    whole = [block.get("weights", 0) + block.get("adapter", 0) for block in blocks]
    trained = [block.get("gradients", 0) for block in blocks]
    total = sum(trained) + done.outside.get("gradients", 0)
    return sharding.Sizes(
        block=max(whole, default=0),
        trained_block=max(trained, default=0),
        outside=done.outside.get("weights", 0) + done.outside.get("adapter", 0),
        trained=total,
        width=max(1, total // max(1, done.trainable)),
    )


def _by_layer(done: Run, trace: Trace, peak: Peak, settings: Settings) -> tuple[Layer, ...]:
    """What was alive when ``peak`` was reached, by block: parameters where they belong, the rest where it was made."""
    shared = dict.fromkeys(sharding.DIVIDED[settings.sharding], settings.devices) if settings.devices > 1 else {}
    found = {
        (stack, index): {part: size // shared.get(part, 1) for part, size in parts.items() if part != "gradients"}
        for stack, blocks in done.owned.items()
        for index, parts in enumerate(blocks)
    }
    for number in trace.alive_at(peak.at):
        held = trace.held[number]
        own = found.get((held.moment.stack, held.moment.block))
        if own is None or held.part in _KEPT or not held.size:
            continue
        part = held.part or "overhead"
        own[part] = own.get(part, 0) + held.size
    for (stack, index), own in found.items():  # what follows the first block backwards is not the block's
        limit = done.owned[stack][index].get("gradients", 0) // shared.get("gradients", 1)
        if "gradients" in own:
            own["gradients"] = min(own["gradients"], limit)
    rest = {part: peak.parts[part] - sum(own.get(part, 0) for own in found.values()) for part in PARTS}
    layers = [(f"{stack}.{index}", own) for (stack, index), own in found.items()]
    return tuple(Layer(name=name, parts={k: v for k, v in own.items() if v}) for name, own in [*layers, ("", rest)])


def _timeline(trace: Trace, lengths: Mapping[str, int]) -> Timeline:
    """About ``SAMPLES`` instants of the last step."""
    rows = trace.samples(STEPS, SAMPLES)
    return Timeline(
        parts=PARTS,
        moments=tuple(in_words(moment, lengths) for moment, _ in rows),
        bytes=tuple(tuple(parts[part] for part in PARTS) for _, parts in rows),
    )


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
    optimizers.ready(settings.optimizer)
    build.suits(slug, settings)
    pretended = implementation == "peft" and settings.storage != "bf16"
    with (
        _quietly(),
        quantised.pretended() if pretended else nullcontext(),
        without_values(),
        live or Live() as live,
        cuda_kernels(settings.autocast),
    ):
        try:
            model = build.base(config, settings, implementation, slug)
            given = [*_state(model), *quantised.beside(model)]
            live.hold(given, "weights")
            training = build.training(model, slug, settings, implementation, overrides)
            _label(live, given, training)
            del given
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
        except TimeoutError as error:
            raise ValueError(f"{slug} ({implementation}): {error}") from error
        except (RuntimeError, TypeError) as error:
            if settings.head_chunks == 1 and settings.storage == "bf16":
                raise
            knob = "a head in chunks" if settings.storage == "bf16" else f"a base stored as {settings.storage}"
            raise ValueError(f"{slug} ({implementation}) does not work with {knob} here: {error}") from error
        owned, outside = _owned(training, lengths, live)
        live.close()
        trainable = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
        return Run(_peaks(live.trace), lengths, live.total(STEPS), trainable, live.trace, owned, outside)


def _owned(
    training: build.Training, lengths: Mapping[str, int], live: Live
) -> tuple[dict[str, list[dict[str, int]]], dict[str, int]]:
    """Bytes of the parameters of each block and of those outside, with their gradients and states, by part."""
    blocks: dict[str, list[dict[str, int]]] = {stack: [{} for _ in range(length)] for stack, length in lengths.items()}
    outside: dict[str, int] = {}
    elsewhere = {id(tensor) for tensor in (*training.elsewhere, *getattr(training.optimizer, "elsewhere", ()))}
    seen: set[int] = set()

    def add(name: str, tensor: Tensor, part: str) -> None:
        if id(tensor) in elsewhere or tensor.untyped_storage()._cdata in seen:
            return
        seen.add(tensor.untyped_storage()._cdata)
        stack = next((stack for stack in blocks if name.startswith(f"{stack}.")), None)
        own = outside if stack is None else blocks[stack][int(name[len(stack) + 1 :].split(".", 1)[0])]
        own[part] = own.get(part, 0) + -(-tensor.untyped_storage().nbytes() // BLOCK) * BLOCK

    for name, module in training.model.named_modules():
        mine = [
            *module.parameters(recurse=False),
            *module.buffers(recurse=False),
            *quantised.beside(module, deep=False),
        ]
        for tensor in mine:
            add(f"{name}.", tensor, "weights" if live.part(tensor) == "weights" else "adapter")
        for parameter in module.parameters(recurse=False):
            if parameter.grad is not None:
                add(f"{name}.", parameter.grad, "gradients")
            for state in tensors_of(list(training.optimizer.state.get(parameter, {}).values())):
                if state.dim():
                    add(f"{name}.", state, "optimizer")
    return blocks, outside


def _state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _packed(model: nn.Module) -> Iterator[Tensor]:
    """What our layers in 4 bits hold of the base."""
    for module in model.modules():
        if isinstance(module, NF4Linear):
            yield from module.buffers(recurse=False)


def _label(live: Live, given: list[Tensor], training: build.Training) -> None:
    """Says which tensors are the method's, and notes gradients as they come.

    A parameter of the base, one of ``given``, that the method has filled anew stays weights, and so does one that it has packed.
    """
    live.ignore(training.elsewhere, copied=True)
    own = {id(tensor) for tensor in (*given, *_packed(training.model))}
    new = [tensor for tensor in _state(training.model) if live.part(tensor) is None]
    live.hold([tensor for tensor in new if id(tensor) in own], "weights")
    live.hold([tensor for tensor in new if id(tensor) not in own], "adapter")
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
        loss = training.given(batch)
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


def requests(trace: Trace, emptied: bool) -> Iterator[tuple[int, int]]:
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
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    told = fake_tensor.log.disabled
    fake_tensor.log.disabled = True  # it prints what is raised as well
    try:
        with resting(), set_aside(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT and transformers rename between releases
            yield
    finally:
        fake_tensor.log.disabled = told
        torch.set_num_threads(threads)


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

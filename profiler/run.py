"""Two training steps of a method on a model of one depth, under fake tensors, with everything followed.

``run`` builds the model as its configuration says, attaches the method, steps it, and tells ``profiler.live`` which
tensors are whose and which block of which phase begins.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor

from kb.closed_form import Implementation
from kb.collector import resting, set_aside
from profiler import build, optimizers, quantised
from profiler.fake import without_values
from profiler.kernel import cuda_kernels
from profiler.live import BLOCK, Live, Moment, Peak, Trace, Work, tensors_of
from profiler.settings import Settings
from reference_impls.parts.packed import PackedLinear

STEPS = 2
_VALUES = (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException, NotImplementedError)


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
    given_out = _outputs() if settings.autocast else None
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
            if given_out is not None:
                training.model.register_forward_hook(lambda module, args, output: given_out(output))
            for t in range(1, STEPS + 1):
                tokens = settings.before if t < STEPS and settings.before else settings.seq
                _step(live, training, build.batch_for(model, config, settings, tokens), t, settings.autocast)
        except _VALUES as error:
            raise ValueError(
                f"{slug} ({implementation}) reads values, which a dry run does not have: {error}"
            ) from error
        except TimeoutError as error:
            raise ValueError(f"{slug} ({implementation}): {error}") from error
        except AttributeError as error:  # how PEFT says that a model lacks what a method wants
            if implementation == "ours":
                raise
            raise ValueError(f"{slug} (peft) does not run on such a model: {error}") from error
        except (RuntimeError, TypeError) as error:
            if settings.head_chunks == 1 and settings.storage == "bf16":
                raise
            knob = "a head in chunks" if settings.storage == "bf16" else f"a base stored as {settings.storage}"
            raise ValueError(f"{slug} ({implementation}) does not work with {knob} here: {error}") from error
        owned, outside = _owned(training, lengths, live)
        live.close()
        trainable = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
        return Run(peaks(live.trace), lengths, live.total(STEPS), trainable, live.trace, owned, outside)


def _outputs() -> Callable[[Any], Any]:
    """What ``Trainer`` makes of a model's outputs under autocast: fp32. Accelerate comes with PEFT, whose code runs so."""
    return import_module("accelerate.utils").convert_to_fp32  # type: ignore[no-any-return]  # looked up by name


def peaks(trace: Trace) -> dict[Moment, Peak]:
    """The peak of every moment of the steps."""
    return {moment: peak for moment, peak in trace.segments().items() if moment.step > 0}


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
    """What our layers in 8 and 4 bits hold of the base."""
    for module in model.modules():
        if isinstance(module, PackedLinear):
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

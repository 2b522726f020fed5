"""The training loop for every method: it uses what the method's module offers and fills in the rest.

A module may have ``prepare`` (data before training), ``optimizer``, ``loss`` and ``step`` (after each step); else AdamW
without weight decay and the model's own loss are used. The learning rate rises over the first tenth and then falls in a
straight line to a twentieth.
"""

import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from reference_impls.training.head import opened
from reference_impls.training.sense import aside

Batch = dict[str, Tensor]
Progress = Callable[[int, float], None]  # called after each step with its number from 1 and its loss

PREPARATION = 8  # batches that ``prepare`` sees


@dataclass(frozen=True)
class Result:
    """What a training run cost and gave."""

    losses: tuple[float, ...]
    seconds: float  # preparation and training
    memory_bytes: int
    memory_kind: str  # what memory_bytes is
    trainable: int  # numbers that the optimizer updates
    total: int  # numbers in the model while it trains


def choose_device(wanted: str = "auto") -> torch.device:
    """``auto`` is CUDA when there is one, else the CPU; ``ValueError`` for a device that torch cannot use."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {wanted!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def configure(method: ModuleType, overrides: dict[str, Any]) -> Any:
    """The method's ``Config`` with some fields set; ``prefix.length`` reaches into a nested configuration.

    Raises ``ValueError`` naming a field that does not exist.
    """
    config = method.Config()
    for path, value in overrides.items():
        config = _with(config, path.split("."), value, f"{method.__name__.rpartition('.')[2]}.Config")
    return config


def _with(config: Any, path: list[str], value: Any, owner: str) -> Any:
    names = [field.name for field in dataclasses.fields(config)] if dataclasses.is_dataclass(config) else []
    if path[0] not in names:
        raise ValueError(f"{owner} has no field {path[0]!r}; it has {', '.join(names) or 'none'}")
    if len(path) > 1:
        value = _with(getattr(config, path[0]), path[1:], value, f"{owner}.{path[0]}")
    return dataclasses.replace(config, **{path[0]: value})


def train(
    model: nn.Module,
    method: ModuleType,
    config: Any,
    batches: Iterator[Batch],
    *,
    lr: float,
    steps: int,
    accumulation: int = 1,
    head: Sequence[str] = (),
    progress: Progress = lambda step, loss: None,
) -> Result:
    """Trains a model to which ``method`` was attached, in place.

    Each of the ``steps`` takes ``accumulation`` of ``batches``, whose gradients are averaged; there are at least so many,
    and a method that looks at data first sees some of them twice. ``head``
    names the parameters of a new task head, which train beside the method at the same rate. Raises ``ValueError`` when
    nothing trains or the loss is no longer finite.
    """
    device = next(model.parameters()).device
    memory = _Memory(device)
    start = time.perf_counter()
    feed = ({name: tensor.to(device) for name, tensor in batch.items()} for batch in batches)
    model.train()
    if hasattr(method, "prepare"):
        first = list(islice(feed, min(PREPARATION, steps * accumulation)))
        with aside(model):
            method.prepare(model, first, config)
        feed = chain(first, feed)
    new = opened(model, head)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(f"{method.__name__} left nothing to train")
    if hasattr(method, "optimizer"):
        optimizer = method.optimizer(model, lr, config)
    else:
        optimizer = torch.optim.AdamW(trainable, lr=lr, weight_decay=0.0)
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if rest := [parameter for parameter in new if id(parameter) not in known]:
        optimizer.add_param_group({"params": rest, "lr": lr})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    loss_of = getattr(method, "loss", lambda adapted, batch: adapted(**batch).loss)
    losses: list[float] = []
    for t in range(1, steps + 1):
        mean = 0.0
        for batch in islice(feed, accumulation):
            loss = loss_of(model, batch) / accumulation
            loss.backward()
            mean += loss.item()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if hasattr(method, "step"):
            method.step(model, t, steps)
        losses.append(mean)
        if losses[-1] - losses[-1] != 0:
            raise ValueError(f"the loss of step {t} is {losses[-1]}; a smaller learning rate than {lr:g} may help")
        progress(t, losses[-1])
    model.eval()
    return Result(
        losses=tuple(losses),
        seconds=time.perf_counter() - start,
        memory_bytes=memory.peak(),
        memory_kind=memory.kind,
        trainable=sum(parameter.numel() for parameter in trainable),
        total=sum(parameter.numel() for parameter in model.parameters()),
    )


def _share(step: int, steps: int) -> float:
    """The part of the learning rate that step ``step`` (from 0) uses."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 1 - 0.95 * (step - warmup) / max(1, steps - warmup)


class _Memory:
    """Peak memory since it was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.kind = "peak of memory allocated on the GPU"
        else:
            self.start = _resident()
            self.kind = "growth of the process's peak resident memory"

    def peak(self) -> int:
        """Bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _resident() - self.start


def _resident() -> int:
    """Peak resident memory of this process in bytes: Linux reports kibibytes, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

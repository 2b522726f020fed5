"""The default run: a method is attached to a fresh base and trained on one rung of the ladder."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from reference_impls.ladder.base import load_base
from reference_impls.ladder.task import Accuracy, Rung, accuracy, exam, stream
from reference_impls.training.loop import Progress, Result, train

BATCH = 64  # rows


@dataclass(frozen=True)
class Climb(Result):
    """What a run on a rung cost and gave."""

    before: Accuracy
    after: Accuracy


def climb(
    method: ModuleType,
    config: Any,
    rung: Rung,
    *,
    lr: float,
    steps: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress = lambda step, loss: None,
) -> tuple[nn.Module, Climb]:
    """Attaches ``method`` to a fresh base and trains it on ``rung``; returns the model and how it went.

    The same seed gives the same result on the same kind of machine.
    """
    torch.manual_seed(seed)
    base = load_base(device)
    questions = {name: tensor.to(device) for name, tensor in exam(rung).items()}
    before = accuracy(base, questions)
    model = method.attach(base, config)
    result = train(model, method, config, stream(rung, BATCH, seed), lr=lr, steps=steps, progress=progress)
    return model, Climb(**vars(result), before=before, after=accuracy(model, questions))

"""The published runs of Hugging Face PEFT's method comparison, as data: ``kb/validation/peft_runs.csv``."""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn

from kb.loader import KB

FOLDER = KB / "validation"
LANGUAGE, IMAGE = "MetaMathQA", "image-gen"
# LoRA-FA's published row is that of LoRA: leaving a block that disables the adapter un-froze the matrix that LoRA-FA
# freezes. The run before that change gave this.
CORRECTED = {"lora/llama-3.2-3B-rank32-lorafa": round(18.82 * 2**30)}


@dataclass(frozen=True)
class PublishedRun:
    """One run: what was set, and what was measured."""

    task: str
    name: str
    peft_type: str
    memory_bytes: int  # maximum of reserved bytes
    step_seconds: float  # mean over training steps
    trainable: int
    optimizer: str
    adapter_fp32: bool
    config: dict[str, Any]  # of PEFT's configuration class; empty for full fine-tuning

    @property
    def settings(self) -> tuple[str, str, bool, str]:
        """All that memory and work depend on."""
        return self.task, self.optimizer, self.adapter_fp32, json.dumps(self.config, sort_keys=True)


@cache
def published_runs(task: str) -> tuple[PublishedRun, ...]:
    """All runs of ``task``, in the order of the file."""
    with (FOLDER / "peft_runs.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            PublishedRun(
                task=row["task"],
                name=row["run"],
                peft_type=row["peft_type"],
                memory_bytes=CORRECTED.get(row["run"], int(row["memory_max_bytes"])),
                step_seconds=float(row["sec_per_step"]),
                trainable=int(row["trainable"]),
                optimizer=row["optimizer"],
                adapter_fp32=row["adapter_fp32"] == "true",
                config=json.loads(row["config"]),
            )
            for row in csv.DictReader(file)
            if row["task"] == task
        )


def adapted(model: nn.Module, run: PublishedRun) -> nn.Module:
    """``model`` with PEFT's method on it, set up as the run did; fields that this version of PEFT lacks are left out.

    The parameters that train are those whose number was published: AdaLoRA's ``ranknum``, which PEFT 0.21 trains when the
    base is in bf16, was not trained then.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if not run.config:
        return model
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[run.config["peft_type"]]
    known = inspect.signature(kind).parameters
    given = run.config | {"progressbar": False}  # FRoD would draw one of its own into ours
    config = kind(**{key: value for key, value in given.items() if key in known and key != "peft_type"})
    attached = peft.get_peft_model(model, config, autocast_adapter_dtype=run.adapter_fp32)
    if run.peft_type == "ADALORA":
        for name, parameter in attached.named_parameters():
            if ".ranknum." in name:
                parameter.requires_grad_(False)
    return attached


_ELSEWHERE = (".boft_P", ".frod_U.", ".frod_V.", ".frod_s_indices.", ".frod_s_size.")


def elsewhere(model: nn.Module) -> tuple[Any, ...]:
    """Tensors that PEFT leaves in the computer's memory when the model is already on the card.

    BOFT's permutation and FRoD's bases are made there, and copied whenever they are used.
    """
    made = [buffer for name, buffer in model.named_buffers() if any(part in f"{name}." for part in _ELSEWHERE)]
    return *made, *offloaded(model)


def offloaded(model: nn.Module) -> tuple[Any, ...]:
    """The weights that FRoD replaces, which it moves to the computer's memory."""
    moved = (one for one in model.modules() if any(getattr(one, "runtime_offload_base_weight", {}).values()))
    return tuple(one.get_base_layer().weight for one in moved)


def after_step(model: nn.Module, run: PublishedRun) -> Callable[[int, int], None]:
    """What the run's script does after each step: AdaLoRA and AdaMSS keep account of how much each part matters."""

    def account(t: int, total: int) -> None:
        model.base_model.update_and_allocate(t)

    def nothing(t: int, total: int) -> None:
        """All others go on."""

    return account if run.peft_type in ("ADALORA", "ADAMSS") else nothing


def optimizer_of(model: nn.Module, run: PublishedRun) -> Any:
    """The run's optimizer, over all parameters as its script has it; PyTorch passes over those without a gradient."""
    import torch
    from torch.nn.utils import clip_grad_norm_

    if run.optimizer == "lora-fa":
        from peft.optimizers import create_lorafa_optimizer

        made = create_lorafa_optimizer(model, r=run.config["r"], lora_alpha=run.config["lora_alpha"], lr=1e-4)
    else:
        made = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)

    def clipped(*args: object) -> None:
        clip_grad_norm_(model.parameters(), 1.0, foreach=True)

    made.register_step_pre_hook(clipped)
    return made

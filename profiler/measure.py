"""Training steps on a real device: what they take of its memory, and how long they last.

A model of the catalogue gets random weights on the device, the method is attached, ours or PEFT's, and a few steps are
run. On a CUDA card the peaks are those of PyTorch's allocator, from an emptied cache, and what the driver shows; on a
processor there are no such figures, and only time is kept: enough to test all of this without a card.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kb.architecture import Architecture
from kb.catalogue import load_model
from kb.closed_form import Implementation
from kb.measurement import Machine, Outcome, Setting, Step
from kb.records import load_methods
from profiler import build
from profiler.backbones import Sizes, resized
from profiler.profiles import advice, fields
from profiler.settings import Settings
from reference_impls.parts import int8
from reference_impls.parts.storage import in_blocks, pack

WARM, TIMED = 2, 5  # steps before the clock starts, and steps that are timed
_PREPARATION = 2  # batches that a method sees which looks at data first
_VOCABULARY = 96
_TASKS = {"decoder": "CAUSAL_LM", "encoder_decoder": "SEQ_2_SEQ_LM", "encoder": "SEQ_CLS"}  # PEFT's words
_RANK = 16  # the highest that all matrices of a small model have
_SMALL = Sizes(depth=2, hidden=64, inner=96, heads=4, keys=2, head=16, positions=160, vocabulary=_VOCABULARY)
_FURTHER = {"image_size": 32, "patch_size": 16, "depth": 2, "rotary_dim": 8}  # sizes that only some families have
_EYES = 80  # inner width beside a decoder: not the vocabulary's size, by which PEFT finds the embedding


@dataclass(frozen=True)
class Measured:
    """What came of it."""

    outcome: Outcome
    message: str | None = None
    trainable: int | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    device_bytes: int | None = None
    before_bytes: int | None = None
    prepare_bytes: int | None = None
    seconds: tuple[float, ...] = ()


def machine(device: torch.device) -> Machine:
    """Where this runs, and with what."""
    card = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return Machine(
        gpu=card.name if card else None,
        memory_bytes=card.total_memory if card else None,
        driver=_driver() if card else None,
        cuda=torch.version.cuda,
        versions=dict(_versions()),
        commit=_commit(),
    )


def _driver() -> str | None:
    words = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return words.splitlines()[0].strip() if words else None


def _commit() -> str | None:
    here = Path(__file__).parent.parent
    return _said("git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _said(*command: str) -> str | None:
    """What a command prints; ``None`` where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603 - ours
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in ("torch", "transformers", "peft", "bitsandbytes"):
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def config_of(setting: Setting) -> dict[str, Any]:
    """The model's configuration as in a ``config.json``; cut small if the setting says so."""
    config = dict(load_model(setting.model).config)
    return cut(config, load_model(setting.model).architecture) if setting.small else config


def cut(config: Mapping[str, Any], shape: Architecture) -> dict[str, Any]:
    """``config`` with two layers and small widths, keys shared by queries as before."""
    inner = {name: _inside(config, name, shape) for name in ("text_config", "vision_config") if name in config}
    sizes = _SMALL if shape.kv_heads < shape.heads else replace(_SMALL, keys=_SMALL.heads)
    found = resized(config, sizes) | inner | {name: value for name, value in _FURTHER.items() if name in config}
    if found.get("layer_types"):
        found["layer_types"] = list(found["layer_types"])[: sizes.depth]
    return found | {"pad_token_id": 0}


def _inside(config: Mapping[str, Any], name: str, shape: Architecture) -> dict[str, Any]:
    """A model within a model, which is of its family unless it says otherwise."""
    own = config[name]
    found = cut({"model_type": config["model_type"], **own}, shape)
    if name == "vision_config" and shape.kind == "decoder":
        found["intermediate_size"] = _EYES
    return {key: value for key, value in found.items() if key != "model_type" or key in own}


def settings_of(setting: Setting) -> Settings:
    """The same as a dry run reads it."""
    return Settings(
        dtype=setting.dtype,
        batch=setting.batch,
        seq=setting.seq,
        checkpointing=setting.checkpointing,
        optimizer=setting.optimizer,
        storage=setting.storage,
    )


def overrides_of(slug: str, implementation: Implementation, kind: str, small: bool = False) -> dict[str, object]:
    """What is set beside the record's advice: PEFT's targets and task, and one step for every stage before training.

    ``small``: also what the record changes for a small model, and a rank that one has.
    """
    method = load_methods()[slug]
    knobs, named = fields(method, implementation)
    further: dict[str, object] = dict(named)
    if implementation == "peft":
        peft = import_module("peft")
        if isinstance(build.peft_config(slug, {}, layers=1), peft.PromptLearningConfig):
            further["task_type"] = _TASKS[kind]
        if small and "r" in knobs:
            further[knobs["r"]] = min(int(advice(method, "r")["r"]), _RANK)
    else:
        config = import_module(f"reference_impls.{slug}").Config
        names = [field.name for field in dataclasses.fields(config)]
        if small and method.reference is not None:
            further |= {name: value for name, value in method.reference.config.items() if name in names}
        further |= {name: 1 for name in names if name.endswith("_steps")}
    return further


def measure(
    slug: str, setting: Setting, implementation: Implementation, device: torch.device, timed: int = TIMED
) -> Measured:
    """Memory and time of training ``slug``; what goes wrong becomes an outcome, except an interrupt."""
    card = device.type == "cuda"
    if card:
        _emptied(device)
    before = torch.cuda.memory_allocated(device) if card else None
    try:
        return dataclasses.replace(_measured(slug, setting, implementation, device, timed), before_bytes=before)
    except torch.OutOfMemoryError as error:
        return Measured("out of memory", str(error).splitlines()[0], before_bytes=before)
    except Exception as error:  # a method that fails is a result, and the next one has its turn
        return Measured("failed", f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
    finally:
        gc.collect()


def _measured(
    slug: str, setting: Setting, implementation: Implementation, device: torch.device, timed: int
) -> Measured:
    card, settings, config = device.type == "cuda", settings_of(setting), config_of(setting)
    build.ready(config, slug, implementation)
    build.suits(slug, settings)
    torch.manual_seed(0)
    with device:  # the base is made there; a method looks where its base is
        model = build.base(config, settings.model_copy(update={"storage": "bf16"}), implementation, slug)
        _filled(model)
        if setting.storage != "bf16" and not build.packs(slug, implementation):  # LoftQ starts from what packing loses
            store(model, setting.storage, implementation, device)
    batch = _batch(model, config, settings, device)
    first = [batch] * _PREPARATION
    if card:
        torch.cuda.reset_peak_memory_stats(device)
    overrides = overrides_of(slug, implementation, build.kind_of(config), setting.small)
    training = build.training(model, slug, settings, implementation, overrides, first)
    training.model.to(device)
    prepared = None
    if card:
        if hasattr(import_module(f"reference_impls.{slug}"), "prepare") and implementation == "ours":
            prepared = torch.cuda.max_memory_allocated(device)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    seconds = [_stepped(training, batch, t, device) for t in range(1, WARM + timed + 1)]
    found = Measured(
        "measured",
        trainable=sum(p.numel() for p in training.model.parameters() if p.requires_grad),
        prepare_bytes=prepared,
        seconds=tuple(round(value, 6) for value in seconds[WARM:]),
    )
    if not card:
        return found
    free, total = torch.cuda.mem_get_info(device)
    return dataclasses.replace(
        found,
        allocated_bytes=torch.cuda.max_memory_allocated(device),
        reserved_bytes=torch.cuda.max_memory_reserved(device),
        device_bytes=total - free,
    )


def _emptied(device: torch.device) -> None:
    """Gives back all that nobody holds, cuBLAS's workspace included: every measurement pays for its own."""
    gc.collect()
    torch._C._cuda_clearCublasWorkspaces()  # there is no public word for it
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)


@torch.no_grad()
def _filled(model: nn.Module) -> None:
    """Random weights that training can be run on; norms stay as they are."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.02)


def _batch(
    model: nn.Module, config: Mapping[str, object], settings: Settings, device: torch.device
) -> dict[str, Tensor]:
    """A batch of full length with random tokens, each of which is learned."""
    batch = {name: tensor.to(device) for name, tensor in build.batch_for(model, config, settings, settings.seq).items()}
    words = batch.get("input_ids")
    if words is not None:
        words.random_(3, int(model.config.get_text_config().vocab_size))  # the first few are padding and marks
        if batch["labels"].shape == words.shape:
            batch["labels"] = words.clone()
    return batch


def _stepped(training: build.Training, batch: dict[str, Tensor], t: int, device: torch.device) -> float:
    """Seconds of one training step, as a dry run takes it."""
    _wait(device)
    start = time.perf_counter()
    training.optimizer.zero_grad()
    training.model.train()
    loss = training.given(batch)
    loss.backward()
    training.optimizer.step()
    training.after(t, 1000)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def store(model: nn.Module, storage: str, implementation: Implementation, device: torch.device) -> None:
    """Packs every linear layer in the blocks: our codecs for ours, bitsandbytes for PEFT's, as ``transformers`` uses it.

    Raises ``ValueError`` when bitsandbytes is needed and not there, or no layer is found.
    """
    if implementation == "ours":
        pack(model, storage, device)
        return
    for name, layer in in_blocks(model, storage):
        model.set_submodule(name, _bitsandbytes(layer, storage, device))
    setattr(model, {"nf4": "is_loaded_in_4bit", "int8": "is_loaded_in_8bit"}[storage], True)


def _bitsandbytes(layer: nn.Linear, storage: str, device: torch.device) -> nn.Module:
    try:
        from bitsandbytes import nn as layers
    except ImportError:
        raise ValueError(f"bitsandbytes is not installed; a base stored as {storage} needs it here") from None
    sizes, weight = (layer.in_features, layer.out_features), layer.weight.detach().cpu()
    if storage == "nf4":
        packed = layers.Linear4bit(
            *sizes, bias=False, compute_dtype=layer.weight.dtype, compress_statistics=True, quant_type="nf4"
        )
        packed.weight = layers.Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=packed
        )
    else:
        packed = layers.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False, threshold=int8.THRESHOLD)
        packed.weight = layers.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    packed.bias = layer.bias
    return packed.to(device)  # type: ignore[no-any-return]  # bitsandbytes is untyped; the move packs


def row(
    slug: str, setting: Setting, implementation: Implementation, turn: int, where: Machine, found: Measured
) -> Step:
    """A measurement as it is kept."""
    values = dataclasses.asdict(found)
    return Step(
        at=now(),
        machine=where,
        slug=slug,
        setting=setting,
        implementation=implementation,
        turn=turn,
        step_seconds=round(statistics.median(found.seconds), 6) if found.seconds else None,
        **values,
    )


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

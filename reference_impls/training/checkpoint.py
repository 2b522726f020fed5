"""One file per trained adapter: its tensors, the method's slug and its configuration, as safetensors."""

import dataclasses
import importlib
import json
import os
import tempfile
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reference_impls import slugs
from reference_impls._journal import journal, tensors
from reference_impls._surgery import detach
from reference_impls.training.head import opened
from reference_impls.training.sense import aside

_FORMAT = "peft-atlas-adapter-1"


def save(model: nn.Module, path: Path | str, slug: str, config: Any, head: Sequence[str] = ()) -> Path:
    """Writes the adapter of ``model`` to ``path``, whole or not at all, and returns the path.

    ``head`` names the parameters of a new task head, which go into the file with it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in adapter_state(model).items()}
    metadata = {"format": _FORMAT, "slug": slug, "config": json.dumps(dataclasses.asdict(config), sort_keys=True)}
    if head:
        metadata["head"] = json.dumps(list(head))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def describe(path: Path | str) -> tuple[str, dict[str, Any]]:
    """Slug and configuration of the adapter in ``path``; ``ValueError`` if the file holds none."""
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} is no adapter of this project: its format is {metadata.get('format')!r}")
    return metadata["slug"], json.loads(metadata["config"])


def load(model: nn.Module, path: Path | str, slug: str | None = None) -> nn.Module:
    """Attaches the method saved in ``path`` to the plain base ``model``, with the trained values; returns it.

    Raises ``ValueError`` for a method that this package lacks, that is not ``slug`` (when given), or whose tensors do
    not fit the model; the model is left plain then.
    """
    found, values = describe(path)
    if slug is not None and found != slug:
        raise ValueError(f"{path} holds an adapter of {found!r}, not of {slug!r}")
    if found not in slugs():
        raise ValueError(f"{path} holds an adapter of {found!r}, which has no implementation here")
    method = importlib.import_module(f"reference_impls.{found}")
    with aside(model):
        adapted = method.attach(model, _rebuild(method.Config, values))
    try:
        with safe_open(str(path), "pt") as file:
            opened(adapted, json.loads(file.metadata().get("head", "[]")))
            load_adapter(adapted, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - the file is no mapping
    except ValueError as error:
        detach(adapted)
        raise ValueError(f"{path}: {error}") from None
    return adapted


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that the base model lacks or has otherwise: trained, inserted, or trained in place."""
    _, book = journal(model)
    changed = {(module, name) for module, name, _ in book.saved}
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, tensor in tensors(module):
            untouched = name in book.owned.get(module, ()) and (module, name) not in changed
            if id(tensor) not in seen and (tensor.requires_grad or not untouched):
                seen.add(id(tensor))
                state[f"{prefix}.{name}" if prefix else name] = tensor.detach()
    return state


def load_adapter(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies ``state`` into a model that carries the same method with the same configuration.

    Raises ``ValueError`` naming the missing, unexpected or misshapen tensors; nothing is copied then.
    """
    expected = adapter_state(model)
    wrong = [f"{name} is missing" for name in expected if name not in state]
    wrong += [f"{name} is unexpected" for name in state if name not in expected]
    wrong += [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"this state does not fit the model: {'; '.join(wrong[:5])}{more}")
    model.load_state_dict(dict(state), strict=False)


def _rebuild(kind: type, values: Mapping[str, Any]) -> Any:
    """A configuration from its JSON: nested configurations become dataclasses again, lists tuples."""
    types = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise ValueError(f"{kind.__module__}.{kind.__name__} has no field {', '.join(unknown)}")
    return kind(**{name: _value(types[name], value) for name, value in values.items()})


def _value(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return _rebuild(typing.cast(type, kind), value)
    return tuple(value) if isinstance(value, list) else value

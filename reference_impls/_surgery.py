"""Cutting into a model: freezing, replacing, undoing. The only model code that all methods share.

A method calls ``freeze`` once and then any of ``replace``, ``train_in_place``, ``derive`` and ``add``. Each writes into
a journal kept on the model, from which ``detach`` restores the base model exactly and ``settle`` makes the change
permanent.
"""

import re
from collections.abc import Callable, Iterable
from typing import NoReturn

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from reference_impls._conv1d import closed, opened
from reference_impls._journal import Journal, journal
from reference_impls._layer import Around, Derived
from reference_impls._site import instances, sites


def freeze(model: nn.Module) -> nn.Module:
    """Stops every parameter of ``model`` from training, in place, and opens its journal.

    Raises ``ValueError`` if the model already carries a method.
    """
    if any("_journal" in module.__dict__ for module in model.modules()):
        raise ValueError(f"{type(model).__name__} already carries a method; detach or merge it first")
    flags = {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)}
    model._journal = Journal(trainable=flags, owned={})
    model._journal.own(model)
    return model.requires_grad_(False)


def find(model: nn.Module, target: str, kind: type[nn.Module] = nn.Linear) -> dict[str, nn.Module]:
    """Every ``kind`` layer whose dotted name ``target`` matches, by its name.

    ``target`` is a regular expression that must match the end of the name (``"q_proj|v_proj"``). A layer that another
    method has already wrapped matches by its old name; GPT-2's transposed ``Conv1D`` takes part as linear layers do.
    """
    owner, book = journal(model)
    pattern = re.compile(rf"(?:.*\.)?(?:{target})")
    for name, conv in list(instances(owner, Conv1D)) if issubclass(nn.Linear, kind) else ():
        layers = opened(name, conv, pattern)
        if layers is not None:
            book.own(layers)
            _swap(owner, book, name, layers)
    return {name: layer for name, layer in sites(owner, kind) if pattern.fullmatch(name)}


def replace(
    model: nn.Module, target: str, build: Callable[[nn.Linear], nn.Module], kind: type[nn.Module] = nn.Linear
) -> list[str]:
    """Puts ``build(layer)`` in the place of every layer that ``find`` finds, and returns the names replaced.

    Raises ``ValueError`` when there is none, naming what the model has; the model is then, as after any error of
    ``build``, what it was before ``freeze``.
    """
    owner, book = journal(model)
    try:
        hits = find(model, target, kind)
        if not hits:
            present = [*sites(owner, kind), *(instances(owner, Conv1D) if issubclass(nn.Linear, kind) else ())]
            endings = ", ".join(sorted({name.rsplit(".", 1)[-1] for name, _ in present})) or "none"
            raise ValueError(f"no {kind.__name__} layer matches {target!r}; this model has {endings}")
        for name, layer in hits.items():
            _swap(owner, book, name, build(layer))
    except Exception:
        detach(model)
        raise
    return list(hits)


def train_in_place(model: nn.Module, names: Iterable[str], by_gradient: bool = True) -> None:
    """Trains the named tensors of the base model themselves; keeps their old values, on the CPU, for ``detach``.

    Not ``by_gradient``: the method writes into them itself; they may be the codes of a packed matrix.
    """
    owner, book = journal(model)
    for name in names:
        path, _, leaf = name.rpartition(".")
        tensor = getattr(owner.get_submodule(path), leaf)
        home = "meta" if tensor.is_meta else "cpu"
        book.saved.append((owner.get_submodule(path), leaf, tensor.detach().to(home, copy=True)))
        tensor.requires_grad_(by_gradient)


def derive(model: nn.Module, name: str, rule: nn.Module) -> None:
    """From now on the parameter ``name`` reads as ``rule(parameter)``: the base value stays, ``rule`` may train.

    A parameter that several modules share (tied embeddings) reads so in all of them.
    """
    owner, book = journal(model)
    derived = Derived(owner.get_parameter(name), rule)
    book.derived += derived.enter(owner)
    book.owned[derived] = {"original"}


def add(model: nn.Module, name: str, module: nn.Module) -> None:
    """Adds ``module`` as a child ``name`` of the base model: a home for parameters that belong to no single layer."""
    owner, book = journal(model)
    if hasattr(owner, name):
        raise ValueError(f"{type(owner).__name__} already has a {name!r}")
    _swap(owner, book, name, module)


def park(model: nn.Module) -> nn.Module:
    """Sends what was replaced and is no longer in the model to the computer's memory, where it waits for ``detach``."""
    inside = set(model.modules())
    for _, original in journal(model)[1].swaps:
        if original is not None and original not in inside and not original.weight.is_meta:
            original.weight = nn.Parameter(original.weight.detach().cpu(), requires_grad=False)
    return model


@torch.no_grad()
def detach(model: nn.Module) -> nn.Module:
    """Undoes everything since ``freeze`` and returns the base model: modules, values, every ``requires_grad``."""
    owner, book = journal(model)
    for module, leaf in reversed(book.derived):
        Derived.leave(module, leaf)
    for module, name, value in reversed(book.saved):
        getattr(module, name).copy_(value)
    for name, original in reversed(book.swaps):
        current = owner.get_submodule(name)
        like = next(current.parameters(), None)
        if original is not None and like is not None and original not in set(current.modules()):
            original.to(device=like.device, dtype=like.dtype)  # it stood outside while the model moved
        _put(owner, name, original, current)
    return _close(owner, book)


@torch.no_grad()
def settle(model: nn.Module) -> nn.Module:
    """Writes the change into the base weights and returns a plain model: what ``merge`` does for a mergeable method.

    Every replaced layer must offer ``merged()``, which returns the layer inside with the change written into it.
    """
    owner, book = journal(model)
    for derived in {module.derived[leaf] for module, leaf in book.derived}:  # a set: a shared parameter counts once
        derived.original.copy_(derived())
    for module, leaf in reversed(book.derived):
        Derived.leave(module, leaf)
    for name, original in reversed(book.swaps):
        current = owner.get_submodule(name)
        wrapped = original is not None and current is not original  # it is the same when a layer was wrapped twice
        plain = _merged(name, current) if wrapped and not isinstance(original, Conv1D) else original
        _put(owner, name, plain, current)
    return _close(owner, book)


def refuse(model: nn.Module, reason: str) -> NoReturn:
    """Undoes what a method has begun and raises ``ValueError(reason)``: a refused model is left as it was."""
    detach(model)
    raise ValueError(reason)


def _swap(model: nn.Module, book: Journal, name: str, module: nn.Module) -> None:
    """Puts ``module`` at ``name`` and notes what was there."""
    path, _, leaf = name.rpartition(".")
    parent = model.get_submodule(path)
    book.swaps.append((name, getattr(parent, leaf, None)))
    setattr(parent, leaf, module.train(parent.training))


def _put(model: nn.Module, name: str, layer: nn.Module | None, current: nn.Module) -> None:
    """Puts ``layer`` back where ``current`` stands; what was added goes."""
    if layer is None:
        delattr(model, name)
    else:
        model.set_submodule(name, closed(layer, current) if isinstance(layer, Conv1D) else layer)


def _merged(name: str, layer: nn.Module) -> nn.Module:
    """The plain layer inside ``layer`` with every change written into it, the innermost first."""
    if not hasattr(layer, "merged"):
        raise ValueError(f"{type(layer).__name__} at {name} cannot be written back as a plain layer")
    if isinstance(layer.base, Around):
        layer.base = _merged(name, layer.base)
    return layer.merged()


def _close(model: nn.Module, book: Journal) -> nn.Module:
    """Gives every parameter its old ``requires_grad`` and drops the journal."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(book.trainable[name])
        parameter.grad = None
    del model._journal
    return model

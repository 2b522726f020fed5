"""Cutting into a model: freezing, replacing, undoing. The only model code that all methods share.

A method calls ``freeze`` once and then any of ``replace``, ``beside``, ``train_in_place``, ``derive`` and ``add``. Each
writes into a journal kept on the model, from which ``detach`` restores the base model exactly and ``settle`` makes the
change permanent.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NoReturn, TypeVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from reference_impls._conv1d import PARTS, Thirds, closed, columns
from reference_impls._layer import Around, Beside, Derived, Held, Tap

M = TypeVar("M", bound=nn.Module)

# Where a layer sits in a block, as the end of its dotted name: Llama and its kin, ViT, BERT and RoBERTa, T5, GPT-2,
# DistilBERT, OPT. GPT-2 fuses query, key and value in one matrix; ``replace`` offers its thirds under those names.
QUERY = "q_proj|query|q_lin|q"
KEY = "k_proj|key|k_lin|k"
VALUE = "v_proj|value|v_lin|v"
OUTPUT = r"o_proj|(?:self_attn|encoder_attn)\.out_proj|attention\.output\.dense|attn\.c_proj|out_lin|o"
FFN_GATE = "gate_proj|wi_0"
FFN_IN = r"up_proj|intermediate\.dense|wi|wi_1|c_fc|fc1|lin1"  # one per block: a gate is apart
FFN_OUT = r"down_proj|\d+\.output\.dense|wo|mlp\.c_proj|fc2|lin2"
ATTENTION = f"{QUERY}|{KEY}|{VALUE}|{OUTPUT}"
FFN = f"{FFN_GATE}|{FFN_IN}|{FFN_OUT}"
LINEAR = f"{ATTENTION}|{FFN}"  # every matrix of every block, neither embeddings nor head


@dataclass
class Journal:
    """What was done to a model, in order. It refers to modules, not tensors: those change when a model moves."""

    trainable: dict[str, bool]  # requires_grad of every parameter before
    owned: dict[nn.Module, set[str]]  # the base model's modules and the names of their own tensors
    swaps: list[tuple[str, nn.Module | None]] = field(default_factory=list)  # dotted name, what was there
    saved: list[tuple[nn.Module, str, Tensor]] = field(default_factory=list)  # tensors trained in place, old value
    derived: list[tuple[nn.Module, str]] = field(default_factory=list)  # tensors computed from others

    def own(self, module: nn.Module) -> None:
        """Counts ``module`` and all below it as base model."""
        for part in module.modules():
            self.owned[part] = {name for name, _ in _tensors(part)}


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


def journal(model: nn.Module) -> tuple[nn.Module, Journal]:
    """The base model inside ``model`` (often ``model`` itself) and its journal; ``ValueError`` if there is none."""
    for module in model.modules():
        if "_journal" in module.__dict__:
            return module, module._journal
    raise ValueError(f"{type(model).__name__} carries no method; attach one first")


def replace(
    model: nn.Module, target: str, build: Callable[[nn.Linear], nn.Module], kind: type[nn.Module] = nn.Linear
) -> list[str]:
    """Puts ``build(layer)`` in the place of every ``kind`` layer whose dotted name ``target`` matches.

    ``target`` is a regular expression that must match the end of the name (``"q_proj|v_proj"``). A layer that another
    method has already wrapped matches by its old name; GPT-2's transposed ``Conv1D`` takes part as linear layers do.
    Returns the names replaced. Raises ``ValueError`` when there is none, naming what the model has; the model is then,
    as after any error of ``build``, what it was before ``freeze``.
    """
    owner, book = journal(model)
    pattern = re.compile(rf"(?:.*\.)?(?:{target})")
    try:
        if issubclass(nn.Linear, kind):
            _open_conv1d(owner, book, pattern)
        sites = dict(_sites(owner, kind))
        hits = [name for name in sites if pattern.fullmatch(name)]
        if not hits:
            present = [*sites, *(name for name, _ in instances(owner, Conv1D) if issubclass(nn.Linear, kind))]
            endings = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in present})) or "none"
            raise ValueError(f"no {kind.__name__} layer matches {target!r}; this model has {endings}")
        for name in hits:
            _swap(owner, book, name, build(sites[name]))
    except Exception:
        detach(model)
        raise
    return hits


def beside(
    model: nn.Module, first: str, last: str, build: Callable[[nn.Linear, nn.Linear], nn.Module]
) -> list[tuple[str, str]]:
    """Runs ``build(first_layer, last_layer)`` beside each pair of layers, from the first's input to the last's output.

    With ``FFN_IN`` and ``FFN_OUT`` this is a branch parallel to the feed-forward network. Returns the pairs of names;
    raises ``ValueError`` as ``replace`` does, or when the two do not pair up.
    """
    owner, book = journal(model)
    held: list[Held] = []
    inputs: list[nn.Linear] = []

    def tap(layer: nn.Linear) -> Tap:
        held.append(Held())
        inputs.append(layer)
        return Tap(layer, held[-1])

    def join(layer: nn.Linear) -> Beside:
        at = next(places)
        return Beside(layer, build(inputs[at], layer), held[at])

    starts = replace(model, first, tap)
    pattern = re.compile(rf"(?:.*\.)?(?:{last})")
    _open_conv1d(owner, book, pattern)
    ends = [name for name, _ in _sites(owner, nn.Linear) if pattern.fullmatch(name)]
    if len(starts) != len(ends):
        refuse(model, f"{first!r} matches {len(starts)} layers, {last!r} {len(ends)}: they do not pair up")
    places = iter(range(len(starts)))
    return list(zip(starts, replace(model, last, join), strict=True))


def train_in_place(model: nn.Module, names: Iterable[str]) -> None:
    """Trains the named parameters of the base model themselves; keeps their old values, on the CPU, for ``detach``."""
    owner, book = journal(model)
    for name in names:
        path, _, leaf = name.rpartition(".")
        parameter = owner.get_parameter(name)
        home = "meta" if parameter.is_meta else "cpu"
        book.saved.append((owner.get_submodule(path), leaf, parameter.detach().to(home, copy=True)))
        parameter.requires_grad_(True)


def derive(model: nn.Module, name: str, rule: nn.Module) -> None:
    """From now on the parameter ``name`` reads as ``rule(parameter)``: the base value stays, ``rule`` may train.

    A parameter that several modules share (tied embeddings) reads so in all of them. What ``torch`` offers for this,
    ``parametrize``, cannot be undone on a copy of a model.
    """
    owner, book = journal(model)
    parameter = owner.get_parameter(name)
    derived = Derived(parameter, rule)
    homes = [(module, leaf) for module in owner.modules() for leaf, p in module._parameters.items() if p is parameter]
    for module, leaf in homes:
        if "derived" not in module._modules:
            module.derived = nn.ModuleDict()
        module._parameters[leaf] = None  # keeps its place in the order of parameters
        module.derived[leaf] = derived
        module.__class__ = _reading(type(module), leaf)
        book.derived.append((module, leaf))
    book.owned[derived] = {"original"}


@cache
def _reading(kind: type[nn.Module], leaf: str) -> type[nn.Module]:
    """A subclass of ``kind``, named as it is, whose attribute ``leaf`` is computed when it is read."""
    return type(kind.__name__, (kind,), {leaf: property(lambda module: module.derived[leaf]())})


def _underive(module: nn.Module, leaf: str) -> None:
    """Undoes the last ``derive`` on ``module``: the parameter is itself again."""
    module.__class__ = type(module).__bases__[0]
    module._parameters[leaf] = module.derived[leaf].original
    del module.derived[leaf]
    if not module.derived:
        del module.derived


def add(model: nn.Module, name: str, module: nn.Module) -> None:
    """Adds ``module`` as a child ``name`` of the base model: a home for parameters that belong to no single layer."""
    owner, book = journal(model)
    if hasattr(owner, name):
        raise ValueError(f"{type(owner).__name__} already has a {name!r}")
    _swap(owner, book, name, module)


@torch.no_grad()
def detach(model: nn.Module) -> nn.Module:
    """Undoes everything since ``freeze`` and returns the base model: modules, values, every ``requires_grad``."""
    owner, book = journal(model)
    for module, leaf in reversed(book.derived):
        _underive(module, leaf)
    for module, name, value in reversed(book.saved):
        getattr(module, name).copy_(value)
    for name, original in reversed(book.swaps):
        current = owner.get_submodule(name)
        _follow(original, current)
        _put(owner, name, closed(original, current) if isinstance(original, Conv1D) else original)
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
        _underive(module, leaf)
    for name, original in reversed(book.swaps):
        current = owner.get_submodule(name)
        if isinstance(original, Conv1D):
            _put(owner, name, closed(original, current))
        elif original is None:
            _put(owner, name, None)
        elif current is not original:  # it is when a layer was wrapped twice
            _put(owner, name, _merged(name, current))
    return _close(owner, book)


def refuse(model: nn.Module, reason: str) -> NoReturn:
    """Undoes what a method has begun and raises ``ValueError(reason)``: a refused model is left as it was."""
    detach(model)
    raise ValueError(reason)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that the base model lacks or has otherwise: trained, inserted, or trained in place."""
    _, book = journal(model)
    changed = {(module, name) for module, name, _ in book.saved}
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, tensor in _tensors(module):
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


def instances(model: nn.Module, kind: type[M]) -> Iterator[tuple[str, M]]:
    """Yields name and module of every ``kind`` in ``model``."""
    yield from ((name, module) for name, module in model.named_modules() if isinstance(module, kind))


def backbone(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields name and parameter of all that was pre-trained: everything but a classification head.

    A language model's head belongs to it; any other head is new, and outside what ``transformers`` calls base model.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    whole = model if head is not None else getattr(model, "base_model", model)
    inside = {id(parameter) for parameter in whole.parameters()}
    yield from ((name, parameter) for name, parameter in model.named_parameters() if id(parameter) in inside)


def norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields name and module of every normalisation layer: LayerNorm, RMSNorm, and each family's own class of these."""
    for name, module in model.named_modules():
        if type(module).__name__.endswith("Norm") and isinstance(getattr(module, "weight", None), Tensor):
            yield name, module


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and persistent buffers that ``module`` itself owns."""
    hidden = module._non_persistent_buffers_set
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in hidden:
            yield name, tensor


def _sites(model: nn.Module, kind: type[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Every ``kind`` layer, or what already stands around it, but nothing that is inside such a thing."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside) and inside:
            continue
        core = module
        while isinstance(core, Around):
            core = core.base
        if core is not module:
            inside += (f"{name}.",)
        if isinstance(core, kind):
            yield name, module


def _put(model: nn.Module, name: str, module: nn.Module | None) -> None:
    """Sets the submodule ``name``; removes it when ``module`` is None."""
    path, _, leaf = name.rpartition(".")
    parent = model.get_submodule(path)
    if module is None:
        delattr(parent, leaf)
    else:
        setattr(parent, leaf, module)


def _follow(original: nn.Module | None, current: nn.Module) -> None:
    """Brings a layer that stood outside the model to the place and the type that the model has now."""
    like = next(current.parameters(), None)
    if original is not None and like is not None and original not in set(current.modules()):
        original.to(device=like.device, dtype=like.dtype)


def _merged(name: str, layer: nn.Module) -> nn.Module:
    """The plain layer inside ``layer`` with every change written into it, the innermost first."""
    if not hasattr(layer, "merged"):
        raise ValueError(f"{type(layer).__name__} at {name} cannot be written back as a plain layer")
    if isinstance(layer.base, Around):
        layer.base = _merged(name, layer.base)
    return layer.merged()


def _swap(model: nn.Module, book: Journal, name: str, module: nn.Module) -> None:
    """Puts ``module`` at ``name`` and notes what was there."""
    path, _, leaf = name.rpartition(".")
    parent = model.get_submodule(path)
    book.swaps.append((name, getattr(parent, leaf, None)))
    module.train(parent.training)
    setattr(parent, leaf, module)


def _close(model: nn.Module, book: Journal) -> nn.Module:
    """Gives every parameter its old ``requires_grad`` and drops the journal."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(book.trainable[name])
        parameter.grad = None
    del model._journal
    return model


def _open_conv1d(model: nn.Module, book: Journal, pattern: re.Pattern[str]) -> None:
    """Presents every ``Conv1D`` that ``pattern`` names, whole or by thirds, as linear layers."""
    for name, conv in list(instances(model, Conv1D)):
        if pattern.fullmatch(name):
            opened: nn.Module = columns(conv, 0, conv.nf)
        elif conv.nf == 3 * conv.nx and any(pattern.fullmatch(f"{name}.{part}") for part in PARTS):
            opened = Thirds(conv)
        else:
            continue
        book.own(opened)
        _swap(model, book, name, opened)

"""Writing ``kb/profiles/<slug>.json``: the closed forms of a method in all settings that it can be run in."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

from kb.architecture import OPENED
from kb.closed_form import MADE_BY, PROFILES, Form, Implementation, Instant, Profile, Storage
from kb.closed_form import profile as stored
from kb.files import put
from kb.records import load_methods
from kb.schema import Method
from kb.sites import LINEAR_SITES
from profiler import build, fit, source
from profiler.labels import Polynomial, spread
from profiler.layout import layout
from profiler.settings import Settings
from profiler.shapes import GATED_DECODERS, SHAPES, Shape, masked, square
from reference_impls import _site

SECONDS = 90  # of the processor, for one form: some initialisers loop over every column
LETTERS = ("r", "p", "m", "h")  # hyperparameters that appear as letters in the forms
LOOPING = 1.5  # times the kernels: a hyperparameter that is the length of a loop, and no width
_DECODERS = ("decoder", "decoder_joined", "decoder_plain", "decoder_plain_joined", "decoder_rectified")
_ENCODER_DECODERS = ("encoder_decoder", "encoder_decoder_gated")
_SHAPES = {
    "decoder": _DECODERS,
    "encoder_decoder": _ENCODER_DECODERS,
}  # by what a record applies to; the others are called as their kind
TARGETS = (
    ("attention.query", "attention.value"),
    ("all_linear",),
)
"""Choices of linear layers for which forms are kept besides the record's own, on decoders."""
UNPACKED = "lora"
"""The method whose forms say what unpacking a base takes, for every choice of layers: PEFT copies what adapted ones give."""
_WORDS = {  # PEFT's words for our hyperparameters
    "rank": "r",
    "prompt_length": "num_virtual_tokens",
    "prefix_length": "num_virtual_tokens",
    "hidden": "encoder_hidden_size",
}
_PATTERNS = {
    "query": _site.QUERY,
    "key": _site.KEY,
    "value": _site.VALUE,
    "output": _site.OUTPUT,
    "gate": _site.FFN_GATE,
    "up": _site.FFN_IN,
    "down": _site.FFN_OUT,
}


def implementations(method: Method) -> Iterator[Implementation]:
    """Whose code there is for a method."""
    if util.find_spec(f"reference_impls.{method.slug}") is not None:
        yield "ours"
    if method.slug == "full_fine_tuning":
        return
    try:
        build.peft_config(method.slug, {}, layers=1)
        yield "peft"
    except ValueError:
        return


def pattern(sites: Iterable[str]) -> str | None:
    """Linear layers as a pattern of the ends of their names; ``None`` if a site is no single linear layer."""
    roles = [site.rpartition(".")[2] for site in sites if site in LINEAR_SITES]
    if not roles or len(roles) < len(tuple(sites)) or not {*roles} <= _PATTERNS.keys():
        return None
    joined = (_site.QKV,) if {"query", "key", "value"} & {*roles} else ()
    return "|".join(dict.fromkeys((*(_PATTERNS[role] for role in roles), *joined)))


def fields(
    method: Method, implementation: Implementation, targets: tuple[str, ...] = ()
) -> tuple[dict[str, str], dict[str, object]]:
    """Hyperparameters that become letters, as letter and field, and further fields that are set.

    ``targets`` are sites of linear layers instead of the record's. Raises ``ValueError`` for a method without a choice.
    """
    knobs = {
        knob.symbol: knob.name
        for knob in method.mechanism.hyperparameters
        if knob.symbol in LETTERS and isinstance(knob.ours, int | float)
    }
    where = targets or method.mechanism.where
    ends = _site.LINEAR if "all_linear" in where else pattern(where)
    if implementation == "ours":
        config = import_module(f"reference_impls.{method.slug}").Config
        if not targets:
            return knobs, {}
        if ends is None or "target" not in {field.name for field in dataclasses.fields(config)}:
            raise ValueError(f"{method.name} has no choice of linear layers")
        return knobs, {"target": ends}
    known = inspect.signature(type(build.peft_config(method.slug, {}, layers=1))).parameters
    named = {letter: _WORDS.get(name, name) for letter, name in knobs.items()}
    further: dict[str, object] = {}
    if "target_modules" in known and ends is not None:
        further["target_modules"] = "all-linear" if "all_linear" in where else rf".*\.(?:{ends}|{OPENED})"
    elif targets:
        raise ValueError(f"{method.name} has no choice of linear layers")
    if "feedforward_modules" in known and ends is not None:
        further["feedforward_modules"] = rf".*\.(?:{_site.FFN_OUT})"
    return {letter: name for letter, name in named.items() if name in known}, further


Key = tuple[str, str, str, bool, str, bool]
"""Whose code, shape, storage, checkpointing, targets, autocast."""


@dataclass(frozen=True)
class Case:
    """One form to be read off."""

    implementation: Implementation
    shape: Shape
    storage: Storage
    checkpointing: bool
    targets: tuple[str, ...] = ()
    autocast: bool = False

    @property
    def key(self) -> Key:
        """What tells it from other forms of a method."""
        targets = ",".join(self.targets)
        return self.implementation, self.shape.name, self.storage, self.checkpointing, targets, self.autocast

    @property
    def words(self) -> str:
        """As a reader of a refusal wants it."""
        cast = ("autocast",) if self.autocast else ()
        return ", ".join((self.implementation, self.shape.name, self.storage, *self.targets, *cast))


class _UnsuitedError(ValueError):
    """A form took longer than it may, or its letters are no widths."""


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Raises ``ValueError`` in what takes longer than so many seconds of the processor; only in a main thread."""

    def end(number: int, frame: object) -> None:
        raise _UnsuitedError(f"took longer than {seconds:g} seconds at the labelled widths")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 0.2)  # again and again: a finaliser may swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def key_of(form: Form) -> Key:
    """As ``Case.key``, of a form that was read off."""
    return form.implementation, form.shape, form.storage, form.checkpointing, form.targets, form.autocast


def cases(method: Method) -> Iterator[Case]:
    """Everything that is tried for a method; PEFT's code also under autocast, as training scripts run it."""
    for implementation in implementations(method):
        for autocast in (False, True) if implementation == "peft" else (False,):
            for case in _plain(method, implementation):
                yield dataclasses.replace(case, autocast=autocast)


def _plain(method: Method, implementation: Implementation) -> Iterator[Case]:
    """What is tried of an implementation without autocast."""
    through = method.efficiency.backprop_through_backbone.value is not False
    shapes = [s for kind in method.applies_to.architectures for s in _SHAPES.get(kind, (kind,)) if s in SHAPES]
    only = "quantised_base" in method.applies_to.needs
    choosing = pattern(method.mechanism.where) is not None or "all_linear" in method.mechanism.where
    for name in shapes:
        quantised = name in GATED_DECODERS and (only or method.efficiency.quantised_base.value is True)
        storages: tuple[Storage, ...] = (
            *(() if only else ("bf16",)),
            *(("nf4", "int8")[: 1 if only else 2] if quantised else ()),
        )
        for checkpointing in (False, True) if through else (False,):
            for storage in storages:
                yield Case(implementation, SHAPES[name], storage, checkpointing)
            if name in GATED_DECODERS and choosing and storages:
                packed = storages[1:] if (method.slug, implementation) == (UNPACKED, "peft") else ()
                for targets in TARGETS:
                    if {*targets} != {*method.mechanism.where}:
                        for storage in (storages[0], *packed):
                            yield Case(implementation, SHAPES[name], storage, checkpointing, targets)


def profile(method: Method, known: Profile | None = None) -> Profile:
    """The closed forms of a method, from dry runs; what cannot be run is listed with the reason.

    Forms of ``known``, an earlier profile, are kept if nothing that they rest on has changed.
    """
    now, forms, refused = fingerprint(method), [], {}
    barred: dict[tuple[Implementation, bool], str] = {}  # what fails once does so on every model
    kept = known if known is not None and known.fingerprint == now else None
    there = {key_of(form): form for form in kept.forms} if kept else {}
    for case in cases(method):
        if case.key in there:
            forms.append(there[case.key])
        elif kept and case.words in kept.refused:
            refused[case.words] = kept.refused[case.words]
        else:
            try:
                forms.append(_form(method, case, barred))
            except Exception as error:
                if not isinstance(error, ValueError) and (case.implementation, case.storage) == ("ours", "bf16"):
                    raise  # ours says what it cannot do; a library, or a base in other storage, may just fail
                refused[case.words] = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return Profile(
        made_by=MADE_BY,
        slug=method.slug,
        fingerprint=now,
        versions=versions(),
        forms=tuple(forms),
        refused=refused,
    )


def _form(method: Method, case: Case, barred: dict[tuple[Implementation, bool], str]) -> Form:
    """The form of a case; without letters for hyperparameters where these fail, as noted in ``barred``."""
    first = not any(implementation == case.implementation for implementation, _ in barred)
    for lettered in (True, False) if fields(method, case.implementation, case.targets)[0] else (False,):
        if barred.get((case.implementation, lettered)):
            continue
        try:
            with _bounded(SECONDS):
                if lettered and first and _loops(method, case):
                    raise _UnsuitedError("hyperparameters are lengths of loops")
                found = form(method, case, lettered, first)
        except _UnsuitedError as error:
            barred[case.implementation, lettered] = str(error)
        else:
            barred.setdefault((case.implementation, lettered), "")
            return found
    raise _UnsuitedError(barred[case.implementation, False])


def _loops(method: Method, case: Case) -> bool:
    """Whether labelled hyperparameters start more kernels than the advised ones: loops cannot be told from widths."""
    try:
        lettered = trial(method, case).kernels()
    except _UnsuitedError:
        raise
    except ValueError:  # a size that the labelled widths do not go with; ``form`` sees to that
        return False
    return lettered > LOOPING * trial(method, case, lettered=False).kernels()


def trial(method: Method, case: Case, lettered: bool = True) -> fit.Trial:
    """What is run for a case; hyperparameters are labelled if ``lettered``, else as the record advises."""
    knobs, further = fields(method, case.implementation, case.targets)
    if not lettered:
        knobs, further = {}, {**further, **settled(method, knobs)}
    kinds = layout(method.slug, case.shape)
    knobs = {**knobs, **kinds.knobs}
    shape, needs = case.shape, method.applies_to.needs
    if "masked_lm" in needs:
        shape = masked(shape)
    elif "square_attention" in needs and shape.name == "decoder":
        shape = square(shape)
    settings = Settings(storage=case.storage, checkpointing=case.checkpointing, autocast=case.autocast)
    return fit.Trial(shape, method.slug, settings, case.implementation, knobs, further, kinds)


def advice(method: Method, knobs: Iterable[str]) -> dict[str, float]:
    """The values that a record advises, by letter."""
    known = {knob.symbol: knob.ours for knob in method.mechanism.hyperparameters if knob.symbol in {*knobs}}
    return {letter: float(value) for letter, value in known.items() if isinstance(value, int | float)}


def settled(method: Method, knobs: Mapping[str, str]) -> dict[str, object]:
    """The fields of hyperparameters, given by letter, at the values that the record advises."""
    return {knobs[letter]: int(value) for letter, value in advice(method, knobs).items()}


def form(method: Method, case: Case, lettered: bool = True, checked: bool = False) -> Form:
    """One closed form. Raises ``ValueError`` with the reason when the method cannot be run so.

    Hyperparameters become letters if ``lettered`` and if the method takes the labelled values; else they keep those advised.
    ``checked`` as of ``fit``.
    """
    wanted = trial(method, case, lettered)
    try:
        found = fit.fit(wanted, checked=checked)
    except _UnsuitedError:
        raise
    except ValueError:  # a size that the labelled widths do not go with
        if not wanted.knobs:
            raise
        wanted = trial(method, case, lettered=False)
        found = fit.fit(wanted, checked=checked)
    kinds = wanted.layout
    said = (lambda polynomial: plain(spread(polynomial))) if "p" in kinds.formulas else plain
    return Form(
        implementation=case.implementation,
        shape=case.shape.name,
        storage=case.storage,
        checkpointing=case.checkpointing,
        targets=",".join(case.targets),
        autocast=case.autocast,
        knobs={**kinds.values, **advice(method, wanted.knobs)},
        own_optimizer=_own_optimizer(method.slug, case.implementation),
        instants=tuple(instant(one, said) for one in found.instants),
        gradients=said(found.gradients),
        states=said(found.states),
        spare=said(found.spare),
        flops=said(found.work["flops"]),
        flops_fp32=said(found.work["flops_fp32"]),
        moved=said(found.work["bytes"]),
        kernels=said(found.work["kernels"]),
        unread=round(found.unread, 6),
        letters=dict(kinds.formulas),
    )


def _own_optimizer(slug: str, implementation: Implementation) -> bool:
    """Whether the method brings its own optimizer."""
    if implementation == "ours":
        return hasattr(import_module(f"reference_impls.{slug}"), "optimizer")
    return build.peft_attaching(slug)[1].optimizer is not None


def instant(one: fit.Instant, said: Callable[[Polynomial], dict[str, float]]) -> Instant:
    """An instant as it is stored; weights are counted exactly from the architecture instead."""
    return Instant(
        phase=one.phase,  # type: ignore[arg-type]  # one of the phases of a step
        words=one.words,
        parts={part: said(terms) for part, terms in one.parts.items() if terms and part != "weights"},
    )


def plain(polynomial: Polynomial) -> dict[str, float]:
    """Coefficients as numbers, the largest powers first."""
    found = {"*".join(monomial): coefficient for monomial, coefficient in polynomial.items()}
    return {
        name: float(f"{float(value):.6g}")
        for name, value in sorted(found.items(), key=lambda item: (-item[0].count("*"), item[0]))
    }


def versions() -> dict[str, str]:
    """The libraries whose behaviour the forms describe."""
    return {name: metadata.version(name).partition("+")[0] for name in ("torch", "transformers", "peft")}


def fingerprint(method: Method) -> str:
    """Changes when what forms rest on does: the code, with all that it imports, the hyperparameters, layers, libraries."""
    knobs = [(knob.name, knob.symbol, knob.ours) for knob in method.mechanism.hyperparameters]
    said = json.dumps([source.statements(method.slug), knobs, method.mechanism.where, versions()])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def write(found: Profile, folder: Path = PROFILES) -> Path:
    """Writes a profile, one polynomial per line, by way of a temporary name."""
    folder.mkdir(exist_ok=True)
    return put(folder / f"{found.slug}.json", _laid_out(found.model_dump(mode="json", exclude_defaults=True)) + "\n")


def _laid_out(value: Any, indent: int = 0) -> str:
    """JSON with one line for each innermost object."""
    if isinstance(value, dict) and any(isinstance(one, dict | list) for one in value.values()):
        inner = ",\n".join(f"{' ' * (indent + 1)}{json.dumps(k)}: {_laid_out(v, indent + 1)}" for k, v in value.items())
        return f"{{\n{inner}\n{' ' * indent}}}"
    if isinstance(value, list) and value:
        inner = ",\n".join(f"{' ' * (indent + 1)}{_laid_out(one, indent + 1)}" for one in value)
        return f"[\n{inner}\n{' ' * indent}]"
    return json.dumps(value, ensure_ascii=False)


def current(method: Method, folder: Path = PROFILES) -> bool:
    """Whether the method's file is there, rests on what there is now, and lacks no case."""
    known = stored(method.slug, folder)
    if known is None or known.fingerprint != fingerprint(method):
        return False
    there = {key_of(form) for form in known.forms}
    return all(case.key in there or case.words in known.refused for case in cases(method))


def untrained(method: Method) -> bool:
    """Whether the method takes models that are trained already, and so has no step."""
    return "fine_tuned_models" in method.applies_to.needs


def runnable() -> list[Method]:
    """Every method with an implementation, ours or PEFT's."""
    return [method for method in load_methods().values() if any(True for _ in implementations(method))]

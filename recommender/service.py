"""``recommend`` and ``estimate``: from constraints to an explained answer."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from kb.architecture import Architecture
from kb.closed_form import outline
from recommender.advice import answer_changes, method_changes, more_under_autocast, nearest
from recommender.answer import Answer, CardView, Estimate, Excluded, ModelView, Ranked
from recommender.catalogue import Catalogue, default_catalogue
from recommender.constraints import Constraints
from recommender.emphasis import effects
from recommender.experts import in_short, viewed
from recommender.filters import requirements, unmet
from recommender.footprint import Prepared, prepare, subject
from recommender.placement import EVERYWHERE, said, same_sites
from recommender.plans import Sheet, chosen, sheet, smallest
from recommender.presenting import presented, standing
from recommender.reading import (
    Card,
    ConstraintError,
    echo,
    longest_input,
    near,
    read_card,
    read_model,
    read_targets,
    within,
)
from recommender.rivals import why_not
from recommender.scoring import (
    Scored,
    candidates,
    fitted,
    pareto,
    read_case,
    scored,
    timing,
    usual,
)
from recommender.speed import TYPICAL, times
from recommender.twin import together
from recommender.units import show_bytes

__all__ = ["SCHEMA_VERSION", "assumptions", "default_catalogue", "estimate", "recommend"]

SCHEMA_VERSION = "1"

_ASSUMPTIONS = (
    "The base is bf16 or quantised; what trains has the number format that its implementation gives it: fp32 in Hugging Face PEFT, the base's bf16 in ours. Full fine-tuning is bf16 throughout, 8 bytes per parameter with AdamW.",
    "Each method has the layers that its plan names and the hyperparameters shown.",
    "Every example is as long as the longest, so no mask is built; attention runs in a fused kernel that keeps no score matrix where the model allows it.",
    "A plan fits only if the upper end of the 90 % range fits.",
    "Memory and work come from closed forms, read off dry runs of the named implementation; nothing was measured for this request.",
)


_AUTOCAST = {
    "any": "PEFT's code is predicted under autocast to bf16 in a recommendation, as training scripts run it, and without in an estimate, as its published comparison ran it; either can be asked for.",
    "on": "PEFT's code is predicted under autocast to bf16, as the scripts run that we write; ours is bf16 throughout.",
    "off": "PEFT's code is predicted without autocast, as in its published comparison; scripts run under it (autocast: on), which takes less for most decoders and more for some models.",
}


def assumptions(card: Card | None, autocast: Literal["any", "on", "off"] = "any") -> tuple[str, ...]:
    """What every answer rests on, and what it takes for granted of ``card`` and where ``autocast`` is so."""
    held = (card or NO_CARD).context.words
    return (
        *_ASSUMPTIONS,
        _AUTOCAST[autocast],
        f"Allocated means live tensors, reserved what the caching allocator holds, device that and {held}.",
    )


NO_CARD = Card(
    usable=10**18,
    rates=None,
    view=CardView(id=None, name="no card", usable_bytes=10**18, count=1, note="no card was given"),
)
"""Stands for the card where none is given: everything fits."""


def recommend(constraints: Constraints, about: Catalogue | None = None) -> Answer:
    """The ranking of all methods under ``constraints``, explained.

    Raises ``ConstraintError`` when a model, card, library or class does not exist, or no memory is given.
    """
    about = about or default_catalogue()
    card = read_card(constraints)
    if card is None:
        raise ConstraintError("gpu_mem", "say how much memory there is: gpu_mem=24GB, or a card such as gpu=rtx-4090")
    _check_names(constraints, about)
    if constraints.rank is not None:
        raise ConstraintError("rank", "rank belongs to one method: ask for an estimate, or leave rank away")
    model, view = read_model(constraints)
    seen = subject(model)
    view = viewed(view, seen, about.library)
    constraints = within(constraints, model)
    if constraints.autocast == "any":
        constraints = constraints.model_copy(update={"autocast": "on"})  # as the scripts run that come with the answer
    case = read_case(constraints, about, seen, card, card.rates or TYPICAL)
    fitting: list[Scored] = []
    meeting, barred = candidates(case)
    excluded: list[Excluded] = list(barred)
    for item, of in meeting:
        found = scored(case, item, of)
        if isinstance(found, Excluded):
            excluded.append(found)
        else:
            fitting.append(found)
    fitting = together(case, fitting)
    fitting.sort(key=lambda found: (not found.sure, -found.score, found.slug))
    excluded.sort(key=lambda item: (item.code != "memory", item.missing_bytes or 0, item.slug))
    average = usual(case, fitting)
    ranked = tuple(
        presented(case, found, place, average) for place, found in enumerate(fitting[: constraints.limit], 1)
    )
    listed = fitting if constraints.detail == "full" else []
    left_out = Counter(item.constraint for item in barred if item.constraint is not None)
    return Answer(
        schema_version=SCHEMA_VERSION,
        data_version=about.data_version,
        constraints=echo(constraints),
        model=view,
        card=card.view,
        summary=_summary(ranked, len(fitting), excluded, view, card),
        effects=effects(constraints, case.at, case.emphasis, about.library, about.frame.forgotten, left_out),
        ranked=ranked,
        standings=tuple(standing(case, found, place) for place, found in enumerate(listed, 1)),
        total_ranked=len(fitting),
        excluded=tuple(excluded),
        pareto=pareto(fitting),
        why=None if constraints.why is None else why_not(case, constraints.why, fitting, excluded),
        advice=answer_changes(constraints, bool(fitting), excluded, card.usable),
        assumptions=assumptions(card, constraints.autocast),
        warnings=_warnings(constraints, card, model, view),
    )


def _check_names(constraints: Constraints, about: Catalogue) -> None:
    library, family, why = constraints.library, constraints.family, constraints.why
    if library is not None and library not in about.libraries:
        raise ConstraintError("library", f"no record names a library {library!r}{near(library, about.libraries)}")
    if family is not None and family not in about.families:
        raise ConstraintError("family", f"there is no class {family!r}{near(family, about.families)}")
    if why is not None and why not in about.known:
        raise ConstraintError("why", f"there is no method {why!r}{near(why, about.known)}")


def _summary(ranked: tuple[Ranked, ...], total: int, excluded: list[Excluded], model: ModelView, card: Card) -> str:
    if not ranked:
        closest = nearest(excluded)
        text = f"Nothing fits {model.name} on {card.view.name}."
        if closest is not None and closest.missing_bytes is not None:
            text += f" {closest.name} comes closest and lacks {show_bytes(closest.missing_bytes)}."
            text += "" if model.mixture is None else f" {in_short(model.mixture)}"
        return text
    first = ranked[0]
    plan = first.plan
    taken = f"{show_bytes(first.memory.device_bytes)} of {show_bytes(card.usable)}{' of each card' if plan.gpus > 1 else ''}"
    lead = f"{first.name} leads and fits with {show_bytes(first.headroom_bytes)} to spare ({taken})"
    if first.verdict == "tight":
        lead = (
            f"{first.name} leads, but it is tight: {taken} predicted, and the upper end of the prediction does not fit"
        )
    layers = f"{said(plan.targets)} adapted, " if plan.targets == EVERYWHERE else ""
    cards = f"{'spread over' if plan.sharding == 'full' else 'copied to each of'} {plan.gpus} cards, "
    held = "" if plan.gpus == 1 else cards
    how = f"{layers}weights in {plan.storage}, {held}{'with' if plan.checkpointing else 'without'} checkpointing, {plan.micro_batch} {'example' if plan.micro_batch == 1 else 'examples'} at a time"
    how += "" if first.twin is None else f"; {first.twin.name} is the same run"
    large = sum(item.code == "memory" for item in excluded)
    rest = len(excluded) - large
    return f"{lead}: {how}. Of {total + len(excluded)} methods {total} fit, {large or 'none'} need more memory, {rest or 'none'} do not apply here."


RELATIVE_TIMES = "Times are relative to LoRA, since no card was named; with a card, such as gpu=rtx-4090, they are tokens per second."
"""What an answer without tokens per second says; pages offer cards to choose instead."""


UNRATED = "Times are relative to LoRA, since the rates of {card} are not known here."
UNIFIED = "The memory of this machine serves everything that runs on it, and its system lets a program have a part of it only; memory was predicted for CUDA."
EXCHANGED = "Several cards: what they exchange is counted at three quarters of the rate of their link, behind the computation as far as it hides; where the link is not known, that of PCI Express 4.0 with 16 lanes. More than one machine takes longer."


def _warnings(constraints: Constraints, card: Card, model: Architecture, view: ModelView) -> tuple[str, ...]:
    warnings = []
    if card.rates is None:
        warnings.append(RELATIVE_TIMES if constraints.gpu is None else UNRATED.format(card=card.view.name))
    if constraints.config is not None:
        warnings += model.notes
    if card.half != "bf16":
        warnings.append(f"{card.view.name} does not compute in bf16: recipes take fp16, which needs as much memory.")
    if card.shared:
        warnings.append(UNIFIED)
    longest = longest_input(constraints, model)
    if longest is not None and constraints.seq > longest:
        further = "" if view.read_as is None else "; a variant of it may take more"
        warnings.append(
            f"seq={constraints.seq} is longer than the {longest} tokens that the model was made for{further}."
        )
    if not model.packable and constraints.quantization != "none":
        warnings.append("transformers 5 stores no layer of this family in fewer bits, so its base stays in bf16.")
    if constraints.task == "diffusion":
        warnings.append(
            "Memory and time are those of a language model of this size: diffusion models have no closed form here."
        )
    if constraints.gpus > 1:
        warnings.append(EXCHANGED)
    return tuple(warnings)


def _changed(prepared: Prepared, constraints: Constraints, targets: tuple[str, ...]) -> Prepared:
    """The record with the rank and targets that were asked for."""
    if constraints.rank is None and not targets:
        return prepared
    symbols = {knob.symbol for knob in prepared.method.mechanism.hyperparameters if knob.name == "rank"}
    if constraints.rank is not None and not symbols:
        raise ConstraintError("rank", f"{prepared.method.name} has no rank")
    values = {symbol: float(constraints.rank) for symbol in symbols} if constraints.rank is not None else {}
    return prepare(prepared.method, targets, values)


def _impossible(of: Sheet, constraints: Constraints, model: Architecture) -> ConstraintError:
    """Why there is no plan at all for a method."""
    method = of.prepared.method
    known = outline(method.slug)
    if of.form is not None:
        why = of.unstored(constraints.quantization)
        return ConstraintError("quantization", f"{method.name} {why}; leave it at any or none")
    if of.variant.targets:
        return ConstraintError(
            "targets",
            f"there is no closed form of {method.name} on {of.variant.targets}"
            + (f"; there is one on {'; '.join(known.targets)}" if known.targets else "")
            + "; the dry run (estimate --exact) takes any",
        )
    if of.variant.implementation != "any" and of.about.shape in known.shapes:
        lacking = f"that implementation of {method.name} is not there, or does not run on such a model"
        return ConstraintError("implementation", f"{lacking}; leave it at any")
    return ConstraintError("model", f"{method.name}: {of.unread}")


def estimate(slug: str, constraints: Constraints, about: Catalogue | None = None) -> Estimate:
    """Memory and time of one method. The card is optional; without one the most faithful plan is taken.

    Raises ``ConstraintError`` for an unknown method, model or card.
    """
    about = about or default_catalogue()
    if slug not in about.known:
        raise ConstraintError("method", f"there is no method {slug!r}{near(slug, about.known)}")
    card = read_card(constraints)
    model, view = read_model(constraints)
    constraints = within(constraints, model)
    seen, item = subject(model), about.known[slug]
    view = viewed(view, seen, about.library)
    method, targets = item.prepared.method, read_targets(constraints)
    if same_sites(method, targets):
        targets = ()  # those of the record
    prepared = _changed(item.prepared, constraints, targets)
    placed = card or NO_CARD
    case = read_case(constraints, about, seen, placed, placed.rates or TYPICAL, ",".join(targets))
    asked = case.demand
    kept = prepared is item.prepared  # a rank or layers of one request are not worth remembering
    of = sheet(prepared, seen, asked.variant) if kept else Sheet(prepared, seen, asked.variant)
    option, examples, sure = fitted(case, of)
    choice = chosen(asked, option, examples) if option is not None else smallest(of, asked)
    if choice is None:
        raise _impossible(of, constraints, model)
    seconds, relative = timing(case, choice.option, choice.examples)
    plan, peak = choice.plan(), choice.memory()
    known_rates = placed.rates is not None
    barred = unmet(method, requirements(constraints, model))
    doubts = [f"{method.name} {barred.reason}"] if barred else []
    more = more_under_autocast(choice, of) if constraints.autocast == "any" else ()
    return Estimate(
        schema_version=SCHEMA_VERSION,
        data_version=about.data_version,
        slug=slug,
        name=method.name,
        constraints=echo(constraints),
        model=view,
        card=card.view if card is not None else None,
        plan=plan,
        fits=None if card is None else "too_large" if option is None else "fits" if sure else "tight",
        peak=peak,
        missing_bytes=peak.device_bytes - placed.usable if option is None else None,
        counts=of.counts,
        formula=choice.line.formula(choice.examples, choice.carried),
        step_time_relative=round(relative, 3),
        **times(seconds if known_rates else None, plan, constraints),
        flops=choice.work.operations(plan.micro_batch),
        kernels=round(choice.work.kernels),
        bytes_moved=choice.work.bytes(plan.micro_batch),
        changes=method_changes(choice, of, card.usable if card is not None else None),
        assumptions=assumptions(card, "on" if constraints.autocast == "on" else "off"),
        warnings=(*doubts, *more, *_warnings(constraints, placed, model, view)),
    )

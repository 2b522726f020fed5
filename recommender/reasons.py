"""Why a method stands where it stands: statements for and against, each with its source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from kb.schema import Method, Value
from kb.studies import Study
from recommender.answer import Citation, Criterion, Memory, Plan, Reason
from recommender.citations import OWN, Library, computed
from recommender.phrase import sentence
from recommender.quality import Evidence
from recommender.units import show_bytes, show_count

Kind = Literal["for", "against", "note"]
_FINDING = re.compile(r"\s*\(survey, finding (\d+)\)")
SMALL_DATA = 2000  # examples; below it, few results of the evidence base apply


def _fact(
    value: Value[bool], library: Library, yes: tuple[str, str] | None, no: tuple[str, str] | None
) -> Iterable[Reason]:
    """A reason from a yes-or-no fact: its text and the way it speaks, for each answer that is worth saying."""
    chosen = None if value.value is None else yes if value.value else no
    if chosen is not None and value.source is not None:
        text, kind = chosen
        note = f" {value.note}" if value.note else ""
        yield Reason(text=text + note, kind="for" if kind == "for" else "against", source=library.cite(value.source))


def standing(method: Method, library: Library) -> tuple[Reason, ...]:
    """Remarks that do not depend on the request; computed once per record."""
    cost = method.efficiency
    reasons = [*_fact(cost.mergeable, library, ("Merges into the weights after training.", "for"), None)]
    reasons += _fact(
        cost.backprop_through_backbone,
        library,
        None,
        ("Nothing flows back through the frozen model, which saves its activations.", "for"),
    )
    reasons += _fact(cost.needs_data_first, library, ("Has to look at data before training starts.", "against"), None)
    reasons += _fact(
        cost.needs_all_gradients, library, ("Needs gradients of all weights at some moment.", "against"), None
    )
    reasons += _cited(method, library)
    return tuple(reasons)


def heard(slug: str, evidence: Evidence, studies: Iterable[Study], library: Library) -> Citation:
    """The citation of the one study that contains a method, or of the synthesis of several, listed on its page."""
    seen = [study for study in studies if study.id in evidence.studies]
    if len(seen) == 1:
        return library.study(seen[0])
    if not seen:
        return computed("synthesis of published comparisons")
    where = "each with its results on the page of the method"
    return Citation(
        ref=OWN,
        title=f"Synthesis of {len(seen)} published comparisons",
        where=where,
        url=f"/methods/{slug}#evidence",
        grade=max(study.grade for study in seen),
    )


NOTABLE = 0.005  # of the score: what moves it less is no reason
STRONGEST = 3


def weighed(criteria: Sequence[Criterion], tones: Sequence[int], usual: Sequence[float], fitting: int) -> list[Reason]:
    """The criteria as reasons, the weightiest first: at least three, and every one that moves the score notably.

    ``tones`` say how their notes sound, ``usual`` are the mean values of the ``fitting`` methods that fit; both are in
    the order of ``criteria``.
    """
    moved = sorted(
        (
            (part.weight * (part.value - mean), part, tone)
            for part, tone, mean in zip(criteria, tones, usual, strict=True)
        ),
        key=lambda each: (-abs(each[0]), each[1].name),
    )
    kept = [each for place, each in enumerate(moved) if place < STRONGEST or abs(each[0]) >= NOTABLE]
    return [
        Reason(
            text=sentence(part.note + _beside(points, tone, fitting)),
            kind="note" if abs(points) < NOTABLE else "for" if points > 0 else "against",
            source=part.source,
            criterion=part.name,
            weight=round(points, 4),
        )
        for points, part, tone in kept
    ]


def _beside(points: float, tone: int, fitting: int) -> str:
    """What makes a note that sounds bad speak for a method, or the other way round: the others."""
    if abs(points) < NOTABLE or tone * points > 0:
        return ""
    return f"; {'still better' if points > 0 else 'yet worse'} than the average of the {fitting} that fit"


def _cited(method: Method, library: Library) -> list[Reason]:
    """The advice of the record that rests on a finding of the survey."""
    advice = method.advice
    kinds: tuple[tuple[Kind, Sequence[str]], ...] = (
        ("for", advice.use_when),
        ("against", advice.avoid_when),
        ("note", advice.mistakes),
    )
    lead = {"for": "Use it when: ", "against": "Avoid it when: ", "note": "Common mistake: "}
    reasons: list[Reason] = []
    for kind, sentences in kinds:
        for advised in sentences:
            for number in _FINDING.findall(advised):
                text = lead[kind] + _FINDING.sub("", advised)
                reasons.append(Reason(text=text, kind=kind, source=library.finding(int(number))))
    if method.status == "research" and not any("finding 4" in reason.source.where for reason in reasons):
        text = "Mostly shown by its own authors: such wins often vanish under a limited search and budget."
        reasons.append(Reason(text=text, kind="note", source=library.finding(4)))
    return reasons


_NF4 = "The frozen weights are stored as NF4 with double quantisation, 0.516 bytes per weight."
_INT8 = "The frozen weights are stored in 8 bits."
_SHARDED = "Weights, gradients and states are spread over the cards."


class Frame:
    """Reasons and sources that do not depend on the method."""

    def __init__(self, library: Library, forgotten: Citation) -> None:
        self.library, self.forgotten, self.predicted = library, forgotten, computed("memory model")
        self.sensitivity = library.finding(15)
        self.stored = {
            "nf4": Reason(text=_NF4, kind="note", source=library.finding(3)),
            "int8": Reason(text=_INT8, kind="note", source=library.finding(3)),
        }
        self.sharded = Reason(text=_SHARDED, kind="note", source=self.predicted)


def situational(
    method: Method,
    memory: Memory,
    plan: Plan,
    parameters: int,
    data: int | None,
    held: str,
    frame: Frame,
    told: Mapping[str, str],
) -> list[Reason]:
    """Reasons that depend on model, card and plan.

    ``held`` says where another plan begins, ``told`` what a base of four bits makes of a method.
    """
    sizes = vars(memory.parts)
    largest = max(sizes, key=sizes.__getitem__)
    text = f"Needs {show_bytes(memory.device_bytes)} of the card, {show_bytes(sizes[largest])} of it for {largest}; the peak is {memory.moment}."
    reasons = [Reason(text=text, kind="note", source=frame.predicted)]
    reasons.append(Reason(text=held, kind="note", source=frame.predicted))
    if plan.storage != "bf16":
        reasons.append(frame.stored[plan.storage])
    works = method.efficiency.quantised_base.source
    if plan.storage == "nf4" and method.slug in told and works is not None:
        reasons.append(Reason(text=told[method.slug], kind="note", source=frame.library.cite(works)))
    if plan.sharding == "full":
        reasons.append(frame.sharded)
    scale = method.applies_to.largest_scale
    if scale.value is not None and scale.source is not None and scale.value * 2 < parameters:
        text = f"Shown on models up to {show_count(scale.value)} parameters; yours has {show_count(parameters)}."
        reasons.append(Reason(text=text, kind="against", source=frame.library.cite(scale.source)))
    if data is not None and data < SMALL_DATA:
        text = f"With {data} examples, sensitivity to hyperparameters weighs more than small differences in the tables."
        reasons.append(Reason(text=text, kind="note", source=frame.sensitivity))
    return reasons

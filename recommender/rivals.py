"""Why not this method? Its place against the leader, or what would let it in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recommender.advice import RELAXED, larger
from recommender.answer import Change, Difference, Excluded, Ranked, WhyNot
from recommender.criteria import score
from recommender.emphasis import WEIGHTS, emphasis
from recommender.phrase import sentence
from recommender.presenting import presented
from recommender.scoring import Case, Scored, on_sheet, scored, usual
from recommender.twin import together

_SLIGHT = 0.0005  # of the score: half a place behind the point that texts show


def why_not(case: Case, slug: str, fitting: Sequence[Scored], excluded: Sequence[Excluded]) -> WhyNot:
    """Why ``slug`` does not lead. ``fitting`` is in the order of the ranking."""
    leader = fitting[0].slug if fitting else None
    barred = next((each for each in excluded if each.slug == slug), None)
    if barred is not None:
        return WhyNot(
            slug=slug,
            name=barred.name,
            outcome="excluded",
            rank=None,
            leader=leader,
            behind=None,
            text=f"{barred.name} is left out: it {barred.reason}."
            if barred.code != "unknown"
            else f"{barred.name} is left out: {barred.reason}.",
            losses=(),
            gains=(),
            admits=_admitting(case, barred),
        )
    place = next(place for place, found in enumerate(fitting) if found.slug == slug)
    average = usual(case, fitting)
    first, own = (presented(case, fitting[at], at + 1, average) for at in (0, place))
    differences = _differences(first, own)
    losses = tuple(each for each in differences if each.points > _SLIGHT)
    gains = tuple(each for each in reversed(differences) if each.points < -_SLIGHT)
    return WhyNot(
        slug=slug,
        name=own.name,
        outcome="leads" if place == 0 else "ranked",
        rank=own.rank,
        leader=leader,
        behind=round(first.score - own.score, 4),
        text=_said(first, own, losses),
        losses=losses,
        gains=gains,
        admits=_leading(case, fitting, place),
    )


def _differences(first: Ranked, own: Ranked) -> list[Difference]:
    """The criteria by what they give the leader over the method, the largest first."""
    pairs = zip(first.criteria, own.criteria, strict=True)
    found = [
        Difference(
            criterion=mine.name,
            points=round(mine.weight * (theirs.value - mine.value), 4),
            text=f"{sentence(mine.note)} {first.name}: {theirs.note}.",
            source=mine.source,
        )
        for theirs, mine in pairs
    ]
    return sorted(found, key=lambda each: (-each.points, each.criterion))


def _said(first: Ranked, own: Ranked, losses: Sequence[Difference]) -> str:
    if own.rank == 1:
        return f"{own.name} is the answer."
    if own.twin is not None and own.twin.slug == first.slug:
        return f"{own.name} is the answer, too. {own.twin.text}"
    behind = 100 * (first.score - own.score)
    text = f"{own.name} is number {own.rank}, {behind:.1f} points of 100 behind {first.name}"
    if own.verdict == "tight" and first.verdict == "fits":
        text += "; it stands behind every method that fits for sure, since the upper end of its prediction does not fit"
    named = [f"{each.criterion} ({100 * each.points:.1f})" for each in losses[:2]]
    return f"{text}, mostly for {' and '.join(named)}." if named else f"{text}."


def _leading(case: Case, fitting: Sequence[Scored], place: int) -> tuple[Change, ...]:
    """What would put the method first: another objective, or one constraint that moves the weights."""
    if place == 0:
        return ()
    own = fitting[place]
    rivals = [found for found in fitting if found.sure or not own.sure]
    if own not in rivals or (not own.sure and any(found.sure for found in fitting)):
        return ()
    asked = case.constraints
    tries: list[dict[str, Any]] = [{"objective": name} for name in WEIGHTS if name != asked.objective]
    tries += [{"budget": word} for word in ("none", "small", "large") if word != asked.budget]
    tries += [{name: "any" if getattr(asked, name) == "matters" else "matters"} for name in ("latency", "forgetting")]
    found = []
    for change in tries:
        weights = emphasis(asked.model_copy(update=change)).weights
        best = max(rivals, key=lambda rival: (score(weights, rival.values), rival.slug == own.slug))
        if best is own and _leads(case, rivals, own.slug, change):
            ((name, value),) = change.items()
            found.append(Change(text=f"With {name}={value} it would lead.", query={name: value}))
    return tuple(found)


def _leads(case: Case, rivals: Sequence[Scored], slug: str, change: dict[str, Any]) -> bool:
    """Whether a method is the first with ``change``, which may let others run in another way, too."""
    asked = case.constraints.model_copy(update=change)
    other = case._replace(constraints=asked, emphasis=emphasis(asked))
    again = (scored(other, each.item, on_sheet(other, each.item, case.placing.sites)) for each in rivals)
    ranked = together(other, [each for each in again if isinstance(each, Scored)])
    return min(ranked, key=lambda each: (not each.sure, -each.score, each.slug)).slug == slug


def _admitting(case: Case, barred: Excluded) -> tuple[Change, ...]:
    """What would let a method in that is left out."""
    asked, changes = case.constraints, []
    if barred.constraint is not None:
        value = RELAXED.get(barred.constraint, "")
        said = f"{barred.constraint}={getattr(asked, barred.constraint)}"
        changes.append(Change(text=f"Without {said} it would be considered.", query={barred.constraint: value}))
    if barred.needed_bytes is not None:
        changes += larger(asked, barred, case.card.usable)
    return tuple(changes)

"""From plans to scores: which way to run a method is taken, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from kb.closed_form import Storage
from kb.situation import Situation, situation
from recommender.answer import Excluded
from recommender.base import weights
from recommender.catalogue import Catalogue, Known
from recommender.constraints import Constraints
from recommender.criteria import Cost, score, values
from recommender.emphasis import Emphasis, emphasis
from recommender.filters import Requirements, requirements, unmet
from recommender.footprint import Prepared, Subject
from recommender.placement import EVERYWHERE, SLOWER, SPARING, Placing, read_placing
from recommender.plans import (
    PLAIN,
    Demand,
    Key,
    Option,
    Sharding,
    Sheet,
    Variant,
    accumulation,
    alike,
    best,
    demand,
    likewise,
    sheet,
    smallest,
)
from recommender.reading import Card
from recommender.recomputing import least
from recommender.situated import situated
from recommender.speed import Rates, exchange, work
from recommender.units import show_bytes
from recommender.variant import meaning


class Case(NamedTuple):
    """One request, read."""

    constraints: Constraints
    demand: Demand
    about: Catalogue
    subject: Subject
    card: Card
    rates: Rates
    reference: float  # seconds per token of LoRA in bf16 without checkpointing, on one card
    emphasis: Emphasis
    model_id: str  # of the Hugging Face hub, or a placeholder
    placing: Placing
    at: Situation  # what the evidence is asked about

    @property
    def mixed(self) -> bool:
        """Whether tasks share a batch, so that nothing can be merged."""
        return self.constraints.adapters > 1


@dataclass(frozen=True)
class Usual:
    """What the methods that fit have on average, against which reasons weigh."""

    count: int
    values: tuple[float, ...]  # of the criteria that have a weight, in the order of CRITERIA


class Scored(NamedTuple):
    """A method with its plan and score, before it is put into words."""

    slug: str
    item: Known
    of: Sheet
    option: Option
    examples: int
    sure: bool
    seconds: float
    relative: float
    values: tuple[float, ...]  # of the layers that the evidence is about: its paper's, or those asked for
    score: float
    ranked_by: Cost  # what these layers cost
    twin: Known | None = None  # the method by whose name this plan goes, too
    judge: Known | None = None  # whose standing it has, where that is the other's

    @property
    def judged(self) -> Known:
        """The method whose evidence its standing rests on."""
        return self.judge or self.item


def read_case(
    constraints: Constraints, about: Catalogue, seen: Subject, card: Card, rates: Rates, targets: str = ""
) -> Case:
    """A request with the time against which all others are shown: LoRA's, with the same batch."""
    asked = demand(constraints, card.usable, seen, targets, card.context)
    lora = sheet(about.known["lora"].prepared, seen, PLAIN._replace(autocast=asked.variant.autocast))
    seq = asked.asked.seq
    seconds = work(lora.formula("bf16", False, seq), seq).seconds(rates, constraints.batch, 1) if lora.forms else 1.0
    reference = seconds / (constraints.batch * seq)
    at = situation(constraints.task, constraints.data, seen.parameters)
    weighed, named = emphasis(constraints), _model_id(constraints)
    placing = read_placing(constraints)
    return Case(constraints, asked, about, seen, card, rates, reference, weighed, named, placing, at)


def _model_id(constraints: Constraints) -> str:
    meant = None if constraints.model is None else meaning(constraints.model)
    return "path/to/model" if meant is None else meant.repository


def timing(case: Case, option: Option, examples: int) -> tuple[float, float]:
    """Seconds per optimizer step in micro-batches of ``examples``, and seconds per token against LoRA.

    What several cards exchange hides behind the computation as far as it can.
    """
    passes = accumulation(case.demand, examples)
    seconds = option.work.seconds(case.rates, examples, passes)
    if case.constraints.gpus > 1:
        held, sharded = weights(case.subject, option.key[1]), option.key[3] == "full"
        gradients = option.line.of.gradients
        seconds = max(seconds, exchange(held, gradients, passes, case.constraints.gpus, sharded, case.rates))
    return seconds, seconds / (examples * passes * case.demand.asked.seq * case.reference)


Candidate = tuple[Known, Sheet]


def candidates(case: Case) -> tuple[tuple[Candidate, ...], tuple[Excluded, ...]]:
    """The methods that meet the requirements with their sheets, and the others with the reason; remembered per model."""
    about, seen, sites = case.about, case.subject, case.placing.sites
    wanted = requirements(case.constraints, seen.model)
    key = id(about), case.demand.variant, wanted, sites
    found = seen.candidates.get(key)
    if found is None:
        barred = _barred(about, wanted)
        meeting = ((item, on_sheet(case, item, sites)) for slug, item in about.known.items() if slug not in barred)
        found = tuple(meeting), tuple(barred.values()), about
        if _worth_keeping(sites):
            seen.candidates[key] = found  # holds ``about``, so its id stays its own
    return found[0], found[1]


def _barred(about: Catalogue, wanted: Requirements) -> Mapping[str, Excluded]:
    """The methods that do not meet what is ``wanted``, with the reason; remembered for the last requests."""
    found = about.barred.get(wanted)
    if found is None:
        each = ((slug, unmet(item.prepared.method, wanted)) for slug, item in about.known.items())
        found = about.barred[wanted] = {slug: reason for slug, reason in each if reason is not None}
    return found


def _worth_keeping(sites: tuple[str, ...]) -> bool:
    """Whether others will ask for these layers, too: there are too many sets of them to remember all."""
    return sites in ((), EVERYWHERE)


def on_sheet(case: Case, item: Known, sites: tuple[str, ...]) -> Sheet:
    """The sheet of a method with ``sites`` adapted, where they can be chosen; no sites: those of its paper."""
    prepared = item.on(sites)
    if prepared is item.prepared:
        return sheet(prepared, case.subject, case.demand.variant)
    variant = _on(case.demand.variant, sites)
    return (sheet if _worth_keeping(sites) else Sheet)(prepared, case.subject, variant)


@lru_cache(maxsize=64)
def _on(variant: Variant, sites: tuple[str, ...]) -> Variant:
    return variant._replace(targets=",".join(sites))


def widest(case: Case, item: Known) -> Sheet | None:
    """The sheet of a method with all linear layers, where its paper has query and value alone and there is a form."""
    if not case.placing.free or item.everywhere is None:
        return None
    wide = sheet(item.everywhere, case.subject, _on(case.demand.variant, EVERYWHERE))
    return wide if wide.forms else None


def fitted(
    case: Case, of: Sheet, storage: Storage | None = None, sharding: Sharding | None = None
) -> tuple[Option | None, int, bool]:
    """The plan that ``best`` finds, or the same with activations computed twice where that makes the step shorter.

    It does where the card is busy with launching kernels for a few examples, and has room for more without activations.
    """
    option, examples, sure = best(of, case.demand, storage, sharding)
    if option is None or not sure or case.constraints.checkpointing != "any" or not of.prepared.through:
        return option, examples, sure
    implementation, stored, checkpointing, spread = option.key
    if checkpointing or accumulation(case.demand, examples) == 1:
        return option, examples, sure
    asked, now = case.demand, timing(case, option, examples)
    if least(of, option, asked, case.rates) > now[0]:
        return option, examples, sure
    other = alike(of, (implementation, stored, True, spread), asked)
    if other is None or timing(case, other, asked.share) >= now:
        return option, examples, sure  # with the whole share at once, in one pass, it takes the least that it can
    more = other.line.largest(asked.sure, asked.share)
    if more > examples and timing(case, other, more) < now:
        return other, more, sure
    return option, examples, sure


def wider(case: Case, option: Option) -> tuple[Key, ...]:
    """The ways in which all linear layers may be adapted instead of query and value: as ``option``, or recomputing too."""
    implementation, storage, checkpointing, sharding = option.key
    if checkpointing or case.constraints.checkpointing != "any":
        return (option.key,)
    return option.key, (implementation, storage, True, sharding)


def _widened(case: Case, item: Known, option: Option, relative: float) -> tuple[Sheet, Option, int] | None:
    """The plan with all linear layers instead of query and value, where it fits with the base held as in ``option``.

    ``relative`` is the time of that plan. Where quality is the objective, time is no hindrance.
    """
    wide, objective = widest(case, item), case.constraints.objective
    if wide is None or objective in SPARING:
        return None
    for key in wider(case, option):
        other, fitting = likewise(wide, key, case.demand)
        if other is None or not fitting:
            continue
        if objective == "quality" or timing(case, other, fitting)[1] <= SLOWER * relative:
            return wide, other, fitting
    return None


def scored(case: Case, item: Known, of: Sheet) -> Scored | Excluded:
    """The method's best plan with its score, or why none fits.

    The score is that of the layers of its paper, for which most of the evidence stands, so that methods are ranked like
    for like: what all linear layers gain is shown in too few comparisons to be put into a number, and their cost alone
    would rank a method lower for being run better.
    """
    found = taken(case, item, of)
    if found is None:
        return _excluded(case, item, of)
    wide = _widened(case, item, found.option, found.relative) if found.sure else None
    if wide is None:
        return found
    beyond, option, examples = wide
    if option.key != found.option.key:
        found = _alike(case, found, option.key)
    seconds, relative = timing(case, option, examples)
    return found._replace(of=beyond, option=option, examples=examples, seconds=seconds, relative=relative)


def taken(case: Case, item: Known, of: Sheet) -> Scored | None:
    """The best way to run a method on a sheet with its score; ``None`` where nothing fits."""
    option, examples, sure = fitted(case, of)
    if option is None:
        return None
    found = _valued(case, item, of, option, examples, sure)
    for storage, sharding in _instead(case, option):
        other, examples, also = fitted(case, of, storage, sharding)
        if other is not None and also is sure:
            found = max(found, _valued(case, item, of, other, examples, sure), key=lambda each: each.score)
    return found


def _alike(case: Case, found: Scored, key: Key) -> Scored:
    """The same layers run as ``key`` says: what is ranked costs what is shown, but for the layers."""
    option, examples = likewise(found.of, key, case.demand)
    if option is None or not examples:
        return found
    return _valued(case, found.item, found.of, option, examples, found.sure)


def _instead(case: Case, option: Option) -> tuple[tuple[Storage, Sharding | None], ...]:
    """Other ways to hold the base that are weighed against the first that fits.

    Four bits instead of eight, whose kernels may cost more time than four bits cost quality; the base in bf16 spread over
    several cards, where copies of it fit only in fewer bits or with activations computed twice.
    """
    _, storage, checkpointing, sharding = option.key
    others: list[tuple[Storage, Sharding | None]] = [("nf4", None)] if storage == "int8" else []
    if case.constraints.gpus > 1 and sharding == "none" and (checkpointing or storage != "bf16"):
        others.append(("bf16", "full"))
    return tuple(others)


def _valued(case: Case, item: Known, of: Sheet, option: Option, examples: int, sure: bool) -> Scored:
    """A plan with its score."""
    seconds, relative = timing(case, option, examples)
    cost = Cost(alone(case, option), relative, of.stored_bytes)
    method, storage = item.prepared.method, option.key[1]
    own = situated(
        item.at(case.at), method, item.evidence, case.at, storage, case.subject.parameters, case.about.quantised
    )
    parts = values(own, cost.demand, relative, of.storage, case.mixed)
    total = score(case.emphasis.weights, parts)
    return Scored(method.slug, item, of, option, examples, sure, seconds, relative, parts, total, cost)


def alone(case: Case, option: Option) -> float:
    """What one example at a time takes of the usable memory."""
    return (option.line.reserved(1) + case.card.context.usual) / case.card.usable


def usual(case: Case, fitting: Sequence[Scored]) -> Usual:
    """The mean value of each criterion that has a weight, over the methods that fit."""
    columns = zip(*(found.values for found in fitting), strict=True)
    means = (
        sum(column) / len(column) for column, weight in zip(columns, case.emphasis.weights, strict=False) if weight
    )
    return Usual(len(fitting), tuple(means))


def _excluded(case: Case, item: Known, of: Sheet) -> Excluded:
    """Why no plan fits: what the smallest one needs."""
    method, usable = item.prepared.method, case.card.usable
    least = smallest(of, case.demand)
    if least is None:
        reason = of.unread if of.form is None else of.unstored(case.constraints.quantization)
        return Excluded(
            slug=method.slug,
            name=method.name,
            reason=reason,
            code="requirement" if of.form is not None else "unknown",
            constraint="quantization" if of.form is not None else None,
            missing_bytes=None,
            plan=None,
            needed_bytes=None,
        )
    need = int(least.line.reserved(1, least.carried)) + case.card.context.usual
    how = f"in its smallest plan ({least.key[1]}, one example at a time){states_of(item.prepared)}"
    return Excluded(
        slug=method.slug,
        name=method.name,
        reason=f"needs {show_bytes(need)} {how}; the card offers {show_bytes(usable)}",
        code="memory",
        constraint=None,
        missing_bytes=need - usable,
        plan=least.plan(),
        needed_bytes=need,
    )


def states_of(of: Prepared) -> str:
    """What makes the demand so large, in words; empty if nothing special does."""
    if of.full:
        return ": 8 bytes per parameter with AdamW in bf16 throughout (16 with fp32 copies), and activations"
    return ": gradients of all weights" if of.scored else ""


def pareto(scored: list[Scored]) -> tuple[str, ...]:
    """Slugs that no other method matches or beats in quality, memory, speed and storage at once."""
    points = {}
    for found in scored:
        quality, memory, speed, storage, *_ = found.values
        points[found.slug] = (int(1000 * quality), int(1000 * memory), int(1000 * speed), int(1000 * storage))
    front: list[tuple[int, int, int]] = []
    kept = set()
    for point in sorted(set(points.values()), reverse=True):  # what beats a point comes before it
        _, memory, speed, storage = point
        for roomier, faster, smaller in front:
            if roomier >= memory and faster >= speed and smaller >= storage:
                break
        else:
            front.append((memory, speed, storage))
            kept.add(point)
    return tuple(slug for slug, point in points.items() if point in kept)

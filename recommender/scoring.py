"""From plans to scores, and from the best scores to words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kb.catalogue import load_models
from kb.closed_form import Storage
from kb.situation import Situation, situation
from recommender.advice import method_changes, replaced, threshold
from recommender.answer import Change, Excluded, Ranked, Standing
from recommender.catalogue import Catalogue, Known
from recommender.constraints import Constraints
from recommender.criteria import Cost, Said, explained, score, values
from recommender.emphasis import CRITERIA, Emphasis, emphasis
from recommender.filters import Requirements, requirements, unmet
from recommender.footprint import Footprint, Subject
from recommender.memory import weights
from recommender.phrase import quality as expected
from recommender.placement import EVERYWHERE, SLOWER, SPARING, UNREAD, Placing, placed, read_placing
from recommender.plans import (
    PLAIN,
    Demand,
    Option,
    Sharding,
    Sheet,
    accumulation,
    best,
    chosen,
    demand,
    likewise,
    sheet,
    smallest,
)
from recommender.reading import Card
from recommender.reasons import situational, weighed
from recommender.recipe import EPOCHS, code
from recommender.script import Job
from recommender.situated import reworded, situated
from recommender.speed import Rates, exchange, times, work
from recommender.units import show_bytes

_ROBUSTNESS = CRITERIA.index("robustness")


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


def read_case(
    constraints: Constraints, about: Catalogue, seen: Subject, card: Card, rates: Rates, targets: str = ""
) -> Case:
    """A request with the time against which all others are shown: LoRA's, with the same batch."""
    asked = demand(constraints, card.usable, seen, targets, card.context)
    lora = sheet(about.known["lora"].prepared, seen, PLAIN)
    seq = asked.asked.seq
    seconds = work(lora.formula("bf16", False, seq), seq).seconds(rates, constraints.batch, 1) if lora.forms else 1.0
    reference = seconds / (constraints.batch * seq)
    at = situation(constraints.task, constraints.data, seen.parameters)
    weighed, named = emphasis(constraints), _model_id(constraints)
    placing = read_placing(constraints)
    return Case(constraints, asked, about, seen, card, rates, reference, weighed, named, placing, at)


def _model_id(constraints: Constraints) -> str:
    return "path/to/model" if constraints.model is None else load_models()[constraints.model].hf_id


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
    variant = case.demand.variant._replace(targets=",".join(sites))
    return (sheet if _worth_keeping(sites) else Sheet)(prepared, case.subject, variant)


def widest(case: Case, item: Known) -> Sheet | None:
    """The sheet of a method with all linear layers, where its paper has query and value alone and there is a form."""
    if not case.placing.free or item.everywhere is None:
        return None
    wide = sheet(item.everywhere, case.subject, case.demand.variant._replace(targets=",".join(EVERYWHERE)))
    return wide if wide.forms else None


def _widened(case: Case, item: Known, option: Option, relative: float) -> tuple[Sheet, Option, int] | None:
    """The plan with all linear layers instead of query and value, where it fits as the plan ``option`` does.

    ``relative`` is the time of that plan. Where quality is the objective, neither recomputing activations nor time is a
    hindrance.
    """
    wide, objective = widest(case, item), case.constraints.objective
    if wide is None or objective in SPARING:
        return None
    keys = [option.key]
    implementation, storage, checkpointing, sharding = option.key
    if objective == "quality" and not checkpointing and case.constraints.checkpointing == "any":
        keys.append((implementation, storage, True, sharding))
    for key in keys:
        other, fitting = likewise(wide, key, case.demand)
        if other is None or not fitting:
            continue
        if objective == "quality" or timing(case, other, fitting)[1] <= SLOWER * relative:
            return wide, other, fitting
    return None


def _hindrance(case: Case, found: Scored, wide: Sheet) -> str | None:
    """What stands against all linear layers in a plan that adapts query and value alone; ``None`` if nothing is known."""
    if case.constraints.objective in SPARING:
        return f"they cost what objective={case.constraints.objective} is to save"
    option, fitting = likewise(wide, found.option.key, case.demand)
    if option is None:
        return None
    if not fitting:
        _, high = option.line.device(1, False, case.card.context)
        return f"this plan could then need {show_bytes(high)} with one example at a time"
    return f"they would take {timing(case, option, fitting)[1] / found.relative:.1f} times the time"


def scored(case: Case, item: Known, of: Sheet) -> Scored | Excluded:
    """The method's best plan with its score, or why none fits.

    The score is that of the layers of its paper, for which most of the evidence stands, so that methods are ranked like
    for like: what all linear layers gain is shown in too few comparisons to be put into a number, and their cost alone
    would rank a method lower for being run better.
    """
    option, examples, sure = best(of, case.demand)
    if option is None:
        return _excluded(case, item, of)
    found = _valued(case, item, of, option, examples, sure)
    for storage, sharding in _instead(case, option):
        other, examples, also = best(of, case.demand, storage, sharding)
        if other is not None and also is sure:
            found = max(found, _valued(case, item, of, other, examples, sure), key=lambda each: each.score)
    wide = _widened(case, item, found.option, found.relative) if sure else None
    if wide is None:
        return found
    of, option, examples = wide
    seconds, relative = timing(case, option, examples)
    return found._replace(of=of, option=option, examples=examples, seconds=seconds, relative=relative)


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
    cost = Cost(_alone(case, option), relative, of.stored_bytes)
    method, storage = item.prepared.method, option.key[1]
    own = situated(
        item.at(case.at), method, item.evidence, case.at, storage, case.subject.parameters, case.about.quantised
    )
    parts = values(own, cost.demand, relative, of.storage, case.mixed)
    total = score(case.emphasis.weights, parts)
    return Scored(method.slug, item, of, option, examples, sure, seconds, relative, parts, total, cost)


def _alone(case: Case, option: Option) -> float:
    """What one example at a time takes of the usable memory."""
    return (option.line.reserved(1) + case.card.context.usual) / case.card.usable


def usual(case: Case, fitting: Sequence[Scored]) -> Usual:
    """The mean value of each criterion that has a weight, over the methods that fit."""
    columns = zip(*(found.values for found in fitting), strict=True)
    means = (
        sum(column) / len(column) for column, weight in zip(columns, case.emphasis.weights, strict=False) if weight
    )
    return Usual(len(fitting), tuple(means))


def presented(case: Case, found: Scored, place: int, average: Usual) -> Ranked:
    """A ranked method in words; ``average`` is what it is held against."""
    choice = chosen(case.demand, found.option, found.examples)
    item, of, plan = found.item, found.of, choice.plan()
    method, memory, constraints, about = item.prepared.method, choice.memory(), case.constraints, case.about
    held = threshold(choice, of, case.card.usable)
    reasons = situational(
        method, memory, plan, case.subject.parameters, constraints.data, held, about.frame, about.quantised.kin
    )
    pace = times(None if case.card.rates is None else found.seconds, plan, constraints)
    model = case.subject.model
    rate = case.about.rates.start(method, model.kind, case.subject.parameters, constraints.task)
    starts = item.knobs if rate is None else (*item.knobs, rate)
    job = None
    if rate is not None:
        job = Job(
            method,
            model,
            case.model_id,
            plan,
            float(str(rate.value)),
            constraints.epochs or EPOCHS,
            constraints.data,
            roomy=2 * memory.high.device_bytes <= case.card.usable,
            half=case.card.half,
        )
    changes = method_changes(choice, of, case.card.usable)
    wide, why, advised = widest(case, item), None, item.reasons
    if wide is not None:
        other = sheet(item.prepared, case.subject, case.demand.variant) if of is wide else wide
        changes += moved(case, found, other)
        why = placed(plan, None if of is wide else _hindrance(case, found, wide), about.grounds)
    elif case.placing.free and item.everywhere is not None:
        why = placed(plan, UNREAD, about.grounds)
    if why is not None:  # what the record advises on the same finding is said by it
        reasons, advised = [*reasons, why], tuple(each for each in advised if each.source != about.grounds.advised)
    quality = item.evidence.quality(case.at)
    (steady, heard), told = item.notes.robustness, item.notes.quality.source
    good, steady = reworded(expected(quality), steady, method, case.at, plan, case.subject.parameters, about.quantised)
    notes = item.notes._replace(quality=Said(good, told), robustness=Said(steady, heard))
    wider = None
    if of.prepared is item.everywhere:
        wider = Cost(_alone(case, found.option), found.relative, of.stored_bytes)
    criteria, tones = explained(case.emphasis.weights, found.values, notes, found.ranked_by, wider, case.mixed)
    return Ranked(
        slug=method.slug,
        name=method.name,
        rank=place,
        verdict="fits" if found.sure else "tight",
        plan=plan,
        memory=memory,
        headroom_bytes=case.card.usable - memory.device_bytes,
        step_time_relative=round(found.relative, 3),
        tokens_per_second=pace["tokens_per_second"],
        run_seconds=pace["run_seconds"],
        counts=of.counts,
        quality=quality,
        score=round(found.score, 4),
        criteria=criteria,
        reasons=(*weighed(criteria, tones, average.values, average.count), *reasons, *advised),
        changes=changes,
        hyperparameters=starts,
        code=item.code if job is None else code(job, item.code.run, constraints.detail == "brief"),
        links=item.links,
    )


def moved(case: Case, found: Scored, other: Sheet) -> tuple[Change, ...]:
    """What the method needs with other layers adapted: in the same way, or else in the first way that fits."""
    option, examples = likewise(other, found.option.key, case.demand)
    if option is None or not examples:
        option, examples, _ = best(other, case.demand)
    if option is None:
        return ()
    choice = chosen(case.demand, option, examples)
    _, relative = timing(case, option, examples)
    return (replaced(choice, found.option, relative / found.relative, case.card.usable),)


def standing(case: Case, found: Scored, place: int) -> Standing:
    """A method that fits, in a line."""
    (estimate, low, high), carried = (
        found.item.evidence.interval(case.at),
        accumulation(case.demand, found.examples) > 1,
    )
    return Standing(
        slug=found.slug,
        name=found.item.prepared.method.name,
        rank=place,
        verdict="fits" if found.sure else "tight",
        device_bytes=int(found.option.line.reserved(found.examples, carried)) + case.card.context.usual,
        step_time_relative=round(found.relative, 3),
        stored_bytes=found.of.stored_bytes,
        quality=round(estimate, 3),
        quality_low=round(low, 3),
        quality_high=round(high, 3),
        robustness=round(found.values[_ROBUSTNESS], 4),
        score=round(found.score, 4),
    )


def _excluded(case: Case, item: Known, of: Sheet) -> Excluded:
    """Why no plan fits: what the smallest one needs."""
    method, usable = item.prepared.method, case.card.usable
    least = smallest(of, case.demand)
    if least is None:
        asked = case.constraints.quantization
        reason = f"is not known to work with the storage that quantization={asked} asks for"
        if of.form is None:
            reason = f"its memory on models of this kind is not known: {of.unread}"
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
    how = f"in its smallest plan ({least.key[1]}, one example at a time){states_of(of.mark)}"
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


def states_of(mark: Footprint) -> str:
    """What makes the demand so large, in words; empty if nothing special does."""
    if mark.full:
        return ": 8 bytes per parameter with AdamW in bf16 throughout (16 with fp32 copies), and activations"
    return ": gradients of all weights" if mark.scored else ""


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

"""From plans to scores, and from the best scores to words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kb.catalogue import load_models
from kb.situation import Situation, situation
from recommender.advice import method_changes, threshold, widened
from recommender.answer import Excluded, Ranked, Standing
from recommender.catalogue import Catalogue, Known
from recommender.constraints import Constraints
from recommender.criteria import Said, explained, score, values
from recommender.emphasis import CRITERIA, Emphasis, emphasis
from recommender.filters import unmet
from recommender.footprint import Footprint, Subject
from recommender.phrase import quality as expected
from recommender.plans import PLAIN, Demand, Option, Sheet, accumulation, best, chosen, demand, sheet, smallest
from recommender.reading import Card
from recommender.reasons import situational, weighed
from recommender.recipe import EPOCHS, code
from recommender.script import Job
from recommender.situated import reworded, situated
from recommender.speed import Rates, Work, work
from recommender.units import show_bytes


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
    values: tuple[float, ...]
    score: float


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
    return Case(constraints, asked, about, seen, card, rates, reference, weighed, named, at)


def _model_id(constraints: Constraints) -> str:
    return "path/to/model" if constraints.model is None else load_models()[constraints.model].hf_id


def timing(case: Case, effort: Work, examples: int) -> tuple[float, float]:
    """Seconds per optimizer step in micro-batches of ``examples``, and seconds per token against LoRA."""
    passes = accumulation(case.demand, examples)
    seconds = effort.seconds(case.rates, examples, passes)
    return seconds, seconds / (examples * passes * case.demand.asked.seq * case.reference)


Candidate = tuple[Known, Sheet]


def candidates(case: Case) -> tuple[tuple[Candidate, ...], tuple[Excluded, ...]]:
    """The methods that meet the requirements with their sheets, and the others with the reason; remembered per model."""
    asked, about, seen = case.constraints, case.about, case.subject
    variant = case.demand.variant
    wanted = (
        variant,
        asked.task == "diffusion",
        asked.library,
        asked.family,
        asked.merge,
        asked.backprop,
        asked.adapters > 1,
    )
    found = seen.candidates.get((id(about), wanted))
    if found is None:
        barred = {slug: unmet(item.prepared.method, asked, seen.model) for slug, item in about.known.items()}
        meeting = (
            (item, sheet(item.prepared, seen, variant)) for slug, item in about.known.items() if barred[slug] is None
        )
        found = tuple(meeting), tuple(each for each in barred.values() if each is not None), about
        seen.candidates[id(about), wanted] = found  # holds ``about``, so its id stays its own
    return found[0], found[1]


def scored(case: Case, item: Known, of: Sheet) -> Scored | Excluded:
    """The method's best plan with its score, or why none fits."""
    option, examples, sure = best(of, case.demand)
    if option is None:
        return _excluded(case, item, of)
    seconds, relative = timing(case, option.work, examples)
    alone = option.line.reserved(1) + case.card.context.usual
    method, storage = item.prepared.method, option.key[1]
    own = situated(
        item.at(case.at), method, item.evidence, case.at, storage, case.subject.parameters, case.about.quantised
    )
    parts = values(own, alone / case.card.usable, relative, of.storage, case.mixed)
    return Scored(
        method.slug,
        item,
        of,
        option,
        examples,
        sure,
        seconds,
        relative,
        parts,
        score(case.emphasis.weights, parts),
    )


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
    tokens = plan.micro_batch * plan.accumulation * plan.gpus * plan.seq
    model = case.subject.model
    rate = case.about.rates.start(method, model.kind, case.subject.parameters, constraints.task)
    starts = item.knobs if rate is None else (*item.knobs, rate)
    job = None
    if rate is not None:
        job = Job(method, model, case.model_id, plan, float(str(rate.value)), constraints.epochs or EPOCHS)
    changes = method_changes(choice, of, case.card.usable)
    if item.everywhere is not None:
        wide = sheet(item.everywhere, case.subject, case.demand.variant._replace(targets="all_linear"))
        changes += widened(choice, wide, case.card.usable)
    quality = item.evidence.quality(case.at)
    (steady, heard), told = item.notes.robustness, item.notes.quality.source
    good, steady = reworded(expected(quality), steady, method, case.at, plan, case.subject.parameters, about.quantised)
    notes = item.notes._replace(quality=Said(good, told), robustness=Said(steady, heard))
    criteria, tones = explained(case.emphasis.weights, found.values, notes, found.relative, of.stored_bytes, case.mixed)
    return Ranked(
        slug=method.slug,
        name=method.name,
        rank=place,
        verdict="fits" if found.sure else "tight",
        plan=plan,
        memory=memory,
        headroom_bytes=case.card.usable - memory.device_bytes,
        step_time_relative=round(found.relative, 3),
        tokens_per_second=round(tokens / found.seconds, 1) if case.card.rates is not None else None,
        counts=of.counts,
        quality=quality,
        score=round(found.score, 4),
        criteria=criteria,
        reasons=(*weighed(criteria, tones, average.values, average.count), *reasons, *item.reasons),
        changes=changes,
        hyperparameters=starts,
        code=item.code if job is None else code(job, item.code.run),
        links=item.links,
    )


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
        robustness=round(found.values[CRITERIA.index("robustness")], 4),
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

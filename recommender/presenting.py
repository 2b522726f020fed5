"""From the best scores to words."""

from __future__ import annotations

from recommender.advice import method_changes, replaced, threshold
from recommender.answer import Change, Ranked, Standing
from recommender.criteria import Cost, Said, explained
from recommender.emphasis import CRITERIA
from recommender.phrase import quality as expected
from recommender.placement import SPARING, UNREAD, placed
from recommender.plans import Sheet, accumulation, chosen, likewise, sheet
from recommender.reasons import situational, weighed
from recommender.recipe import EPOCHS, code
from recommender.scoring import Case, Scored, Usual, alone, taken, timing, wider, widest
from recommender.script import Job
from recommender.situated import reworded
from recommender.speed import times
from recommender.twin import other_name
from recommender.units import show_bytes

_ROBUSTNESS = CRITERIA.index("robustness")


def presented(case: Case, found: Scored, place: int, average: Usual) -> Ranked:
    """A ranked method in words; ``average`` is what it is held against."""
    choice = chosen(case.demand, found.option, found.examples)
    own, item, of, plan = found.item, found.judged, found.of, choice.plan()
    method, memory, constraints, about = own.prepared.method, choice.memory(), case.constraints, case.about
    judged, held = item.prepared.method, threshold(choice, of, case.card.usable)
    told = about.quantised.told if found.twin is None else {}
    reasons = situational(judged, memory, plan, case.subject.parameters, constraints.data, held, about.frame, told)
    pace = times(None if case.card.rates is None else found.seconds, plan, constraints)
    model = case.subject.model
    rate = case.about.rates.start(method, model.kind, case.subject.parameters, constraints.task)
    starts = own.knobs if rate is None else (*own.knobs, rate)
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
    wide, why, advised = widest(case, own), None, own.reasons
    if wide is not None:
        other = sheet(item.prepared, case.subject, case.demand.variant) if of is wide else wide
        changes += moved(case, found, other)
        why = placed(plan, None if of is wide else _hindrance(case, found, wide), about.grounds)
    elif case.placing.free and own.everywhere is not None:
        why = placed(plan, UNREAD, about.grounds)
    if why is not None:  # what the record advises on the same finding is said by it
        reasons, advised = [*reasons, why], tuple(each for each in advised if each.source != about.grounds.advised)
    quality = item.evidence.quality(case.at)
    (steady, heard), heard_in = item.notes.robustness, item.notes.quality.source
    good, steady = reworded(expected(quality), steady, judged, case.at, plan, case.subject.parameters, about.quantised)
    notes = item.notes._replace(quality=Said(good, heard_in), robustness=Said(steady, heard))
    wider = None
    if of.prepared is item.everywhere:
        wider = Cost(alone(case, found.option), found.relative, of.stored_bytes)
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
        code=own.code if job is None else code(job, own.code.run, constraints.detail == "brief"),
        twin=other_name(case, found),
        links=own.links,
    )


def _hindrance(case: Case, found: Scored, wide: Sheet) -> str | None:
    """What stands against all linear layers in a plan that adapts query and value alone; ``None`` if nothing is known."""
    if case.constraints.objective in SPARING:
        return f"they cost what objective={case.constraints.objective} is to save"
    lacking = None
    for key in wider(case, found.option):
        option, fitting = likewise(wide, key, case.demand)
        if option is None:
            continue
        if fitting:
            return f"they would take {timing(case, option, fitting)[1] / found.relative:.1f} times the time"
        _, high = option.line.device(1, False, case.card.context)
        lacking = f"this plan could then need {show_bytes(high)} with one example at a time"
        if key != found.option.key:
            lacking += " and gradient checkpointing"
    return lacking


def moved(case: Case, found: Scored, other: Sheet) -> tuple[Change, ...]:
    """What the method needs with other layers adapted, as a request for them would be answered."""
    there = taken(case, found.item, other)
    if there is None:
        return ()
    choice = chosen(case.demand, there.option, there.examples)
    return (replaced(choice, found.option, there.relative / found.relative, case.card.usable),)


def standing(case: Case, found: Scored, place: int) -> Standing:
    """A method that fits, in a line."""
    (estimate, low, high), carried = (
        found.judged.evidence.interval(case.at),
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

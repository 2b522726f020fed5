"""What could be different, and what it would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from recommender.answer import Change, Excluded
from recommender.constraints import Constraints
from recommender.memory import room
from recommender.phrase import sentence
from recommender.placement import EVERYWHERE, said
from recommender.plans import Asked, Choice, Option, Sheet, alike, chosen, varied
from recommender.reading import longest_input
from recommender.setting import QUANTIZATION
from recommender.units import show_bytes

CARDS = (8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 141, 180, 256, 512)
"""Sizes of cards that are sold, and of machines with one memory, in GB."""
_BEYOND = 1.06  # what the upper end of a prediction may be beyond its middle
_WORTH = 0.005  # of the memory: a change that saves less is not worth naming


def method_changes(choice: Choice, of: Sheet, usable: int | None) -> tuple[Change, ...]:
    """Single changes of a plan with the device memory that each would give, the most helpful first."""
    plan, (need, largest) = choice.plan(), choice.device()
    asked = choice.asked.asked
    found: list[tuple[str, dict[str, str], Choice | None]] = []

    def other(
        quantization: str,
        checkpointing: str,
        seq: int = asked.seq,
        head_chunks: int = asked.head_chunks,
        optimizer: str = asked.optimizer,
    ) -> Choice | None:
        instead = Asked(quantization, checkpointing, asked.gpus, optimizer, head_chunks, seq)
        way = next((way for way in of.ways(instead) if way[2] == choice.key[3]), None)
        return None if way is None else chosen(choice.asked, of.option(way, instead), choice.examples)

    storing, twice = QUANTIZATION[plan.storage], "on" if plan.checkpointing else "off"
    if not plan.checkpointing:
        found.append(("Gradient checkpointing", {"checkpointing": "on"}, other(storing, "on")))
    for storage, bits in (("int8", "8bit"), ("nf4", "4bit")):
        if plan.storage == "bf16" or (plan.storage == "int8" and storage == "nf4"):
            found.append((f"{bits[0]}-bit storage of the base", {"quantization": bits}, other(bits, twice)))
    if choice.examples > 1:
        fewer = choice._replace(examples=choice.examples // 2)
        found.append((f"A micro-batch of {fewer.examples}", {"batch": str(fewer.examples * plan.gpus)}, fewer))
    fixed = of.about.model.kind == "vision"  # an image has as many tokens as its model says
    if plan.seq >= 128 and not fixed:
        found.append(
            (
                f"Sequences of {plan.seq // 2} tokens",
                {"seq": str(plan.seq // 2)},
                other(storing, twice, seq=plan.seq // 2),
            )
        )
    if asked.head_chunks == 1 and choice.examples * plan.seq >= 256 and of.about.model.vocab:
        found.append(("Logits and loss in 8 pieces", {"head_chunks": "8"}, other(storing, twice, head_chunks=8)))
    if asked.optimizer == "adamw":
        found.append(("8-bit AdamW", {"optimizer": "adamw_8bit"}, other(storing, twice, optimizer="adamw_8bit")))
    cast = under_autocast(choice, of)
    if cast is not None:
        found.append(("Under autocast, as training scripts run", {"autocast": "on"}, cast))
    changes = []
    for name, query, after in found:
        if after is None:
            continue
        peak, high = after.device()
        if peak > (1 - _WORTH) * need or show_bytes(peak) == show_bytes(need):
            continue
        fits = None if usable is None else high <= usable
        verdict = "" if fits is None else ", which fits" if fits else ", which does not fit"
        text = f"{name}: {show_bytes(peak)} instead of {show_bytes(need)}{verdict}."
        changes.append(Change(text=text, query=query, device_bytes=peak, fits=fits))
    changes.sort(key=lambda change: change.device_bytes or 0)
    if usable is not None and largest <= usable and not fixed:
        longest = choice.line.largest_seq(room(usable, sure=True, context=choice.asked.context), choice.examples)
        made_for = longest_input(choice.asked.constraints, of.about.model)
        most, which = f"about {longest} tokens", longest
        if made_for is not None and longest >= made_for:
            most, which = f"the {made_for} tokens that the model was made for", made_for
        if which > plan.seq:
            changes.append(Change(text=f"With this plan sequences up to {most} fit.", query={"seq": str(which)}))
    return tuple(changes)


def under_autocast(choice: Choice, of: Sheet) -> Choice | None:
    """The same plan as training scripts run it, if it is of PEFT's code and was predicted without autocast."""
    plan = choice.plan()
    if plan.implementation == "ours" or plan.autocast:
        return None
    there = alike(varied(of, of.variant._replace(autocast=True)), choice.key, choice.asked)
    return None if there is None else choice._replace(option=there)


def more_under_autocast(choice: Choice, of: Sheet) -> tuple[str, ...]:
    """What scripts take beyond a prediction without autocast, if that is worth a warning."""
    cast = under_autocast(choice, of)
    if cast is None:
        return ()
    need, there = choice.device()[0], cast.device()[0]
    if there <= (1 + _WORTH) * need or show_bytes(there) == show_bytes(need):
        return ()
    return (
        f"Training scripts run under autocast, where this takes {show_bytes(there)} instead of {show_bytes(need)}: autocast=on predicts that.",
    )


def nearest(excluded: list[Excluded]) -> Excluded | None:
    """The method that lacks the least memory, or ``None`` if memory is nowhere the reason."""
    lacking = (item for item in excluded if item.missing_bytes is not None)
    return min(lacking, key=lambda item: item.missing_bytes or 0, default=None)


def replaced(choice: Choice, instead: Option, times: float, usable: int) -> Change:
    """What a plan with other layers adapted needs, in how many ``times`` the time of the plan ``instead`` of it."""
    peak, high = choice.device()
    plan = choice.plan()
    how = [] if plan.storage == instead.key[1] else [f"frozen weights in {plan.storage}"]
    how += ["gradient checkpointing"] if plan.checkpointing and not instead.key[2] else []
    with_them = f" with {' and '.join(how)}" if how else ""
    with_them += " without gradient checkpointing" if instead.key[2] and not plan.checkpointing else ""
    fits = high <= usable
    verdict = "fits" if fits else "does not fit"
    wide = plan.targets == EVERYWHERE
    text = (
        f"{sentence(said(plan.targets)).removesuffix('.')} instead of {said(instead.sites)}{with_them}: {show_bytes(peak)}, "
        f"which {verdict}, in {times:.2f} times the time{'; usually better (survey, finding 5)' if wide else ''}."
    )
    query = {"targets": "all_linear" if wide else "paper"}
    return Change(text=text, query=query, device_bytes=peak, fits=fits)


RELAXED = {"merge": "any", "backprop": "any", "adapters": "1", "quantization": "any"}
"""What a requirement is set to when it is dropped; the others are left away."""


def answer_changes(
    constraints: Constraints, anything: bool, excluded: list[Excluded], usable: int
) -> tuple[Change, ...]:
    """What would change the answer as a whole: above all when nothing fits."""
    changes = []
    closest = nearest(excluded)
    if closest is not None and not anything:
        changes += larger(constraints, closest, usable, excluded)
        if constraints.quantization in ("none", "8bit"):
            text = "4-bit storage of the frozen weights takes about a quarter of bf16."
            changes.append(Change(text=text, query={"quantization": "4bit"}))
        if constraints.checkpointing == "off":
            text = "Gradient checkpointing would keep one hidden state per block."
            changes.append(Change(text=text, query={"checkpointing": "any"}))
    elif closest is not None:
        text = f"{closest.name} is the nearest that does not fit: it lacks {show_bytes(closest.missing_bytes or 0)}."
        changes.append(Change(text=text, query={}))
    for name, count in Counter(item.constraint for item in excluded if item.constraint is not None).items():
        said = f"{name}={getattr(constraints, name)}"
        many = "1 more method" if count == 1 else f"{count} more methods"
        text = f"Without {said}, {many} would be considered."
        changes.append(Change(text=text, query={name: RELAXED.get(name, "")}))
    return tuple(changes)


def larger(constraints: Constraints, barred: Excluded, usable: int, excluded: Sequence[Excluded] = ()) -> list[Change]:
    """The card, or the number of cards, that would hold the smallest plan of a method; and of how many ``excluded``."""
    need, changes = barred.needed_bytes or 0, []
    size = next((size for size in CARDS if size * 1e9 > need * _BEYOND), None)
    if size is not None:
        text = f"One card of {size} GB would run {barred.name}, which needs {show_bytes(need)}."
        others = {each.slug for each in excluded if each.needed_bytes and size * 1e9 > each.needed_bytes * _BEYOND}
        if more := others - {barred.slug}:
            among = ", LoRA among them" if "lora" in more else ""
            text = f"{text.removesuffix('.')}, and {len(more)} more{among}."
        changes.append(Change(text=text, query={"gpu_mem": f"{size}GB"}))
    cards = next((count for count in (2, 4, 8, 16, 32, 64) if need / count * 1.3 < usable), None)
    if constraints.gpus == 1 and cards is not None:
        text = f"{cards} cards of this size, with weights and states sharded, would run {barred.name}."
        changes.append(Change(text=text, query={"gpus": str(cards)}))
    return changes


def threshold(choice: Choice, of: Sheet, usable: int) -> str:
    """Down to which card a plan holds, and what the plan before it lacks: where a small change makes another answer."""
    _, high = choice.device()
    text = f"With this plan a card that offers {show_bytes(high)} is enough."
    if high > usable:
        text = f"The upper end of the prediction, {show_bytes(high)}, does not fit."
    first = next(iter(of.options(choice.asked.asked)))
    if first.key != choice.key:
        _, faster = chosen(choice.asked, first, 1).device()
        how = f"{first.key[1]}, {'with' if first.key[2] else 'without'} checkpointing"
        text += f" The plan before it in order ({how}) would need {show_bytes(faster)} with one example at a time."
    return text

"""Situations with the reasoning of an expert beside each: what the answer must and must not contain."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from recommender import Answer, Constraints, recommend
from recommender.answer import Ranked

SITUATIONS: dict[str, dict[str, Any]] = {
    each["id"]: each for each in yaml.safe_load(Path(__file__).with_name("situations.yaml").read_text(encoding="utf-8"))
}
CHECKS = (
    "top",
    "outside",
    "above",
    "excluded",
    "ranked",
    "plan",
    "verdict",
    "effects",
    "says",
    "nothing",
    "memory",
    "rate",
)


@cache
def answered(name: str) -> Answer:
    return recommend(Constraints.model_validate({**SITUATIONS[name]["ask"], "limit": 500}))


def ranks(answer: Answer) -> dict[str, Ranked]:
    return {each.slug: each for each in answer.ranked}


def spoken(answer: Answer) -> str:
    """What a reader is told beside the ranking: of the first three, since no evidence knows the very best."""
    changes = [change for each in answer.ranked[:3] for change in each.changes]
    reasons = [reason.text for each in answer.ranked[:3] for reason in each.reasons]
    reasons += [each.twin.text for each in answer.ranked[:3] if each.twin is not None]
    told = [change.text for change in (*answer.advice, *changes)]
    return "\n".join((answer.summary, *told, *reasons, *answer.warnings, *(each.text for each in answer.effects)))


def test_there_are_forty_with_a_reasoning_and_something_to_check() -> None:
    assert len(SITUATIONS) >= 40
    for situation in SITUATIONS.values():
        assert len(situation["expert"].split()) >= 12
        assert situation.keys() - {"id", "ask", "expert"} <= set(CHECKS)
        assert situation.keys() & set(CHECKS)


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_answer_is_what_an_expert_would_say(name: str) -> None:
    asked, answer = SITUATIONS[name], answered(name)
    found, excluded = ranks(answer), {each.slug: each for each in answer.excluded}
    wrong = []
    if asked.get("nothing", False) is not (not found):
        wrong.append(f"{len(found)} methods fit")
    for slug, most in asked.get("top", {}).items():
        if slug not in found or found[slug].rank > most:
            wrong.append(f"{slug} is {found[slug].rank if slug in found else 'left out'}, not among the first {most}")
    for slug, least in asked.get("outside", {}).items():
        if slug in found and found[slug].rank <= least:
            wrong.append(f"{slug} is {found[slug].rank}, among the first {least}")
    for first, second in asked.get("above", ()):
        if first not in found or (second in found and found[first].rank > found[second].rank):
            wrong.append(f"{first} does not stand above {second}")
    for slug, words in asked.get("excluded", {}).items():
        if slug not in excluded or words not in excluded[slug].reason:
            wrong.append(f"{slug}: {excluded[slug].reason if slug in excluded else 'ranked'}, not {words!r}")
    wrong += [f"{slug} is left out" for slug in asked.get("ranked", ()) if slug not in found]
    for slug, properties in asked.get("plan", {}).items():
        plan = found[slug].plan.model_dump() if slug in found else {}
        wrong += [
            f"{slug}: {key} {plan.get(key)}"
            for key, value in properties.items()
            if (list(got) if isinstance(got := plan.get(key), tuple) else got) != value
        ]
    for slug, verdict in asked.get("verdict", {}).items():
        if slug not in found or found[slug].verdict != verdict:
            wrong.append(f"{slug} is not {verdict}")
    for slug, (low, high) in asked.get("memory", {}).items():
        if slug not in found or not low <= found[slug].memory.device_bytes / 2**30 <= high:
            wrong.append(f"{slug} does not need {low} to {high} GiB")
    for slug, (low, high) in asked.get("rate", {}).items():
        rates = [start.value for start in found[slug].hyperparameters if start.name == "learning_rate"]
        if not rates or not low <= float(str(rates[0])) <= high:
            wrong.append(f"{slug} starts at {rates}")
    explained = {each.constraint for each in answer.effects}
    wrong += [f"{each} is not explained" for each in asked.get("effects", ()) if each not in explained]
    wrong += [f"nothing says {words!r}" for words in asked.get("says", ()) if words not in spoken(answer)]
    leading = ", ".join(each.slug for each in answer.ranked[:8])
    assert not wrong, f"{asked['expert']}\nbut: {'; '.join(wrong)}\nleading: {leading}"

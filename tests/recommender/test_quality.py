"""Expected quality: every method and situation has an interval, little evidence is said, a new method has its class's."""

from __future__ import annotations

import itertools

import pytest

from kb.records import load_methods
from kb.situation import ANY, ANYWHERE, DATA, SCALES, Situation, situation
from kb.studies import load_studies
from recommender.quality import LITTLE, evidence, quality, robustness, studies_of

METHODS = load_methods()
EVIDENCE = evidence(METHODS, load_studies())


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, Situation(ANY, ANY, ANY)),
        ({"task": "reasoning", "examples": 999, "parameters": 10**9 - 1}, Situation("reasoning", "few", "small")),
        ({"examples": 1_000, "parameters": 10**9}, Situation(ANY, "small", "medium")),
        ({"examples": 10_000, "parameters": 70 * 10**9}, Situation(ANY, "large", "large")),
    ],
)
def test_situation_is_read_from_task_data_and_size(asked: dict[str, object], expected: Situation) -> None:
    assert situation(**asked) == expected


@pytest.mark.parametrize("slug", sorted(METHODS))
def test_every_method_has_an_interval_in_every_situation(slug: str) -> None:
    tasks = (ANY, "understanding", "generation", "reasoning", "vision", "diffusion", "speech")
    data, scales = (ANY, *dict(DATA)), (ANY, *dict(SCALES))
    for at in itertools.starmap(Situation, itertools.product(tasks, data, scales)):
        estimate, low, high = EVIDENCE[slug].interval(at)
        assert low < estimate < high
    steady = robustness(slug)
    assert steady.low < steady.estimate < steady.high


@pytest.mark.parametrize("slug", sorted(METHODS))
def test_little_independent_evidence_is_said_and_counted(slug: str) -> None:
    told = quality(slug)
    effects = studies_of(slug)
    assert told.independent == sum(each.independent for each in effects)
    assert told.independent + told.rivals + told.self_reported == len(effects)
    assert ("little independent evidence" in told.basis) == (len(effects) > 0 and told.independent < LITTLE)
    if not effects:
        assert told.basis.startswith("no study")


def test_situation_is_named_and_unknown_task_groups_count_as_any() -> None:
    told = quality("lora", Situation("reasoning", "few", "large"))
    assert told.situation == "reasoning tasks, fewer than 1,000 examples, models of 10B parameters or more"
    assert quality("lora").situation == "all situations"
    assert EVIDENCE["lora"].interval(Situation(task="other")) == EVIDENCE["lora"].interval(ANYWHERE)


def test_method_that_the_synthesis_has_not_seen_has_what_its_class_lets_expect() -> None:
    new = METHODS["lora"].model_copy(update={"slug": "brand_new"})
    found = evidence({**METHODS, "brand_new": new}, load_studies())["brand_new"]
    _, low, high = found.interval()
    own = EVIDENCE["lora"].interval()
    assert high - low > own[2] - own[1]
    assert found.quality().independent == 0
    assert found.robustness().studies == 0

"""Every sentence of a recommendation leads to a number, and every number to its source."""

from __future__ import annotations

import re
from functools import cache

import pytest

from kb.records import load_findings, load_methods, load_readings
from kb.studies import load_studies
from recommender import Answer, Constraints, recommend
from recommender.answer import Citation, Ranked

ASKED: dict[str, dict[str, object]] = {
    "decoder": {"params": "7B", "gpu_mem": "24GB", "budget": "none", "epochs": 2, "data": 500, "forgetting": "matters"},
    "encoder_decoder": {"model": "t5-3b", "gpu_mem": "24GB", "task": "understanding", "latency": "matters"},
    "encoder": {"model": "roberta-large", "gpu_mem": "12GB", "merge": "required"},
    "tenants": {"model": "llama-3.1-8b", "gpu_mem": "80GB", "adapters": 200, "gpus": 2},
}
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?")
OWN = "peft-atlas"


@cache
def answered(name: str) -> Answer:
    return recommend(Constraints.model_validate({**ASKED[name], "limit": 500}))


def resolves(source: Citation) -> bool:
    """Whether a reader can look the source up: a record, a paper, a study, or what we computed and where."""
    known = {*load_methods(), *load_readings(), *load_studies(), OWN}
    return source.ref in known and bool(source.title) and bool(source.where)


@pytest.mark.parametrize("name", ASKED)
def test_every_statement_has_a_source_that_can_be_looked_up(name: str) -> None:
    answer = answered(name)
    cited = [reason.source for each in answer.ranked for reason in each.reasons]
    cited += [part.source for each in answer.ranked for part in each.criteria]
    cited += [effect.source for effect in answer.effects]
    cited += [start.source for each in answer.ranked for start in each.hyperparameters if start.source is not None]
    assert cited
    assert [source for source in cited if not resolves(source)] == []


@pytest.mark.parametrize("name", ASKED)
def test_every_start_says_where_its_value_comes_from(name: str) -> None:
    for each in answered(name).ranked:
        assert all(start.source is not None for start in each.hyperparameters), each.slug


@pytest.mark.parametrize("name", ASKED)
def test_three_strongest_reasons_come_first_by_weight(name: str) -> None:
    for each in answered(name).ranked:
        first = each.reasons[:3]
        assert all(reason.criterion is not None for reason in first)
        assert [abs(r.weight) for r in first] == sorted((abs(r.weight) for r in first), reverse=True)


def supported(each: Ranked) -> set[str]:
    """Every number that the answer holds for a method beside its sentences, as sentences write them."""
    parts = {part.name: part for part in each.criteria}
    return {number for part in parts.values() for number in _NUMBER.findall(part.note)}


@pytest.mark.parametrize("name", ASKED)
def test_numbers_of_a_weighed_reason_are_those_of_its_criterion(name: str) -> None:
    answer = answered(name)
    for each in answer.ranked:
        known = supported(each)
        for reason in each.reasons:
            if reason.criterion is None:
                continue
            part = next(part for part in each.criteria if part.name == reason.criterion)
            assert reason.text.startswith(f"{reason.criterion.capitalize()}: {part.note}")
            rest = reason.text.removeprefix(f"{reason.criterion.capitalize()}: {part.note}")
            points, hundred, fitting = _NUMBER.findall(rest)
            assert float(points) == pytest.approx(100 * reason.weight, abs=0.06)
            assert (hundred, int(fitting)) == ("100", answer.total_ranked)
            assert set(_NUMBER.findall(part.note)) <= known


@pytest.mark.parametrize("name", ASKED)
def test_quality_in_words_is_the_estimate(name: str) -> None:
    for each in answered(name).ranked:
        note = next(part.note for part in each.criteria if part.name == "quality")
        assert f"{each.quality.low:+.2f}" in note
        assert f"{each.quality.estimate:+.2f}" in note


@pytest.mark.parametrize("name", ASKED)
def test_what_the_survey_is_cited_for_is_one_of_its_findings(name: str) -> None:
    numbers = set()
    for each in answered(name).ranked:
        for reason in each.reasons:
            if reason.source.where.startswith("finding"):
                numbers.add(int(reason.source.where.removeprefix("finding ").partition(":")[0]))
    assert numbers
    assert numbers <= load_findings().keys()

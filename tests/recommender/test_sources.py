"""Every sentence of a recommendation leads to a number, and every number to its source."""

from __future__ import annotations

import re
from functools import cache

import pytest

from kb.records import load_findings, load_methods, load_readings
from kb.studies import load_studies
from recommender import Answer, Constraints, recommend
from recommender.answer import Citation
from recommender.phrase import sentence
from recommender.units import signed

ASKED: dict[str, dict[str, object]] = {
    "decoder": {"params": "7B", "gpu_mem": "24GB", "budget": "none", "epochs": 2, "data": 500, "forgetting": "matters"},
    "encoder_decoder": {"model": "t5-3b", "gpu_mem": "24GB", "task": "understanding", "latency": "matters"},
    "encoder": {"model": "roberta-large", "gpu_mem": "12GB", "merge": "required"},
    "tenants": {"model": "llama-3.1-8b", "gpu_mem": "80GB", "adapters": 200, "gpus": 2},
}
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


@pytest.mark.parametrize("name", ASKED)
def test_a_weighed_reason_is_the_note_of_its_criterion_held_against_the_others(name: str) -> None:
    answer = answered(name)
    for each in answer.ranked:
        parts = {part.name: part for part in each.criteria}
        for reason in each.reasons:
            if reason.criterion is None:
                continue
            said = sentence(parts[reason.criterion].note).removesuffix(".")
            assert reason.text.startswith(said)
            beside = reason.text.removeprefix(said).removesuffix(".")
            word = "still better" if reason.kind == "for" else "yet worse"
            assert beside in ("", f"; {word} than the average of the {answer.total_ranked} that fit")


@pytest.mark.parametrize("name", ASKED)
def test_a_reason_takes_one_reading(name: str) -> None:
    for each in answered(name).ranked:
        for reason in each.reasons:
            if reason.criterion is not None:
                assert len(reason.text.split()) <= 50, reason.text
                assert not re.search(r"standard deviation|[ (]-\d", reason.text), reason.text


@pytest.mark.parametrize("name", ASKED)
def test_quality_in_words_is_the_estimate_and_its_counts(name: str) -> None:
    for each in answered(name).ranked:
        part, tally = next(part for part in each.criteria if part.name == "quality"), each.quality.tally
        for value in (each.quality.estimate, each.quality.low, each.quality.high):
            assert signed(value) in part.detail
        if tally is None:
            assert "no study compares it" in part.note
        elif tally.comparisons > 1:
            assert f"ahead of it in {tally.ahead or 'none'} of {tally.comparisons} " in part.note
        if each.quality.low > 0:
            assert part.note.startswith("likely to beat")
        if each.quality.high < 0:
            assert part.note.startswith("likely to stay behind")


@pytest.mark.parametrize("name", ASKED)
def test_counts_are_of_the_most_trustworthy_comparisons_there_are(name: str) -> None:
    for each in answered(name).ranked:
        quality, tally = each.quality, each.quality.tally
        there = {"independent": quality.independent, "rival": quality.rivals, "own": quality.self_reported}
        if tally is None:
            assert not any(there.values())
            continue
        assert tally.relation == next(relation for relation, count in there.items() if count)
        assert 0 <= tally.ahead <= tally.comparisons
        assert 0 <= tally.level_with_full <= tally.against_full <= tally.comparisons
        assert 1 <= tally.studies <= there[tally.relation]


@pytest.mark.parametrize("name", ASKED)
def test_what_the_survey_is_cited_for_is_one_of_its_findings(name: str) -> None:
    numbers = set()
    for each in answered(name).ranked:
        for reason in each.reasons:
            if reason.source.where.startswith("finding"):
                numbers.add(int(reason.source.where.removeprefix("finding ").partition(":")[0]))
    assert numbers
    assert numbers <= load_findings().keys()

"""What constraints do to the ranking, and why a method is not the answer."""

from __future__ import annotations

import pytest

from recommender import Answer, ConstraintError, Constraints, recommend
from recommender.answer import WhyNot
from recommender.emphasis import CRITERIA, WEIGHTS

BASE: dict[str, object] = {"gpu_mem": "24GB", "params": "7B", "limit": 500}


def ask(**constraints: object) -> Answer:
    return recommend(Constraints.model_validate({**BASE, **constraints}))


def weights(answer: Answer) -> dict[str, float]:
    return {part.name: part.weight for part in answer.ranked[0].criteria}


def why(slug: str, **constraints: object) -> WhyNot:
    found = ask(why=slug, **constraints).why
    assert found is not None
    return found


@pytest.fixture(scope="module")
def plain() -> Answer:
    return ask()


@pytest.mark.parametrize("preset", WEIGHTS.values(), ids=WEIGHTS)
def test_presets_weigh_every_criterion_and_add_up_to_one(preset: tuple[float, ...]) -> None:
    assert len(preset) == len(CRITERIA)
    assert sum(preset) == pytest.approx(1)


@pytest.mark.parametrize(
    ("constraint", "criterion", "grows"),
    [
        ({"budget": "none"}, "robustness", True),
        ({"budget": "large"}, "robustness", False),
        ({"epochs": 2}, "robustness", True),
        ({"data": 200}, "robustness", True),
        ({"adapters": 200}, "storage", True),
        ({"latency": "matters"}, "inference", True),
    ],
)
def test_a_constraint_moves_one_weight_and_says_why(
    plain: Answer, constraint: dict[str, object], criterion: str, grows: bool
) -> None:
    answer = ask(**constraint)
    assert (weights(answer)[criterion] > weights(plain)[criterion]) is grows
    ((name, value),) = constraint.items()
    effect = next(each for each in answer.effects if each.criterion == criterion)
    assert effect.constraint == f"{name}={value}"
    assert effect.text.startswith(f"Because {name}={value}, {criterion} weighs")
    assert effect.source.where.startswith("finding")


def test_nothing_is_moved_without_a_constraint(plain: Answer) -> None:
    assert plain.effects == ()
    assert weights(plain) == pytest.approx(
        {"quality": 0.35, "memory": 0.15, "speed": 0.15, "storage": 0.05, "inference": 0.1, "robustness": 0.2}
    )


def test_forgetting_counts_only_where_it_matters_and_rests_on_measured_runs(plain: Answer) -> None:
    answer = ask(forgetting="matters")
    assert "retention" not in weights(plain)
    assert weights(answer)["retention"] == pytest.approx(0.2)
    kept = {each.slug: next(c for c in each.criteria if c.name == "retention") for each in answer.ranked}
    assert kept["lora"].value > kept["prefix_tuning"].value
    assert all(each.source.ref == "peft_metamathqa" for each in kept.values())
    assert "not measured" in kept["houlsby_adapter"].note


def test_a_requirement_counts_whom_it_leaves_out() -> None:
    answer = ask(merge="required")
    effect = next(each for each in answer.effects if each.constraint == "merge=required")
    left_out = [each for each in answer.excluded if each.constraint == "merge"]
    assert f"{len(left_out)} methods" in effect.text


def test_reasons_are_ordered_by_weight_and_add_up_to_the_distance_from_the_average() -> None:
    answer = ask()
    mean = sum(each.score for each in answer.ranked) / len(answer.ranked)
    for each in answer.ranked:
        weighed = [reason for reason in each.reasons if reason.criterion is not None]
        assert len(weighed) >= 3
        assert [abs(reason.weight) for reason in weighed] == sorted((abs(r.weight) for r in weighed), reverse=True)
        assert sum(reason.weight for reason in weighed) == pytest.approx(each.score - mean, abs=0.02)


class TestWhyNot:
    def test_the_leader_is_the_answer(self, plain: Answer) -> None:
        found = why(plain.ranked[0].slug)
        assert (found.outcome, found.rank, found.losses, found.admits) == ("leads", 1, (), ())

    def test_a_ranked_method_names_where_it_loses_and_the_parts_add_up(self, plain: Answer) -> None:
        last = plain.ranked[-1]
        found = why(last.slug)
        assert (found.outcome, found.rank) == ("ranked", len(plain.ranked))
        assert found.behind == pytest.approx(plain.ranked[0].score - last.score, abs=1e-3)
        assert sum(each.points for each in (*found.losses, *found.gains)) == pytest.approx(found.behind, abs=5e-3)
        assert found.losses[0].criterion in found.text
        assert all(each.source.title for each in (*found.losses, *found.gains))

    def test_what_is_said_to_put_it_first_does(self) -> None:
        admitted = 0
        for slug in ("ia3", "vera", "ln_tuning", "qlora", "lora_fa", "fourierft"):
            for change in why(slug).admits:
                assert ask(**change.query).ranked[0].slug == slug
                admitted += 1
        assert admitted

    def test_a_requirement_that_leaves_it_out_is_named_and_can_be_dropped(self) -> None:
        found = why("houlsby_adapter", merge="required")
        assert found.outcome == "excluded"
        assert found.admits[0].query == {"merge": "any"}
        assert "houlsby_adapter" in {each.slug for each in ask(**found.admits[0].query).ranked}

    def test_a_card_that_would_hold_it_is_named(self) -> None:
        found = why("full_fine_tuning")
        (size,) = (change.query["gpu_mem"] for change in found.admits if "gpu_mem" in change.query)
        assert "full_fine_tuning" in {each.slug for each in ask(gpu_mem=size).ranked}

    def test_a_method_that_does_not_apply_says_so(self) -> None:
        found = why("bitfit")
        assert "biases" in found.text
        assert found.admits == ()

    def test_an_unknown_method_is_refused_with_near_ones(self) -> None:
        with pytest.raises(ConstraintError, match="lora") as error:
            why("lorra")
        assert error.value.field == "why"

"""Which layers a plan adapts: all linear ones where they fit with the base held alike, and as asked for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kb.records import load_methods
from recommender import Answer, ConstraintError, Constraints, estimate, recommend
from recommender.answer import Ranked
from recommender.placement import EVERYWHERE, SLOWER, narrow, said, selectable

NARROW = sorted(slug for slug, method in load_methods().items() if narrow(method))
PAPER = ("attention.query", "attention.value")
ROOMY: dict[str, object] = {"gpu_mem": "80GB", "params": "7B"}


def ask(**constraints: object) -> Answer:
    return recommend(Constraints.model_validate({"limit": 500, **constraints}))


def found(answer: Answer, slug: str) -> Ranked:
    return next(each for each in answer.ranked if each.slug == slug)


@pytest.fixture(scope="module")
def roomy() -> Answer:
    return ask(**ROOMY)


def test_lora_adapts_all_linear_layers_where_they_fit_and_says_why(roomy: Answer) -> None:
    lora = found(roomy, "lora")
    assert lora.plan.targets == EVERYWHERE
    assert "all linear layers adapted" in roomy.summary
    (reason,) = (each for each in lora.reasons if each.text.startswith("Adapts all linear layers"))
    assert (reason.source.ref, reason.source.where) == ("qlora", "section 4, figure 2")


def test_all_linear_layers_are_taken_where_recomputing_makes_room_for_them() -> None:
    lora = found(ask(gpu_mem="24GB", params="7B", seq=2048), "lora")
    assert (lora.plan.targets, lora.plan.storage, lora.plan.checkpointing) == (EVERYWHERE, "bf16", True)
    paper = found(ask(gpu_mem="24GB", params="7B", seq=2048, targets="paper", checkpointing="on"), "lora")
    assert lora.score == paper.score  # like for like: the paper's layers, run in the same way


def test_the_papers_layers_are_kept_where_all_would_need_a_coarser_base_and_the_answer_says_what() -> None:
    lora = found(ask(gpu_mem="10GB", params="3B"), "lora")
    assert (lora.plan.targets, lora.plan.storage) == (PAPER, "bf16")
    assert any(each.text.startswith("Adapts query and value alone") for each in lora.reasons)
    (change,) = (each for each in lora.changes if "targets" in each.query)
    assert "with frozen weights in nf4" in change.text


@pytest.mark.parametrize("gpu_mem", ["16GB", "24GB", "80GB"])
def test_the_change_of_layers_leads_to_what_it_says(gpu_mem: str) -> None:
    lora = found(ask(gpu_mem=gpu_mem, params="7B"), "lora")
    (change,) = (each for each in lora.changes if "targets" in each.query)
    there = found(ask(gpu_mem=gpu_mem, params="7B", **change.query), "lora")
    assert there.memory.device_bytes == change.device_bytes
    assert there.plan.targets != lora.plan.targets


@settings(max_examples=8, deadline=None)
@given(
    gpu_mem=st.sampled_from(["12GB", "24GB", "48GB", "80GB"]),
    params=st.sampled_from(["1B", "7B", "13B"]),
    seq=st.sampled_from([256, 1024, 4096]),
    objective=st.sampled_from(["balanced", "quality", "speed"]),
)
def test_a_plan_needs_what_the_estimate_says_for_its_layers(
    gpu_mem: str, params: str, seq: int, objective: str
) -> None:
    asked = {"gpu_mem": gpu_mem, "params": params, "seq": seq}
    quantization = {"bf16": "none", "int8": "8bit", "nf4": "4bit"}
    for each in ask(**asked, objective=objective).ranked:
        if each.slug not in (*NARROW, "qlora", "dora"):
            continue
        plan = each.plan
        alike = {
            "targets": ",".join(plan.targets),
            "quantization": quantization[plan.storage],
            "checkpointing": plan.checkpointing,
            "autocast": True,
        }
        lender = each.slug if each.twin is None else "lora"  # QLoRA has LoRA's plan where they are one run
        told = estimate(lender, Constraints.model_validate({**asked, **alike}))
        assert told.plan == plan
        assert (told.peak, told.counts) == (each.memory, each.counts)
        assert told.step_time_relative == each.step_time_relative


@pytest.mark.parametrize("slug", NARROW)
@pytest.mark.parametrize("checkpointing", ["on", "off"])
def test_fewer_layers_never_need_more(slug: str, checkpointing: str) -> None:
    few, many = (
        estimate(
            slug,
            Constraints(params="7B", batch=2, quantization="none", checkpointing=checkpointing, targets=targets),
        )
        for targets in ("paper", "all_linear")
    )
    assert few.peak.device_bytes <= many.peak.device_bytes
    assert few.step_time_relative <= many.step_time_relative
    assert few.counts.trainable is not None
    assert many.counts.trainable is not None
    assert few.counts.trainable < many.counts.trainable


def test_all_layers_are_taken_only_with_the_base_held_alike_and_for_a_bounded_time(roomy: Answer) -> None:
    plain = ask(**ROOMY, targets="paper")
    wide = [each for each in roomy.ranked if each.slug in NARROW and each.plan.targets == EVERYWHERE]
    assert wide
    for each in wide:
        own = found(plain, each.slug)
        same = ("implementation", "storage", "sharding")
        assert each.plan.checkpointing >= own.plan.checkpointing
        assert all(getattr(each.plan, name) == getattr(own.plan, name) for name in same)
        assert each.step_time_relative <= SLOWER * own.step_time_relative + 0.01


def test_methods_are_ranked_by_the_layers_of_their_papers(roomy: Answer) -> None:
    plain = ask(**ROOMY, targets="paper")
    assert [(each.slug, each.score) for each in roomy.ranked] == [(each.slug, each.score) for each in plain.ranked]
    speed = next(part for part in found(roomy, "lora").criteria if part.name == "speed")
    assert "on query and value alone" in speed.note
    assert f"{found(roomy, 'lora').step_time_relative:.2f} times its time on all linear layers" in speed.note


@pytest.mark.parametrize("objective", ["memory", "speed", "storage"])
def test_an_objective_that_saves_keeps_the_papers_layers(objective: str) -> None:
    answer = ask(**ROOMY, objective=objective)
    assert {found(answer, slug).plan.targets for slug in NARROW if slug != "loretta_rep"} == {PAPER}
    assert any(f"objective={objective}" in each.text for each in found(answer, "lora").reasons)


@pytest.mark.parametrize(("targets", "sites"), [("all_linear", EVERYWHERE), ("q_proj,v_proj", PAPER), ("paper", PAPER)])
def test_layers_that_are_asked_for_are_adapted_where_they_can_be_chosen(targets: str, sites: tuple[str, ...]) -> None:
    answer = ask(**ROOMY, targets=targets)
    assert found(answer, "lora").plan.targets == sites
    for each in answer.ranked:
        method = load_methods()[each.slug]
        if targets == "paper" or not selectable(method):
            assert each.plan.targets == method.mechanism.where
        else:
            assert each.plan.targets in (sites, method.mechanism.where)


def test_a_method_that_was_not_run_on_the_layers_is_left_out_with_that_reason() -> None:
    answer = ask(**ROOMY, targets="k_proj")
    lora = next(each for each in answer.excluded if each.slug == "lora")
    assert lora.code == "unknown"
    assert "attention.key" in lora.reason
    assert any(each.slug == "prefix_tuning" for each in answer.ranked)


def test_a_layer_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConstraintError, match="all_linear") as error:
        ask(**ROOMY, targets="all_liner")
    assert error.value.field == "targets"


def test_every_recipe_says_the_layers_of_the_plan(roomy: Answer) -> None:
    code = found(roomy, "lora").code
    assert code.run == "peft-atlas run lora --targets all_linear"
    assert 'target_modules="all-linear"' in (code.peft or "")
    assert 'target_modules="all-linear"' in (code.script or "")
    assert "lora_target: all\n" in (code.llama_factory or "")
    assert "lora_target_linear: true\n" in (code.axolotl or "")
    plain = found(ask(**ROOMY, targets="paper"), "lora").code
    assert plain.run == "peft-atlas run lora"
    assert '["q_proj", "v_proj"]' in (plain.peft or "")
    assert 'lora_target: "q_proj,v_proj"' in (plain.llama_factory or "")


def test_layers_in_words() -> None:
    assert said(EVERYWHERE) == "all linear layers"
    assert said(PAPER) == "query and value"
    assert said(("attention.key", "attention.value", "mlp.down")) == "key, value and down"
    assert said(("mlp.block",)) == ""

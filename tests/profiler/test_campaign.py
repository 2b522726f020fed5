"""Measuring on a device: the plan and its order, going on where it stopped, and one small measurement on the processor."""

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kb.measurement import Setting, Step, read
from profiler import campaign, measure, proof
from profiler.campaign import Case, cases, file_for, remaining, work
from profiler.measure import Measured, config_of, machine, now

CPU = torch.device("cpu")
WHERE = machine(CPU)
SMALL = Setting(model="llama-3.2-1b", small=True, batch=2, seq=16)


def test_ours_and_pefts_take_turns_and_a_shape_is_done_before_the_next() -> None:
    planned = list(cases(["lora", "houlsby_adapter"]))
    shapes = [setting for setting, _ in itertools.groupby(case.setting for case in planned)]
    assert len(shapes) == len(set(shapes))
    first = [(case.slug, case.implementation) for case in planned if case.setting == shapes[0]]
    assert first == [("houlsby_adapter", "ours")] * 2 + [("lora", "ours"), ("lora", "peft")] * 2


def test_every_method_that_random_weights_can_carry_is_planned() -> None:
    planned = {case.slug for case in cases()}
    assert {"smile", "warp"} == set(campaign.reference_impls.slugs()) - planned  # fine-tuned models, a masked head


@pytest.mark.parametrize(
    ("slug", "model", "storage", "planned"),
    [
        ("bitfit", "llama-3.2-1b", "bf16", False),
        ("bitfit", "roberta-large", "bf16", True),
        ("cross_attention_tuning", "t5-large", "bf16", True),
        ("cross_attention_tuning", "llama-3.2-1b", "bf16", False),
        ("lora", "llama-3.2-3b", "nf4", True),
        ("full_fine_tuning", "llama-3.2-3b", "nf4", False),
        ("qlora", "llama-3.2-3b", "nf4", False),
        ("qlora", "llama-3.2-3b", "bf16", True),
    ],
)
def test_method_is_planned_where_its_record_allows(slug: str, model: str, storage: str, planned: bool) -> None:
    setting = Setting(model=model, batch=1, seq=16, storage=storage)
    assert campaign.suits(campaign.load_methods()[slug], setting) is planned


def test_quantised_base_that_needs_bitsandbytes_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def planned() -> set[tuple[str, str]]:
        return {(case.setting.storage, case.implementation) for case in cases(["lora"])}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert planned() == {("bf16", "ours"), ("bf16", "peft"), ("nf4", "ours"), ("int8", "ours")}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(campaign.util, "find_spec", lambda name: name)
    assert planned() == {(storage, whose) for storage in ("bf16", "nf4", "int8") for whose in ("ours", "peft")}


@pytest.mark.parametrize("model", ["llama-3.2-1b", "llama-2-7b", "t5-large", "roberta-large"])
def test_model_cut_small_keeps_its_family(model: str) -> None:
    whole, small = (config_of(Setting(model=model, small=cut, batch=1, seq=8)) for cut in (False, True))
    assert small["model_type"] == whole["model_type"]
    assert (
        whole.keys() <= small.keys() <= whole.keys() | {"head_dim", "pad_token_id"}
    )  # stated, as defaults are too large
    assert small["vocab_size"] < 100


@pytest.mark.parametrize("implementation", ["ours", "peft"])
def test_measurement_on_the_processor_has_time_and_no_memory(implementation: Any) -> None:
    found = measure.measure("lora", SMALL, implementation, CPU, timed=2)
    assert (found.outcome, found.message) == ("measured", None)
    assert found.trainable == 7168  # 8 (64 + 64) + 8 (64 + 32) in each of two blocks, times two
    assert len(found.seconds) == 2
    assert found.allocated_bytes is found.reserved_bytes is found.device_bytes is None


@pytest.mark.parametrize("model", ["t5-large", "roberta-large"])
def test_pefts_prompts_are_told_the_kind_of_model(model: str) -> None:
    setting = SMALL.model_copy(update={"model": model})
    found = measure.measure("prompt_tuning", setting, "peft", CPU, timed=1)
    assert (found.outcome, found.message) == ("measured", None)


@pytest.mark.parametrize("slug", ["fishmask", "adapterfusion"])
def test_method_that_looks_at_data_first_is_prepared(slug: str) -> None:
    assert measure.measure(slug, SMALL, "ours", CPU, timed=1).outcome == "measured"


def test_base_in_four_bits_is_really_packed() -> None:
    setting = SMALL.model_copy(update={"storage": "nf4"})
    assert measure.measure("lora", setting, "ours", CPU, timed=1).outcome == "measured"
    from profiler import build
    from reference_impls.parts.nf4 import NF4Linear

    model = build.base(config_of(SMALL), measure.settings_of(SMALL), "ours")
    measure.store(model, "nf4", "ours", CPU)
    assert sum(isinstance(module, NF4Linear) for module in model.modules()) == 2 * 7


@pytest.mark.parametrize("slug", ["qlora", "loftq"])
def test_method_that_packs_the_base_itself_is_given_it_unpacked(slug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[torch.nn.Module] = []
    method = importlib.import_module(f"reference_impls.{slug}")
    attach = method.attach

    def noted(model: torch.nn.Module, config: Any) -> Any:
        given.extend(layer for layer in model.modules() if isinstance(layer, torch.nn.Linear))
        assert all(isinstance(layer.weight, torch.nn.Parameter) for layer in given)
        return attach(model, config)

    monkeypatch.setattr(method, "attach", noted)
    found = measure.measure(slug, SMALL.model_copy(update={"storage": "nf4"}), "ours", CPU, timed=1)
    assert (found.outcome, found.message) == ("measured", None)
    assert len(given) == 2 * 7 + 1  # and the head


def test_method_that_fails_is_a_result_and_not_the_end(tmp_path: Path) -> None:
    todo = [Case("full_fine_tuning", SMALL, "peft", 2), Case("full_fine_tuning", SMALL, "ours", 3)]
    found = work(todo, tmp_path / "rows.jsonl", WHERE, CPU, timed=1)
    assert [row.outcome for row in found] == ["failed", "measured"]
    assert "no configuration class" in str(found[0].message)
    assert list(read(tmp_path / "rows.jsonl")) == found


def counting(calls: list[str]) -> Any:
    def run(slug: str, *rest: Any) -> Measured:
        calls.append(slug)
        return Measured("measured", seconds=(3.0, 1.0, 2.0))

    return run


def test_work_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, calls = tmp_path / "rows.jsonl", []
    planned = list(cases(["lora"], campaign.SHAPES[:1]))
    work(planned[:3], path, WHERE, CPU, run=counting(calls))
    assert remaining(planned, path) == planned[3:]
    rows = work(remaining(planned, path), path, WHERE, CPU, run=counting(calls))
    assert len(calls) == len(planned) == 4
    assert remaining(planned, path) == []
    assert rows[0].step_seconds == 2.0


def test_no_measurement_begins_that_would_end_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 40.0)  # each look at the clock is 40 seconds later
    monkeypatch.setattr(campaign.time, "monotonic", lambda: next(clock))
    calls: list[str] = []
    planned = list(cases(["lora"], campaign.SHAPES[:2]))
    work(planned, tmp_path / "rows.jsonl", WHERE, CPU, minutes=4, run=counting(calls))
    assert 0 < len(calls) < len(planned)


def test_spoilt_device_ends_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "usable", lambda device: False)
    planned = list(cases(["lora"], campaign.SHAPES[:1]))
    found = work(planned, tmp_path / "rows.jsonl", WHERE, CPU, run=lambda *_: Measured("failed", "illegal access"))
    assert len(found) == 1


def test_results_of_a_processor_have_no_place_among_measurements() -> None:
    with pytest.raises(ValueError, match="measurements are kept of GPUs only"):
        file_for(WHERE, "2026-01-01")
    card = WHERE.model_copy(update={"gpu": "NVIDIA H100 80GB HBM3"})
    assert file_for(card, "2026-01-01").name == "nvidia-h100-80gb-hbm3-2026-01-01.jsonl"


@pytest.mark.parametrize("fits", [0, 1, 2, 3, 7, 8, 100, 256])
def test_largest_batch_is_found_with_few_looks(fits: int) -> None:
    looked: list[int] = []

    def needs(batch: int) -> int:
        looked.append(batch)
        return batch

    assert proof.largest(needs, fits) == fits
    assert len(looked) <= 20


def rows_of(fits: bool) -> Any:
    return lambda slug, setting, *_: Measured("measured" if fits else "out of memory", reserved_bytes=1)


def test_proof_tries_the_largest_batch_and_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    gigabyte = 10**9
    monkeypatch.setattr(proof, "predicted", lambda slug, setting: 3 * gigabyte * setting.batch)
    card = WHERE.model_copy(update={"gpu": "a card", "memory_bytes": 80 * gigabyte})

    def tried(fits: bool) -> Iterator[tuple[int, bool, bool]]:
        for fit in proof.prove("lora", 24, card, CPU, run=rows_of(fits)):
            yield fit.setting.batch, fit.predicted, fit.fitted

    assert list(tried(True)) == [(7, True, True), (8, False, True)]
    with pytest.raises(ValueError, match="24 GB at least"):
        list(proof.prove("lora", 24, WHERE, CPU))


def test_row_says_when_and_where_it_was_made() -> None:
    made = measure.row("lora", SMALL, "ours", 1, WHERE, Measured("measured", seconds=(1.0,)))
    assert isinstance(made, Step)
    assert {"torch", "transformers"} <= made.machine.versions.keys()
    assert made.at <= now()

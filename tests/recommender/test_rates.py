"""Where to start with the learning rate: published sweeps before the paper, the paper before a guess, each with its source."""

from __future__ import annotations

import pytest

from kb.records import load_findings, load_methods, load_readings
from kb.studies import load_studies
from recommender.answer import Citation, Start
from recommender.catalogue import default_catalogue
from recommender.citations import Library
from recommender.rates import Scale, Sweep, Tried, starting_rate, sweeps
from recommender.retention import HALF, Retention, measured, retention

METHODS = load_methods()
LIBRARY = Library(METHODS, load_readings(), load_findings())
SOURCE = Citation(ref="study", title="a study", where="table 1", url=None, grade="A")
USUAL = (1e-4, SOURCE)


def sweep(
    *tried: tuple[float, float], kind: str | None = "decoder", size: float = 3e9, task: str = "reasoning"
) -> Sweep:
    runs = tuple(Tried(rate, score) for rate, score in tried)
    return Sweep("lora", kind, "a model", size, task, "accuracy", runs, SOURCE)


def start(slug: str, *own: Sweep) -> Start:
    found = starting_rate(METHODS[slug], own, Scale("decoder", 7e9, "reasoning"), LIBRARY, USUAL)
    assert found is not None
    return found


def test_the_best_of_several_that_were_tried_comes_first() -> None:
    found = start("lora", sweep((1e-4, 0.3), (1e-3, 0.5), (1e-2, 0.1)))
    assert found.value == 1e-3
    assert found.source == SOURCE
    assert "Best of 3" in found.why
    assert "0.5" in found.why


@pytest.mark.parametrize(
    "own",
    [
        sweep((1e-4, 0.500), (1e-3, 0.501)),  # what hardly differs does not tell
        sweep((1e-4, 0.3), (1e-3, 0.5), size=1e8),  # a model seventy times smaller
        sweep((1e-4, 0.3), (1e-3, 0.5), kind="encoder"),
        sweep((1e-3, 0.5)),  # one rate is no sweep
    ],
    ids=["no difference", "another size", "another kind", "one rate"],
)
def test_the_paper_counts_where_no_sweep_tells(own: Sweep) -> None:
    found = start("lora", own)
    assert found.value == 2e-4
    assert found.source is not None
    assert found.source.ref == "lora"


def test_a_sweep_on_the_task_comes_before_others() -> None:
    other, same = sweep((1e-4, 0.3), (1e-3, 0.5), task="generation"), sweep((1e-4, 0.5), (1e-3, 0.3))
    assert start("lora", other, same).value == 1e-4


def test_without_a_paper_what_was_used_counts_then_our_advice() -> None:
    assert METHODS["full_fine_tuning"].mechanism.learning_rate is not None
    assert start("full_fine_tuning", sweep((3e-5, 0.4))).value == 3e-5
    assert start("olora").value == 1e-4
    assert "Nothing is published" in start("olora").why


def test_what_is_not_trained_has_no_rate() -> None:
    untrained = [each for each in METHODS.values() if each.mechanism.learning_rate is None]
    assert untrained
    assert all(starting_rate(each, (), Scale("decoder", 7e9, "any"), LIBRARY, USUAL) is None for each in untrained)


def test_rates_stand_in_the_rows_of_the_evidence() -> None:
    found = sweeps(load_studies(), {"llama-3.2-3b": "decoder"}, LIBRARY)
    (vectors,) = (each for each in found["ia3"] if each.model == "Llama-3.2-3B")
    assert sorted(each.rate for each in vectors.tried) == [1e-4, 1e-3, 5e-3]
    assert (vectors.kind, vectors.best.rate) == ("decoder", 5e-3)


def test_vectors_want_a_far_higher_rate_than_matrices() -> None:
    rates = default_catalogue().rates
    vectors, matrices = (rates.start(METHODS[slug], "decoder", 7 * 10**9, "reasoning") for slug in ("ia3", "lora"))
    assert vectors is not None
    assert matrices is not None
    assert float(str(vectors.value)) >= 10 * float(str(matrices.value))


def test_forgetting_is_that_of_the_best_run_and_of_the_class_where_nothing_was_measured() -> None:
    _, best = measured(load_studies())
    kept = retention(METHODS, best)
    assert best["ia3"].configuration.endswith("lr 5e-3")  # the run with the best score, not the mildest
    assert kept["ia3"].rise == best["ia3"].rise
    assert "not measured" in kept["houlsby_adapter"].note
    assert Retention(HALF, True, "").value == 0.5
    assert Retention(0.0, True, "").value == 1.0
    assert Retention(-0.01, True, "").value == 1.0

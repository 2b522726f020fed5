"""The synthesis: laws of its parts, recovery of what made simulated studies, and committed results that are current."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from kb.comparison import Cell
from kb.records import load_methods
from kb.situation import ANYWHERE
from kb.studies import load_studies
from synthesis import quality, robustness
from synthesis.effect import Effects
from synthesis.model import EIGHTY, STANDING, classes_of, fit, imagined
from synthesis.observation import Observation, all_cells, digest, expected_maximum, observations, standardised
from synthesis.record import FOLDER
from synthesis.validation import TARGETS, judged

AGAIN = "the evidence changed: run python -m synthesis, then make bench-quality"
METHODS = load_methods()


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return all_cells(load_studies(), METHODS)


def committed(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def test_standardised_cells_have_mean_zero_and_keep_their_order(cells: list[Cell]) -> None:
    for cell, scores in zip(cells, standardised(cells), strict=True):
        assert math.isclose(fmean(scores.values()), 0, abs_tol=1e-9)
        ordered = sorted(cell.values, key=lambda method: cell.values[method])
        assert all(scores[a] <= scores[b] + 1e-9 for a, b in pairwise(ordered))


def test_observations_of_a_block_are_distances_inside_it(cells: list[Cell]) -> None:
    totals: dict[int, list[float]] = {}
    for each in observations(cells):
        totals.setdefault(each.block, []).append(each.value)
    assert all(math.isclose(sum(values), 0, abs_tol=1e-9) and len(values) > 1 for values in totals.values())


@pytest.mark.parametrize(("draws", "expected"), [(1, 0.0), (2, 0.564), (5, 1.163), (20, 1.867)])
def test_luck_of_the_best_of_several_is_the_expected_maximum(draws: int, expected: float) -> None:
    assert expected_maximum(draws) == pytest.approx(expected, abs=0.03)


def test_kernel_gives_its_own_derivatives() -> None:
    random = np.random.default_rng(0)
    design = random.normal(size=(6, 7)) * (random.random((6, 7)) < 0.6)
    kernel = Effects((0, 2, 5, 7), np.array([2.0]), np.array([0.4, 0.9]), np.array([[0.01, 3.0]] * 2))
    _, gradient = kernel(design, eval_gradient=True)
    for place in range(2):
        step = np.zeros(2)
        step[place] = 1e-6
        higher = kernel.clone_with_theta(kernel.theta + step)(design)
        lower = kernel.clone_with_theta(kernel.theta - step)(design)
        assert np.allclose((higher - lower) / 2e-6, gradient[:, :, place], atol=1e-6)
    assert np.allclose(kernel.diag(design), np.diag(kernel(design)))


def simulated(bias: float, seed: int) -> tuple[dict[str, Sequence[str]], Mapping[str, float], list[Observation]]:
    """Twenty-five studies of four of eight methods in two classes; a third of them by a method's own authors."""
    random = np.random.default_rng(seed)
    leaves: dict[str, Sequence[str]] = {f"m{i}": ("high",) if i < 4 else ("low",) for i in range(8)}
    truth = {m: (0.6 if own == ("high",) else -0.6) + random.normal(0, 0.3) for m, own in leaves.items()}
    seen = []
    for study in range(25):
        methods = [f"m{i}" for i in random.choice(8, size=4, replace=False)]
        own = methods[0] if study % 3 == 0 else None
        values = {m: truth[m] + bias * (m == own) + random.normal(0, 0.3) for m in methods}
        mean = fmean(values.values())
        for m, value in values.items():
            seen.append(
                Observation(f"s{study}", m, ANYWHERE, study, value - mean, 3, m == own, 0.0, claimed=own is not None)
            )
    return leaves, truth, seen


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_fit_finds_the_bias_and_the_order_that_made_the_studies(bias: float) -> None:
    leaves, truth, seen = simulated(bias, seed=1)
    fitted = fit(leaves, seen)
    mean, variance = fitted.effects([next(each for each in seen if each.proposed)], ("bias",))
    assert abs(float(mean[0]) - bias) < 2.5 * float(variance[0, 0]) ** 0.5 < 1.0
    found, covariance = fitted.effects([imagined(m) for m in truth], STANDING)
    assert np.corrcoef(found, list(truth.values()))[0, 1] > 0.9
    assert np.all(np.diag(covariance) > 0)


def test_method_without_evidence_has_the_mean_of_its_class_and_a_wider_interval() -> None:
    leaves, _, seen = simulated(0.0, seed=2)
    fitted = fit({**leaves, "new": ("high",)}, seen)
    mean, covariance = fitted.effects([imagined("new"), imagined("m0"), imagined("m7")], STANDING)
    assert mean[0] > 0 > mean[2]
    assert covariance[0, 0] > covariance[1, 1]


def test_first_choice_that_is_best_has_no_regret_and_the_worst_has_all(cells: list[Cell]) -> None:
    cell = next(each for each in cells if len(each.values) > 4 and len(set(each.values.values())) == len(each.values))
    right = judged(cell, lambda each: each.values)
    wrong = judged(cell, lambda each: {method: -value for method, value in each.values.items()})
    assert (right.correlation, right.first, right.three) == (pytest.approx(1), 0, 0)
    assert wrong.correlation == pytest.approx(-1)
    span = max(cell.values.values()) - min(cell.values.values())
    assert wrong.first == pytest.approx(span / cell.spread)


@pytest.mark.parametrize("name", ["quality", "robustness", "validation"])
def test_committed_results_are_of_the_evidence_as_it_is(name: str, cells: list[Cell]) -> None:
    assert committed(name)["digest"] == digest(cells, METHODS), AGAIN


def test_committed_robustness_is_what_a_fit_gives(cells: list[Cell]) -> None:
    again, before = robustness.synthesise(METHODS, cells), committed("robustness")
    assert again["studies"] == before["studies"]
    for slug, was in before["methods"].items():
        assert again["methods"][slug]["estimate"] == pytest.approx(was["estimate"], abs=0.02), AGAIN


def test_committed_quality_is_what_a_fit_gives(cells: list[Cell]) -> None:
    seen, leaves = observations(cells), classes_of(METHODS)
    before = committed("quality")
    start = {name: each["sd"] for name, each in before["components"].items()}
    fitted = fit(leaves, seen, start)
    for name, sd in start.items():
        assert fitted.sds[name] == pytest.approx(sd, abs=0.03), AGAIN
    slugs = list(before["methods"])
    mean, covariance = fitted.effects([imagined(slug) for slug in slugs], STANDING)
    for slug, m, v in zip(slugs, mean, np.diag(covariance), strict=True):
        was = before["methods"][slug]["estimates"]["any/any/any"]
        assert quality.interval(float(m), float(v)) == pytest.approx(was, abs=0.03), AGAIN
        assert was[2] - was[1] == pytest.approx(2 * EIGHTY * float(v) ** 0.5, abs=0.03)


def test_validation_says_for_each_target_whether_it_was_reached() -> None:
    report = committed("validation")
    assert report["targets"] == TARGETS
    ours = report["rankings"]["synthesis"]
    for name in ("mean", "claims", "lora"):
        other = report["rankings"][name]
        assert other["correlation"]["studies"] == ours["correlation"]["studies"]
        assert ours["correlation"]["mean"] > other["correlation"]["mean"]
        assert ours["regret_three"]["mean"] < other["regret_three"]["mean"]
    eighty = next(each["reached"] for each in report["coverage"] if each["nominal"] == 0.8)
    assert TARGETS["coverage_low"] <= eighty <= TARGETS["coverage_high"]

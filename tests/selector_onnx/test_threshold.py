"""The guarantee, in simulation, and the p-values against direct calculation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selector_onnx.threshold import needed, p_value, select_threshold

Draw = tuple[np.ndarray, np.ndarray]


def draw(rng: np.random.Generator, n: int, *, graded: bool = False) -> Draw:
    """Confidences and accuracies of an estimator like a good Selector; even the surest answers are wrong 1 time in 100."""
    confidence = rng.beta(2, 1, n)
    wrong = rng.random(n) < 0.01 + 0.89 * (1 - confidence) ** 2
    accuracy = 1.0 - wrong
    return confidence, np.where(wrong & (rng.random(n) < 0.5), 0.6, accuracy) if graded else accuracy


def true_risk(threshold: float, *, graded: bool) -> float:
    confidence, accuracy = draw(np.random.default_rng(12345), 2_000_000, graded=graded)
    return float(1 - accuracy[confidence >= threshold].mean())


@pytest.mark.parametrize(("graded", "n", "risk"), [(False, 400, 0.1), (False, 1500, 0.05), (True, 1500, 0.05)])
def test_the_risk_is_broken_no_more_often_than_delta(graded: bool, n: int, risk: float) -> None:
    rng, delta, rounds = np.random.default_rng(1), 0.1, 600
    cache: dict[float, float] = {}
    broken = passed = 0
    for _ in range(rounds):
        threshold = select_threshold(*draw(rng, n, graded=graded), risk, delta)
        if threshold is not None:
            passed += 1
            if threshold not in cache:
                cache[threshold] = true_risk(threshold, graded=graded)
            broken += cache[threshold] > risk
    # 600 rounds: three standard errors above delta
    assert broken / rounds <= delta + 3 * math.sqrt(delta * (1 - delta) / rounds), f"broken in {broken} of {rounds}"
    assert passed > rounds / 2, f"a threshold was found in only {passed} of {rounds}"


def test_a_wider_start_answers_more_than_the_strictest_place_that_could_pass() -> None:
    coverage: dict[float, list[float]] = {1.0: [], 3.0: []}
    rng = np.random.default_rng(2)
    for _ in range(200):
        confidence, accuracy = draw(rng, 1200)
        for start, values in coverage.items():
            threshold = select_threshold(confidence, accuracy, 0.05, 0.1, start=start)
            values.append(0.0 if threshold is None else float((confidence >= threshold).mean()))
    assert np.mean(coverage[3.0]) > np.mean(coverage[1.0]) + 0.1, {s: float(np.mean(v)) for s, v in coverage.items()}


def test_needed_is_the_least_error_free_number_that_passes() -> None:
    n = needed(0.05, 0.1)
    assert 0.95**n <= 0.1 < 0.95 ** (n - 1)


def test_binary_p_values_are_the_exact_binomial_tail() -> None:
    errors = np.array([1.0] * 2 + [0.0] * 48)
    expected = sum(math.comb(50, k) * 0.1**k * 0.9 ** (50 - k) for k in range(3))
    assert p_value(errors, 0.1) == pytest.approx(expected)


def test_graded_p_values_are_valid_and_not_below_the_binary_ones() -> None:
    rng = np.random.default_rng(3)
    risk, n = 0.2, 100
    rejected = np.mean([p_value(rng.choice([0.0, 0.4], n), risk) <= 0.1 for _ in range(1000)])  # mean error exactly 0.2
    assert rejected <= 0.1
    graded = np.array([0.1] + [0.0] * 99)
    assert 0 < p_value(graded, risk) < 1


def test_abstains_always_when_nothing_passes() -> None:
    rng = np.random.default_rng(4)
    assert select_threshold(rng.random(500), np.zeros(500), 0.05, 0.1) is None
    assert select_threshold(rng.random(20), np.ones(20), 0.05, 0.1) is None, "20 answers cannot show 5 % risk"
    assert select_threshold([], [], 0.05, 0.1) is None


def test_answers_everything_when_everything_is_right() -> None:
    confidence = np.random.default_rng(5).random(500)
    threshold = select_threshold(confidence, np.ones(500), 0.05, 0.1)
    assert threshold is not None and (confidence >= threshold).mean() > 0.99


def test_equal_confidences_are_answered_together_or_not_at_all() -> None:
    assert select_threshold(np.full(300, 0.7), np.repeat([1.0, 0.0], [150, 150]), 0.1, 0.1) is None


@pytest.mark.parametrize(("risk", "delta"), [(0.0, 0.1), (1.0, 0.1), (0.1, 0.0), (0.1, 2.0)])
def test_impossible_wishes_are_refused(risk: float, delta: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        select_threshold([0.5], [1.0], risk, delta)

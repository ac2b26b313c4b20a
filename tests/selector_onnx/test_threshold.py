"""The guarantee, in simulation, and the p-values against direct calculation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selector_onnx.threshold import GRID, needed, p_values, questions_needed, select_threshold

Draw = tuple[np.ndarray, np.ndarray]
DELTA, DRAWS = 0.1, 1000


def draw(rng: np.random.Generator, n: int, *, graded: bool = False) -> Draw:
    """Confidences and accuracies of an estimator like a good Selector; even the surest answers are wrong 1 time in 100."""
    confidence = rng.beta(2, 1, n)
    wrong = rng.random(n) < 0.01 + 0.89 * (1 - confidence) ** 2
    accuracy = 1.0 - wrong
    return confidence, np.where(wrong & (rng.random(n) < 0.5), 0.6, accuracy) if graded else accuracy


@pytest.fixture(scope="module", params=[False, True], ids=["binary", "graded"])
def true_risks(request: pytest.FixtureRequest) -> tuple[bool, dict[float, float]]:
    """Risk at every threshold of the grid, from two million questions."""
    confidence, accuracy = draw(np.random.default_rng(12345), 2_000_000, graded=request.param)
    order = np.argsort(-confidence)
    risks = np.cumsum(1 - accuracy[order]) / np.arange(1, len(order) + 1)
    answered = len(order) - np.searchsorted(confidence[order][::-1], GRID)
    return request.param, {float(t): float(risks[max(1, a) - 1]) for t, a in zip(GRID, answered, strict=True)}


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("n", [100, 250, 500, 1500, 5000])
def test_the_risk_is_broken_no_more_often_than_delta(
    true_risks: tuple[bool, dict[float, float]], n: int, calibrated: bool
) -> None:
    graded, risk_at = true_risks
    rng, broken, passed = np.random.default_rng(n), 0, 0
    risk = 0.1 if n < 1000 else 0.05
    for _ in range(DRAWS):
        threshold = select_threshold(*draw(rng, n, graded=graded), risk, DELTA, calibrated=calibrated)
        if threshold is not None:
            passed += 1
            broken += risk_at[threshold] > risk
    limit = DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / DRAWS)  # three standard errors
    assert broken / DRAWS <= limit, f"broken in {broken} of {DRAWS}"
    if n >= 1500:
        assert passed > DRAWS / 2, f"a threshold was found in only {passed} of {DRAWS}"


@pytest.mark.parametrize("n", [100, 1000, 5000])
@pytest.mark.parametrize("calibrated", [False, True])
def test_no_threshold_is_offered_where_none_is_justified(n: int, calibrated: bool) -> None:
    """Every answer is wrong 12 times in 100, whatever the confidence: nothing keeps 10 %, so that any offer breaks it."""
    rng, offered = np.random.default_rng(n), 0
    for _ in range(DRAWS):
        confidence, accuracy = rng.random(n), (rng.random(n) >= 0.12).astype(float)
        offered += select_threshold(confidence, accuracy, 0.1, DELTA, calibrated=calibrated) is not None
    assert offered / DRAWS <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / DRAWS), f"offered in {offered} of {DRAWS}"


def test_a_wider_start_answers_more_than_the_strictest_place_that_could_pass() -> None:
    coverage: dict[float, list[float]] = {1.0: [], 3.0: []}
    rng = np.random.default_rng(2)
    for _ in range(200):
        confidence, accuracy = draw(rng, 1200)
        for start, values in coverage.items():
            threshold = select_threshold(confidence, accuracy, 0.05, 0.1, start=start)
            values.append(0.0 if threshold is None else float((confidence >= threshold).mean()))
    assert np.mean(coverage[3.0]) > np.mean(coverage[1.0]) + 0.1, {s: float(np.mean(v)) for s, v in coverage.items()}


def test_a_calibrated_confidence_says_where_to_begin() -> None:
    """Errors among the surest, as MaxProb has them, end a walk that begins there; the probabilities know a better place."""
    rng = np.random.default_rng(6)
    coverage: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(200):
        confidence = rng.beta(4, 1, 1500)
        right = (rng.random(1500) < np.minimum(confidence, 0.97)).astype(float)
        for calibrated, values in coverage.items():
            threshold = select_threshold(np.minimum(confidence, 0.999), right, 0.1, 0.1, calibrated=calibrated)
            values.append(0.0 if threshold is None else float((confidence >= threshold).mean()))
    assert np.mean(coverage[True]) >= np.mean(coverage[False]), {c: float(np.mean(v)) for c, v in coverage.items()}


def test_needed_is_the_least_error_free_number_that_passes() -> None:
    n = needed(0.05, 0.1)
    assert 0.95**n <= 0.1 < 0.95 ** (n - 1)


def test_binary_p_values_are_the_exact_binomial_tail() -> None:
    expected = sum(math.comb(50, k) * 0.1**k * 0.9 ** (50 - k) for k in range(3))
    assert p_values([2.0], [50], 0.1, graded=False)[0] == pytest.approx(expected)
    assert p_values([0.0], [0], 0.1, graded=False)[0] == 1.0, "no answers prove nothing"


def test_graded_p_values_are_valid_and_not_below_the_binary_ones() -> None:
    rng = np.random.default_rng(3)
    risk, n = 0.2, 100
    sums = rng.choice([0.0, 0.4], (1000, n)).sum(1)  # mean error exactly 0.2
    assert (p_values(sums, np.full(1000, n), risk, graded=True) <= 0.1).mean() <= 0.1
    errors = np.arange(0, 30)
    answers = np.full(30, n)
    assert (p_values(errors, answers, risk, graded=True) >= p_values(errors, answers, risk, graded=False)).all()
    direct = min(
        math.exp(-100 * (0.001 * math.log(0.001 / 0.2) + 0.999 * math.log(0.999 / 0.8))), math.e * (0.8**100 + 20 * 0.8**99)
    )
    assert p_values([0.1], [100], risk, graded=True)[0] == pytest.approx(direct, rel=1e-6)


def test_abstains_always_when_nothing_passes() -> None:
    rng = np.random.default_rng(4)
    for calibrated in (False, True):
        assert select_threshold(rng.random(500), np.zeros(500), 0.05, 0.1, calibrated=calibrated) is None
        assert select_threshold(rng.random(20), np.ones(20), 0.05, 0.1, calibrated=calibrated) is None, "20 cannot show 5 %"
        assert select_threshold([], [], 0.05, 0.1, calibrated=calibrated) is None


def test_answers_everything_when_everything_is_right() -> None:
    confidence = np.random.default_rng(5).random(500)
    for calibrated in (False, True):
        threshold = select_threshold(confidence, np.ones(500), 0.05, 0.1, calibrated=calibrated)
        assert threshold is not None and (confidence >= threshold).mean() > 0.99


def test_equal_confidences_are_answered_together_or_not_at_all() -> None:
    assert select_threshold(np.full(300, 0.7), np.repeat([1.0, 0.0], [150, 150]), 0.1, 0.1) is None


def test_says_how_many_questions_would_do() -> None:
    """Half of the time at least the number that is named does, in fresh draws; a tenth of it mostly does not."""
    rng = np.random.default_rng(7)
    confidence, accuracy = draw(rng, 3000)
    enough = questions_needed(confidence, accuracy, 0.05, 0.1)
    assert enough is not None and 50 < enough < 3000, enough

    def passing(n: int) -> float:
        return float(np.mean([select_threshold(*draw(rng, n), 0.05, 0.1) is not None for _ in range(200)]))

    assert passing(enough * 2) > 0.5, (enough, passing(enough * 2))
    assert passing(enough // 10) < 0.2, (enough, passing(enough // 10))
    assert questions_needed(confidence, np.zeros(3000), 0.05, 0.1) is None, "no number of wrong answers would do"


@pytest.mark.parametrize(("risk", "delta"), [(0.0, 0.1), (1.0, 0.1), (0.1, 0.0), (0.1, 2.0)])
def test_impossible_wishes_are_refused(risk: float, delta: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        select_threshold([0.5], [1.0], risk, delta)


def two_looks(rng: np.random.Generator, n: int) -> Draw:
    """[2, n]: a first look as `draw` has it, and a second one that sees better, but is not as sure as it should be."""
    first, one = draw(rng, n)
    second = rng.beta(3, 1, n)
    other = 1.0 - (rng.random(n) < 0.02 + 0.9 * (1 - second) ** 1.5)
    return np.stack([first, second]), np.stack([one, other])


def of_both(confidence: np.ndarray, accuracy: np.ndarray, threshold: float) -> tuple[float, float]:
    """Risk and coverage, question by question as the runtime decides them."""
    first = confidence[0] >= threshold
    second = ~first & (confidence[1] >= threshold)
    answered = first.sum() + second.sum()
    errors = (1 - accuracy[0][first]).sum() + (1 - accuracy[1][second]).sum()
    return errors / max(1, answered), answered / confidence.shape[1]


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("n", [250, 1500])
def test_two_looks_together_break_the_risk_no_more_often_than_delta(n: int, calibrated: bool) -> None:
    rng, risk = np.random.default_rng(n), 0.1
    whole = two_looks(np.random.default_rng(9), 1_000_000)
    risk_at = {float(t): of_both(*whole, t)[0] for t in GRID}
    broken, alone, together = 0, [], []
    for _ in range(DRAWS):
        confidence, accuracy = two_looks(rng, n)
        threshold = select_threshold(confidence, accuracy, risk, DELTA, calibrated=calibrated)
        first = select_threshold(confidence[0], accuracy[0], risk, DELTA, calibrated=calibrated)
        alone.append(0.0 if first is None else float((confidence[0] >= first).mean()))
        together.append(0.0 if threshold is None else of_both(confidence, accuracy, threshold)[1])
        broken += threshold is not None and risk_at[threshold] > risk
    assert broken / DRAWS <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / DRAWS), f"broken in {broken} of {DRAWS}"
    assert np.mean(together) > np.mean(alone), "a second look answers nothing more"


def test_one_look_given_as_a_row_is_the_same() -> None:
    confidence, accuracy = draw(np.random.default_rng(3), 2000)
    for calibrated in (False, True):
        plain = select_threshold(confidence, accuracy, 0.1, 0.1, calibrated=calibrated)
        assert plain == select_threshold(confidence[None], accuracy[None], 0.1, 0.1, calibrated=calibrated)

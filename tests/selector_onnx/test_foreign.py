"""What holds where some questions are foreign, in simulation: pairs of limits, mixes, other processors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_vqa.trust.familiarity import where_familiar
from selector_onnx.points import margin_of
from selector_onnx.threshold import contaminated_risk, select_threshold, worst_foreign

DELTA, DRAWS, RISK, LIMIT = 0.1, 400, 0.05, 0.05
MANY = 1_000_000


def familiar(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, accuracy and familiarity: what is little familiar is more often wrong than its confidence says."""
    confidence, familiarity = rng.beta(4, 1, n), rng.random(n)
    wrong = rng.random(n) < 0.01 + 0.7 * (1 - confidence) ** 1.5 + 0.3 * (familiarity < 0.08)
    return confidence, 1.0 - wrong, familiarity


def foreign(rng: np.random.Generator, n: int, passing: float) -> np.ndarray:
    """Confidences of foreign questions, all answered wrongly, where their picture passes for familiar."""
    return np.where(rng.random(n) < passing, rng.beta(3, 1, n), -1.0)


@pytest.fixture(scope="module")
def truth() -> tuple[np.ndarray, np.ndarray]:
    confidence, accuracy, familiarity = familiar(np.random.default_rng(999), MANY)
    return where_familiar(confidence, familiarity, LIMIT), accuracy


@pytest.mark.parametrize("n", [300, 1500, 4000])
def test_by_two_limits_the_risk_is_broken_no_more_often_than_delta(truth: tuple[np.ndarray, np.ndarray], n: int) -> None:
    rng, broken, passed = np.random.default_rng(n), 0, 0
    for _ in range(DRAWS):
        confidence, accuracy, familiarity = familiar(rng, n)
        kept = where_familiar(confidence, familiarity, LIMIT)
        threshold = select_threshold(kept, accuracy, RISK, DELTA, calibrated=True)
        if threshold is not None:
            passed += 1
            broken += float((1 - truth[1])[truth[0] >= threshold].mean()) > RISK
    assert broken / DRAWS <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / DRAWS), f"broken in {broken} of {DRAWS}"
    if n >= 1500:
        assert passed > DRAWS / 2


@pytest.mark.parametrize(("n", "share"), [(1500, 0.02), (4000, 0.1)])
def test_a_mix_breaks_its_bound_no_more_often_than_two_delta(
    truth: tuple[np.ndarray, np.ndarray], n: int, share: float
) -> None:
    """Several foreign sets, one of which is the worst; what comes later is like that one."""
    rng, broken, made, loose = np.random.default_rng(n), 0, 0, []
    passing = (0.02, 0.05, 0.3, 0.6)
    late = np.sort(foreign(np.random.default_rng(7), MANY, max(passing)))
    for _ in range(DRAWS):
        confidence, accuracy, familiarity = familiar(rng, n)
        kept = where_familiar(confidence, familiarity, LIMIT)
        threshold = select_threshold(kept, accuracy, RISK, DELTA, calibrated=True)
        if threshold is None:
            continue
        made += 1
        errors = [(int((foreign(rng, 150, p) >= threshold).sum()), 150) for p in passing]
        wrong, worst = worst_foreign(errors, DELTA / 2)
        assert worst == int(np.argmax([k for k, _ in errors]))
        bound = contaminated_risk(RISK, float((kept >= threshold).mean()), n, wrong, share, DELTA / 2)
        answered = truth[0] >= threshold
        given, bad = float(answered.mean()), float((answered * (1 - truth[1])).mean())
        foreign_wrong = 1 - np.searchsorted(late, threshold) / MANY
        risk = ((1 - share) * bad + share * foreign_wrong) / ((1 - share) * given + share * foreign_wrong)
        broken += risk > bound
        loose.append(bound - risk)
    assert made > DRAWS / 2 and broken / made <= 2 * DELTA + 3 * math.sqrt(2 * DELTA * (1 - 2 * DELTA) / made)
    assert np.median(loose) < 0.06, "a bound that is far off says nothing"


def test_the_bound_without_foreign_questions_is_the_risk_itself_and_grows_with_them() -> None:
    assert contaminated_risk(0.05, 0.6, 2000, 0.4, 0.0, 0.05) == pytest.approx(0.05)
    bounds = [contaminated_risk(0.05, 0.6, 2000, 0.4, share, 0.05) for share in (0.01, 0.05, 0.2, 1.0)]
    assert bounds == sorted(bounds) and bounds[-1] == 1.0
    assert contaminated_risk(0.05, 0.001, 100, 0.0, 0.05, 0.05) == 1.0, "nothing is known to be answered"


def test_the_worst_set_is_bounded_above_what_was_seen() -> None:
    wrong, worst = worst_foreign([(0, 150), (9, 150), (5, 150)], 0.05)
    assert worst == 1 and 9 / 150 < wrong < 0.15
    assert worst_foreign([(150, 150)], 0.05) == (1.0, 0)
    assert worst_foreign([(0, 150)], 0.05)[0] == pytest.approx(1 - 0.05 ** (1 / 150))


def test_a_margin_covers_what_other_builds_let_through() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(1000)
    others = [first + rng.normal(0, 0.004, 1000), first + rng.normal(0, 0.01, 1000)]
    margin = margin_of(0.6, [first, *others])
    assert 0 < margin < 0.04
    for other in others:
        assert not ((other > 0.6 + margin) & (first < 0.6)).any()
    assert margin_of(0.6, [first]) == margin_of(0.6, [first, first.copy()]) == 0.0


def test_without_familiarity_nothing_is_refused() -> None:
    confidence = np.array([0.2, 0.9])
    assert where_familiar(confidence, None, 0.5) is confidence
    assert where_familiar(confidence, np.array([0.4, 0.5]), 0.5).tolist() == [-1.0, 0.9]
    assert where_familiar(confidence, np.array([np.nan, 0.5]), 0.5)[0] == -1.0

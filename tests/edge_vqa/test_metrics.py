"""Metrics against worked examples and independent calculations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_vqa.metrics import (
    aurc,
    auroc,
    coverage_at_risk,
    ece,
    effective_reliability,
    normalise,
    risk_coverage,
    vqa_accuracy,
)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("A red car.", "red car"),
        ("Two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("yes, it is", "yes it is"),
        ("black/white", "black white"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("t-shirt", "t shirt"),
        ("The  dog\nruns", "dog runs"),
    ],
)
def test_answers_are_normalised_as_in_the_official_evaluation(raw: str, expected: str) -> None:
    assert normalise(raw) == expected


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_references_leave_one_out(matches: int, expected: float) -> None:
    references = ["cat"] * matches + [f"other {i}" for i in range(10 - matches)]
    assert vqa_accuracy("cat", references) == pytest.approx(expected)


def test_normalisation_applies_only_when_references_differ() -> None:
    assert vqa_accuracy("The cat", ["cat"] * 10) == 0.0
    assert vqa_accuracy("The cat", ["cat"] * 9 + ["dog"]) == 1.0
    assert vqa_accuracy("The cat.", ["cat"]) == 1.0
    with pytest.raises(ValueError, match="no reference"):
        vqa_accuracy("cat", [])


def test_risk_coverage_on_a_worked_example() -> None:
    coverage, risk, threshold = risk_coverage([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    assert threshold.tolist() == [0.9, 0.8, 0.7, 0.6]
    assert aurc([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1]) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_coverage_at_risk_takes_the_largest_coverage_even_behind_a_bump() -> None:
    assert coverage_at_risk([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1], 0.25) == (1.0, 0.6)
    assert coverage_at_risk([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1], 0.2) == (0.25, 0.9)
    assert coverage_at_risk([0.9, 0.8], [0, 1], 0.1) == (0.0, math.inf)


def test_ties_enter_together() -> None:
    assert coverage_at_risk([0.5, 0.5], [1, 0], 0.1)[0] == 0.0
    assert aurc([0.5, 0.5], [1, 0]) == pytest.approx(0.5)
    assert aurc([0.5, 0.5], [1, 0]) == aurc([0.5, 0.5], [0, 1])


def test_effective_reliability() -> None:
    confidence, accuracy = [0.9, 0.8, 0.7, 0.1], [1.0, 0.3, 0.0, 0.0]
    assert effective_reliability(confidence, accuracy, 10, 0.5) == pytest.approx((1 + 0.3 - 10) / 4)
    assert effective_reliability(confidence, accuracy, 10, 0.75) == pytest.approx(1.3 / 4)


def test_ece_of_calibrated_and_overconfident_answers() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(30_000)
    right = rng.random(30_000) < p
    assert ece(p, right) < 0.02
    assert ece(np.ones(100), np.zeros(100)) == pytest.approx(1.0)


def test_auroc_counts_ties_half() -> None:
    assert auroc([0.9, 0.8, 0.2], [1, 1, 0]) == 1.0
    assert auroc([0.5, 0.5], [1, 0]) == 0.5
    rng = np.random.default_rng(1)
    c, a = rng.integers(0, 10, 300), rng.integers(0, 2, 300)
    pairs = [(x > y) + (x == y) / 2 for x in c[a == 1] for y in c[a == 0]]
    assert auroc(c, a) == pytest.approx(np.mean(pairs))
    assert math.isnan(auroc([0.1, 0.2], [1, 1]))


def test_bad_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        aurc([0.1], [1, 0])
    with pytest.raises(ValueError, match="not empty"):
        aurc([], [])

"""Operating points, thresholds, and what excludes what."""

from __future__ import annotations

import dataclasses

import pytest

from edge_vqa import EdgeVqaError
from edge_vqa.bundles.manifest import Manifest, OperatingPoint
from edge_vqa.bundles.store import Bundle
from edge_vqa.trust.gate import Gate, choose


def point(risk: float, threshold: float | None, default: bool = False) -> OperatingPoint:
    return OperatingPoint(risk, 0.1, threshold, "ltt-fixed-sequence", 100, "test", 0.5, default=default)


@pytest.fixture
def manifest(mini: Bundle) -> Manifest:
    points = (point(0.01, None), point(0.05, 0.8), point(0.1, 0.6, default=True))
    return dataclasses.replace(mini.manifest, operating_points=points)


def test_abstains_when_confidence_is_below_the_threshold() -> None:
    gate = Gate(0.6)
    assert gate.answers(0.6) and not gate.answers(0.5999)


def test_the_default_point_is_used_when_nothing_is_asked_for(manifest: Manifest) -> None:
    assert choose(manifest, "selector") == Gate(0.6, 0.1, calibrated=True)


def test_a_risk_between_two_points_takes_the_stricter(manifest: Manifest) -> None:
    assert choose(manifest, "selector", risk=0.07) == Gate(0.8, 0.05, calibrated=True)
    assert choose(manifest, "selector", risk=0.5) == Gate(0.6, 0.1, calibrated=True)


def test_a_point_without_threshold_abstains_always(manifest: Manifest) -> None:
    gate = choose(manifest, "selector", risk=0.01)
    assert gate.threshold is None and not gate.answers(1.0)


def test_no_gate_answers_always(manifest: Manifest) -> None:
    assert choose(manifest, "selector", gate=False).answers(0.0)


def test_an_own_threshold_and_a_foreign_method_are_uncalibrated(manifest: Manifest) -> None:
    assert choose(manifest, "selector", threshold=0.3) == Gate(0.3)
    assert choose(manifest, "maxprob") == Gate(0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"risk": 0.001}, "no operating point"),
        ({"risk": 1.5}, "not between"),
        ({"threshold": -0.1}, "not a probability"),
        ({"threshold": float("nan")}, "not a probability"),
        ({"risk": 0.1, "threshold": 0.5}, "exclude each other"),
        ({"risk": 0.1, "gate": False}, "exclude each other"),
    ],
)
def test_impossible_wishes_are_refused(manifest: Manifest, settings: dict[str, float], words: str) -> None:
    with pytest.raises(EdgeVqaError, match=words):
        choose(manifest, "selector", **settings)  # type: ignore[arg-type]

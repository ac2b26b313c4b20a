"""Confidence, familiarity and an operating point -> answered or abstained, and why."""

from __future__ import annotations

from dataclasses import dataclass

from edge_vqa.bundles.manifest import Cascade, Manifest
from edge_vqa.errors import EdgeVqaError

UNCALIBRATED_THRESHOLD = 0.5
UNFAMILIAR, CONFIDENCE = "unfamiliar", "confidence"  # reasons to abstain


@dataclass(frozen=True)
class Gate:
    """Answers when confidence >= threshold and familiarity >= `familiarity`, where both are known. threshold None: `always`
    says whether always to answer or always to abstain."""

    threshold: float | None
    risk: float | None = None
    calibrated: bool = False
    always: bool = False
    familiarity: float | None = None

    def reason(self, confidence: float, familiarity: float | None) -> str | None:
        """Why not to answer, None where it answers: UNFAMILIAR before CONFIDENCE, which says nothing about such a picture."""
        if self.always:
            return None
        if self.familiarity is not None and familiarity is not None and not familiarity >= self.familiarity:
            return UNFAMILIAR
        return None if self.threshold is not None and confidence >= self.threshold else CONFIDENCE

    def answers(self, confidence: float, familiarity: float | None = None) -> bool:
        return self.reason(confidence, familiarity) is None


def choose(
    manifest: Manifest,
    method: str,
    *,
    risk: float | None = None,
    threshold: float | None = None,
    gate: bool = True,
    cascade: Cascade | None = None,
) -> Gate:
    """The gate for a question. `method` is the confidence method in use: an operating point holds for its own only.
    cascade: take the operating points of two looks together instead of the bundle's own.

    Without an operating point the threshold is 0.5 and uncalibrated. A risk between two operating points takes the stricter
    one, whose guarantee implies it. A threshold of one's own is one on the confidence alone.
    """
    if (risk is not None) + (threshold is not None) + (not gate) > 1:
        raise EdgeVqaError("risk, threshold and no gate exclude each other", "give one of them")
    if not gate:
        return Gate(None, always=True)
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise EdgeVqaError(f"threshold {threshold} is not a probability", "give a number from 0 to 1")
        return Gate(threshold)
    offers = cascade.operating_points if cascade else manifest.operating_points
    points = [point for point in offers if point.confidence == method]
    if risk is None:
        default = next((point for point in points if point.default), None)
        if default is None:
            return Gate(UNCALIBRATED_THRESHOLD)
        return Gate(default.threshold, default.risk, calibrated=True, familiarity=default.familiarity)
    if not 0 < risk < 1:
        raise EdgeVqaError(f"risk {risk} is not between 0 and 1", "give a share of wrong answers, as in --risk 0.05")
    kept = [point for point in points if point.risk <= risk + 1e-9]
    if not kept:
        offered = ", ".join(f"{point.risk:g}" for point in points) or "none"
        raise EdgeVqaError(
            f"{manifest.name} has no operating point for risk {risk:g}",
            f"use one of its own ({offered}), or --threshold",
        )
    best = max(kept, key=lambda point: point.risk)
    return Gate(best.threshold, best.risk, calibrated=True, familiarity=best.familiarity)

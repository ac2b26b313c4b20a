"""How familiar a picture is: the share of the pictures that the gate was fitted to that are as strange, or stranger.

A confidence holds for questions like those of its calibration. Of a picture unlike all of them it says nothing, however high
it is: the model may be sure that there is no banana in a page of text. So a picture of little familiarity is not answered
about, whatever the confidence. How it is estimated: `selector_onnx.familiarity`.
"""

from __future__ import annotations

from edge_vqa.bundles.store import Bundle
from edge_vqa.trust import trace as traces
from edge_vqa.trust.confidence import INTRINSIC
from edge_vqa.trust.estimator import Estimator, Features
from edge_vqa.trust.trace import Array, Trace

ROLE = "familiarity"


class Familiarity:
    """Reads what is known of the picture (`trace.PICTURE`), nothing of question or answer. Raises as `Estimator` does."""

    def __init__(self, bundle: Bundle) -> None:
        self._estimate = Estimator(bundle, ROLE, ROLE)

    def score_features(self, features: Features) -> Array:
        """Familiarity [n], each in [0, 1], of features [n, d]; 0 where they are no numbers."""
        return self._estimate(features)

    def score(self, trace: Trace) -> float:
        return float(self.score_features(traces.features(trace))[0])


def of(bundle: Bundle, method: str | None = None) -> Familiarity | None:
    """None of a bundle without one: then nothing is known about familiarity. method: the confidence method in use; one that
    needs no graph of its own, and has no operating point with a limit, does without."""
    limited = any(point.familiarity is not None for point in bundle.manifest.points(method)) if method else True
    if ROLE not in bundle.manifest.estimators or (method in INTRINSIC and not limited):
        return None
    return Familiarity(bundle)

"""How familiar a picture is: the share of the pictures that the gate was fitted to that are as strange, or stranger.

A confidence holds for questions like those of its calibration. Of a picture unlike all of them it says nothing, however high
it is: the model may be sure that there is no banana in a page of text. So a picture of little familiarity is not answered
about, whatever the confidence. How it is estimated: `selector_onnx.familiarity`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edge_vqa.bundles.store import Bundle
from edge_vqa.trust.confidence import INTRINSIC
from edge_vqa.trust.estimator import Estimator

ROLE = "familiarity"
Numbers: TypeAlias = "npt.NDArray[np.floating]"


class Familiarity(Estimator):
    """Familiarity [n] of features: reads what is known of the picture (`trace.PICTURE`), nothing of question or answer."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, ROLE, ROLE)


def of(bundle: Bundle, method: str | None = None) -> Familiarity | None:
    """None of a bundle without one: then nothing is known about familiarity. method: the confidence method in use; one that
    needs no graph of its own, and has no operating point with a limit, does without."""
    manifest = bundle.manifest
    if ROLE not in manifest.estimators:
        return None
    if method in INTRINSIC and all(point.familiarity is None for point in manifest.points(method)):
        return None
    return Familiarity(bundle)


def where_familiar(confidence: Numbers, familiarity: Numbers | None, least: float | None) -> Numbers:
    """Confidence [n], below every threshold where the picture is less familiar than that; None: nothing known, or no limit."""
    if familiarity is None or least is None:
        return confidence
    return np.where(familiarity >= least, confidence, confidence.dtype.type(-1))

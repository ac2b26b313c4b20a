"""Operating points: thresholds for a bundle's own confidence, on the device's own path, and what calibration looked like."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from edge_vqa import bundle as bundles
from edge_vqa.bundle import HISTOGRAM, Bundle, Calibration, Manifest, OperatingPoint
from edge_vqa.confidence import Confidence
from edge_vqa.confidence import choose as method_of
from edge_vqa.errors import EdgeVqaError
from selector_onnx.collect import Array, Traces
from selector_onnx.export import without
from selector_onnx.threshold import METHOD, select_threshold


def confidences(bundle: Bundle, traces: Traces, method: str | None = None) -> tuple[Confidence, Array]:
    """A confidence method (default: the one that the bundle uses) and its confidence [n] for every trace."""
    if bundle.fingerprint != traces.origin.fingerprint:
        raise EdgeVqaError(f"these traces are of another bundle ({traces.origin.model})", f"collect traces of {bundle.name}")
    bundles.verify(bundle)
    chosen = method_of(bundle, method)
    return chosen, chosen.score_features(traces.features)


def choose(
    bundle: Bundle,
    traces: Traces,
    risks: Sequence[float],
    delta: float,
    default: float,
    *,
    method: str | None = None,
) -> Manifest:
    """The bundle's manifest with operating points of a method (default: the one that the bundle uses), chosen on `traces`."""
    if len(np.unique(traces.picture)) < len(traces):
        raise EdgeVqaError(
            f"{len(traces)} calibration questions on {len(np.unique(traces.picture))} pictures are not independent",
            "keep one question a picture",
        )
    chosen, confidence = confidences(bundle, traces, method)
    name = chosen.name
    points = []
    for risk in risks:
        threshold = select_threshold(confidence, traces.accuracy, risk, delta, calibrated=chosen.calibrated)
        points.append(
            OperatingPoint(
                risk=risk,
                delta=delta,
                threshold=threshold,
                method=METHOD,
                n=len(traces),
                data=traces.origin.data,
                coverage=0.0 if threshold is None else round(float((confidence >= threshold).mean()), 4),
                confidence=name,
                default=risk == default,
            )
        )
    counts, _ = np.histogram(confidence, HISTOGRAM, (0, 1))
    seen = Calibration(name, traces.origin.data, len(traces), tuple(int(count) for count in counts))
    rest = without(bundle.manifest, name)
    return dataclasses.replace(
        rest,
        runtime=dataclasses.replace(rest.runtime, llama_cpp_python=traces.origin.llama_cpp_python),
        operating_points=(*rest.operating_points, *points),
        calibration=(*rest.calibration, seen),
    )

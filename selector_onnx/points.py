"""Operating points: thresholds for a bundle's own confidence, on the device's own path, and what calibration looked like."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from edge_vqa import bundle as bundles
from edge_vqa.bundle import HISTOGRAM, Bundle, Calibration, Manifest, OperatingPoint
from edge_vqa.confidence import choose as method_of
from edge_vqa.errors import EdgeVqaError
from selector_onnx.collect import Array, Traces
from selector_onnx.export import without
from selector_onnx.threshold import METHOD, select_threshold


def confidences(bundle: Bundle, traces: Traces, method: str | None = None) -> tuple[str, Array]:
    """A confidence method (default: the one that the bundle uses) and its confidence [n] for every trace."""
    if bundle.fingerprint != traces.origin.fingerprint:
        raise EdgeVqaError(f"these traces are of another bundle ({traces.origin.model})", f"collect traces of {bundle.name}")
    bundles.verify(bundle)
    chosen = method_of(bundle, method)
    return chosen.name, chosen.score_features(traces.features)


def choose(
    bundle: Bundle,
    traces: Traces,
    risks: Sequence[float],
    delta: float,
    default: float,
    *,
    method: str | None = None,
    first: Callable[[float], float | None] = lambda risk: None,
) -> Manifest:
    """The bundle's manifest with operating points of a method, chosen on `traces`. first: where the walk for a risk begins
    (see `threshold.select_threshold`)."""
    if len(np.unique(traces.picture)) < len(traces):
        raise EdgeVqaError(
            f"{len(traces)} calibration questions on {len(np.unique(traces.picture))} pictures are not independent",
            "keep one question a picture",
        )
    name, confidence = confidences(bundle, traces, method)
    points = []
    for risk in risks:
        threshold = select_threshold(confidence, traces.accuracy, risk, delta, first=first(risk))
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
    return dataclasses.replace(rest, operating_points=(*rest.operating_points, *points), calibration=(*rest.calibration, seen))

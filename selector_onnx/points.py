"""Calibration traces -> the operating points of a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from edge_vqa import bundle as bundles
from edge_vqa.bundle import Bundle, Manifest, OperatingPoint
from edge_vqa.confidence import choose as choose_method
from edge_vqa.errors import EdgeVqaError
from selector_onnx.collect import Array, Traces
from selector_onnx.threshold import METHOD, select_threshold


def confidences(bundle: Bundle, traces: Traces) -> tuple[str, Array]:
    """The confidence method that the bundle uses, and its confidence [n] for every trace, on the device's own path."""
    if bundle.fingerprint != traces.origin.fingerprint:
        raise EdgeVqaError(f"these traces are of another bundle ({traces.origin.model})", f"collect traces of {bundle.name}")
    bundles.verify(bundle)
    method = choose_method(bundle)
    return method.name, method.score_features(traces.features)


def choose(bundle: Bundle, traces: Traces, risks: Sequence[float], delta: float, default: float) -> Manifest:
    """The bundle's manifest with operating points chosen on `traces`."""
    if len(np.unique(traces.picture)) < len(traces):
        raise EdgeVqaError(
            f"{len(traces)} calibration questions on {len(np.unique(traces.picture))} pictures are not independent",
            "keep one question a picture",
        )
    method, confidence = confidences(bundle, traces)
    points = []
    for risk in risks:
        threshold = select_threshold(confidence, traces.accuracy, risk, delta)
        points.append(
            OperatingPoint(
                risk=risk,
                delta=delta,
                threshold=threshold,
                method=METHOD,
                n=len(traces),
                data=traces.origin.data,
                coverage=0.0 if threshold is None else round(float((confidence >= threshold).mean()), 4),
                confidence=method,
                default=risk == default,
            )
        )
    return dataclasses.replace(bundle.manifest, operating_points=tuple(points))

"""Operating points: thresholds for a bundle's own confidence, on the device's own path, and what calibration looked like."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import HISTOGRAM, Calibration, Cascade, Manifest, OperatingPoint
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.trust.confidence import Confidence
from edge_vqa.trust.confidence import choose as method_of
from selector_onnx.collect import Array, Traces
from selector_onnx.export import without
from selector_onnx.threshold import METHOD, select_threshold


def confidences(bundle: Bundle, traces: Traces, method: str | None = None) -> tuple[Confidence, Array]:
    """A confidence method (default: the one that the bundle uses) and its confidence [n] for every trace."""
    if bundle.fingerprint != traces.origin.fingerprint:
        raise EdgeVqaError(
            f"these traces are of another bundle or vision tower ({traces.origin.model})",
            f"collect traces of {bundle.name}",
        )
    store.verify(bundle)
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
    _refuse_dependent(traces)
    chosen, confidence = confidences(bundle, traces, method)
    name = chosen.name
    points = _points(chosen, confidence[None], traces.accuracy[None], traces.origin.data, risks, delta, default)
    counts, _ = np.histogram(confidence, HISTOGRAM, (0, 1))
    seen = Calibration(name, traces.origin.data, len(traces), tuple(int(count) for count in counts))
    rest = without(bundle.manifest, name)
    return dataclasses.replace(
        rest,
        runtime=dataclasses.replace(rest.runtime, llama_cpp_python=traces.origin.llama_cpp_python),
        operating_points=(*rest.operating_points, *points),
        calibration=(*rest.calibration, seen),
    )


@dataclass(frozen=True, eq=False)
class Second:
    """Who looks at a question again where the first look abstains, and the traces of that look at every question."""

    bundle: Bundle
    traces: Traces


def choose_cascade(
    bundle: Bundle,
    traces: Traces,
    second: Second,
    risks: Sequence[float],
    delta: float,
    default: float,
    *,
    method: str | None = None,
) -> tuple[Manifest, Cascade]:
    """The bundle's manifest with operating points of two looks together, and these. Both looks saw the same questions.

    One threshold serves both looks, so both must use the same confidence method.
    """
    if not np.array_equal(traces.question_id, second.traces.question_id):
        raise EdgeVqaError("the traces of the two looks are not of the same questions", "collect both from one questions file")
    _refuse_dependent(traces)
    chosen, first = confidences(bundle, traces, method)
    again, other = confidences(second.bundle, second.traces, chosen.name)
    accuracy = np.stack([traces.accuracy, second.traces.accuracy])
    points = _points(again, np.stack([first, other]), accuracy, traces.origin.data, risks, delta, default)
    detail = second.traces.origin.detail or second.bundle.manifest.prompt.detail
    if second.bundle.fingerprint == bundle.fingerprint and detail == (traces.origin.detail or bundle.manifest.prompt.detail):
        raise EdgeVqaError("both looks are the same", "collect the second one with --detail high, or from another bundle")
    made = Cascade(bundle.pair(second.bundle), detail, tuple(points))
    others = tuple(c for c in bundle.manifest.cascades if (c.pair, c.detail) != (made.pair, detail))
    return dataclasses.replace(bundle.manifest, cascades=(*others, made)), made


def _refuse_dependent(traces: Traces) -> None:
    if len(np.unique(traces.picture)) < len(traces):
        raise EdgeVqaError(
            f"{len(traces)} calibration questions on {len(np.unique(traces.picture))} pictures are not independent",
            "keep one question a picture",
        )


def _points(
    method: Confidence,
    confidence: Array,
    accuracy: Array,
    data: str,
    risks: Sequence[float],
    delta: float,
    default: float,
) -> list[OperatingPoint]:
    """One for each risk, from [looks, n]."""
    points = []
    for risk in risks:
        threshold = select_threshold(confidence, accuracy, risk, delta, calibrated=method.calibrated)
        points.append(
            OperatingPoint(
                risk=risk,
                delta=delta,
                threshold=threshold,
                method=METHOD,
                n=confidence.shape[1],
                data=data,
                coverage=0.0 if threshold is None else round(float((confidence.max(0) >= threshold).mean()), 4),
                confidence=method.name,
                default=risk == default,
            )
        )
    return points

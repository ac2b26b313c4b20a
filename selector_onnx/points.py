"""Operating points: thresholds for a bundle's own confidence, on the device's own path, and what calibration looked like."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import HISTOGRAM, Calibration, Cascade, Foreign, Manifest, OperatingPoint
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.trust import familiarity as familiarities
from edge_vqa.trust.confidence import Confidence
from edge_vqa.trust.confidence import choose as method_of
from edge_vqa.trust.familiarity import Numbers, where_familiar
from selector_onnx.collect import Array, Traces
from selector_onnx.export import without
from selector_onnx.threshold import METHOD, contaminated_risk, select_threshold, worst_foreign

UNFAMILIAR = 0.015  # share of familiar pictures that may be refused as foreign


class Scorer:
    """A bundle's confidence method (default: the one that it uses) and its familiarity, opened once for many traces."""

    def __init__(self, bundle: Bundle, method: str | None = None) -> None:
        store.verify(bundle)
        self._bundle, self.method, self.estimate = bundle, method_of(bundle, method), familiarities.of(bundle)

    def confidence(self, traces: Traces) -> Array:
        """[n]. Raises EdgeVqaError for traces of another bundle."""
        _check_origin(self._bundle, traces)
        return self.method.score_features(traces.features)

    def familiarity(self, traces: Traces) -> Array | None:
        """[n], where the bundle has an estimate of it."""
        return None if self.estimate is None else self.estimate.score_features(traces.features)

    def kept(self, traces: Traces, unfamiliar: float) -> Numbers:
        """Confidence [n], below every threshold where the picture is not familiar."""
        return where_familiar(self.confidence(traces), self.familiarity(traces), unfamiliar)


def confidences(bundle: Bundle, traces: Traces, method: str | None = None) -> tuple[Confidence, Array]:
    """A confidence method (default: the one that the bundle uses) and its confidence [n] for every trace."""
    _check_origin(bundle, traces)
    scorer = Scorer(bundle, method)
    return scorer.method, scorer.confidence(traces)


def _check_origin(bundle: Bundle, traces: Traces) -> None:
    if bundle.fingerprint != traces.origin.fingerprint:
        raise EdgeVqaError(
            f"these traces are of another bundle or vision tower ({traces.origin.model})",
            f"collect traces of {bundle.name}",
        )


@dataclass(frozen=True, eq=False)
class Limits:
    """What is asked of operating points beside a risk. unfamiliar: the share of familiar pictures that may be refused as
    foreign; builds: traces of the same questions on builds of llama.cpp for several processors, the first one that which the
    calibration traces are of: what they differ by is added to every threshold (`margin_of`); foreign: traces of sets of
    foreign pictures, by which it is said what holds where a share `share` of the questions is about such."""

    unfamiliar: float = UNFAMILIAR
    builds: Sequence[Traces] = ()
    foreign: Sequence[Traces] = ()
    share: float = 0.05


def choose(
    bundle: Bundle,
    traces: Traces,
    risks: Sequence[float],
    delta: float,
    default: float,
    *,
    method: str | None = None,
    limits: Limits = Limits(),
) -> Manifest:
    """The bundle's manifest with operating points of a method (default: the one that the bundle uses), chosen on `traces`.

    What is answered is so by two limits, one on the familiarity, fixed beforehand, and one on the confidence. The walk over the
    pairs is over the latter, and answers less and less: the guarantee stays exact (`threshold`).
    """
    _refuse_dependent(traces)
    _check_origin(bundle, traces)
    scorer = Scorer(bundle, method)
    name, kept = scorer.method.name, scorer.kept(traces, limits.unfamiliar)
    common = _Common(scorer.method, traces.origin.data, delta, default, limits.unfamiliar if scorer.estimate else None)
    points = _points(common, kept[None], traces.accuracy[None], risks)
    if limits.builds:
        builds = [scorer.kept(build, limits.unfamiliar) for build in limits.builds]
        points = [_with_margin(point, kept, builds) for point in points]
    if limits.foreign:
        strangers = [scorer.kept(others, limits.unfamiliar) for others in limits.foreign]
        points = [_with_foreign(point, kept, strangers, limits) for point in points]
    counts, _ = np.histogram(kept.clip(0), HISTOGRAM, (0, 1))  # an unfamiliar picture counts as confidence 0
    seen = Calibration(name, traces.origin.data, len(traces), tuple(int(count) for count in counts))
    rest = without(bundle.manifest, name)
    return dataclasses.replace(
        rest,
        runtime=dataclasses.replace(rest.runtime, llama_cpp_python=traces.origin.llama_cpp_python),
        operating_points=(*rest.operating_points, *points),
        calibration=(*rest.calibration, seen),
    )


def margin_of(threshold: float, builds: Sequence[Numbers]) -> float:
    """How far above a threshold a confidence must be on any build so that on the first one it is above the bare threshold, but
    for one question in a thousand. builds: confidences [n] of the same questions."""
    first, *others = builds
    over = [np.where(first < threshold, (other - threshold).clip(0), 0) for other in others]
    return max((float(np.quantile(values, 0.999, method="higher")) for values in over), default=0.0)


def _with_margin(point: OperatingPoint, kept: Numbers, builds: Sequence[Numbers]) -> OperatingPoint:
    if point.threshold is None:
        return point
    margin = margin_of(point.threshold, builds)
    threshold = min(1.0, point.threshold + margin)
    return dataclasses.replace(point, threshold=threshold, coverage=round(float((kept >= threshold).mean()), 4), margin=margin)


def _with_foreign(point: OperatingPoint, kept: Numbers, foreign: Sequence[Numbers], limits: Limits) -> OperatingPoint:
    """What holds where a share of the questions is about foreign pictures."""
    threshold = point.threshold
    if threshold is None:
        return point
    errors = [
        (math.ceil(float((1 - traces.accuracy) @ (values >= threshold)) - 1e-6), len(values))
        for traces, values in zip(limits.foreign, foreign, strict=True)
    ]
    wrong, worst = worst_foreign(errors, point.delta / 2)
    risk = contaminated_risk(point.risk, float((kept >= threshold).mean()), len(kept), wrong, limits.share, point.delta / 2)
    data = limits.foreign[worst].origin.data
    held = Foreign(limits.share, round(risk, 4), 2 * point.delta, round(wrong, 4), data, errors[worst][1])
    return dataclasses.replace(point, foreign=held)


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
    limits: Limits = Limits(),
) -> tuple[Manifest, Cascade]:
    """The bundle's manifest with operating points of two looks together, and these. Both looks saw the same questions.

    One threshold serves both looks, so both must use the same confidence method.
    """
    if not np.array_equal(traces.question_id, second.traces.question_id):
        raise EdgeVqaError("the traces of the two looks are not of the same questions", "collect both from one questions file")
    _refuse_dependent(traces)
    _check_origin(bundle, traces)
    first = Scorer(bundle, method)
    kept = [first.kept(traces, limits.unfamiliar)]
    _check_origin(second.bundle, second.traces)
    again = Scorer(second.bundle, first.method.name)
    kept.append(again.kept(second.traces, limits.unfamiliar))
    limit = limits.unfamiliar if first.estimate or again.estimate else None
    common = _Common(again.method, traces.origin.data, delta, default, limit)
    points = _points(common, np.stack(kept), np.stack([traces.accuracy, second.traces.accuracy]), risks)
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


@dataclass(frozen=True)
class _Common:
    """What the points of a method share. familiarity: the least that is answered about."""

    method: Confidence
    data: str
    delta: float
    default: float
    familiarity: float | None


def _points(common: _Common, confidence: Numbers, accuracy: Array, risks: Sequence[float]) -> list[OperatingPoint]:
    """One for each risk, from [looks, n]."""
    points = []
    for risk in risks:
        threshold = select_threshold(confidence, accuracy, risk, common.delta, calibrated=common.method.calibrated)
        points.append(
            OperatingPoint(
                risk=risk,
                delta=common.delta,
                threshold=threshold,
                method=METHOD,
                n=confidence.shape[1],
                data=common.data,
                coverage=0.0 if threshold is None else round(float((confidence.max(0) >= threshold).mean()), 4),
                confidence=common.method.name,
                default=risk == common.default,
                familiarity=common.familiarity,
            )
        )
    return points

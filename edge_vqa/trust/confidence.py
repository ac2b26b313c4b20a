"""How sure: every confidence method behind one interface, each usable by name (`METHODS`). A new method is one class.

All of them read features (`trace.features`), so that the device, calibration and the study score on one path.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edge_vqa.bundles.manifest import Temperature
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.trust import trace as traces
from edge_vqa.trust.estimator import Estimator, Features
from edge_vqa.trust.trace import STATISTICS, Array, Trace

Floats: TypeAlias = npt.NDArray[np.float64]


class Confidence:
    """Estimates the probability that an answer is correct.

    An `early` method reads only what is known before the second token is decoded (`trace.EARLY`). What a `calibrated` one
    says is meant as a probability; others only rank.
    """

    name: str
    early = False
    calibrated = False

    def score_features(self, features: Features) -> Array:
        """Confidence [n], each in [0, 1], of n traces from their features [n, d]."""
        raise NotImplementedError

    def score(self, trace: Trace) -> float:
        return float(self.score_features(traces.features(trace))[0])


def _statistic(features: Features, name: str) -> Floats:
    return features["statistics"][:, STATISTICS.index(name)].astype(np.float64)


def _float32(values: Floats) -> Array:
    return np.asarray(values, np.float32)


class MaxProb(Confidence):
    """Probability of the greedy answer under the model itself: exp(sum of log p), end token included.

    Hendrycks and Gimpel, ICLR 2017, section 2, over a sequence.
    """

    name = "maxprob"

    def score_features(self, features: Features) -> Array:
        return _float32(np.exp(_statistic(features, "joint_logprob")))


class MeanLogprob(Confidence):
    """Geometric mean of the tokens' probabilities: long answers are not thought unsure for their length.

    Malinin and Gales, ICLR 2021, section 3 (length-normalised).
    """

    name = "mean-logprob"

    def score_features(self, features: Features) -> Array:
        return _float32(np.exp(_statistic(features, "mean_logprob")))


class Entropy(Confidence):
    """exp(-H), H the mean entropy (nats) of the tokens' distributions; Malinin and Gales, ICLR 2021, section 3."""

    name = "entropy"

    def score_features(self, features: Features) -> Array:
        return _float32(np.exp(-_statistic(features, "mean_entropy")))


class Margin(Confidence):
    """1 - p2 / p1 at the token where the runner-up p2 comes closest to the best p1; Scheffer et al., IDA 2001 (the margin)."""

    name = "margin"

    def score_features(self, features: Features) -> Array:
        return _float32(-np.expm1(-_statistic(features, "min_margin")))


class TemperatureScaling(Confidence):
    """Calibrated MaxProb: sigmoid(scale * logit(MaxProb) + bias), 1 / scale being the temperature.

    Guo et al., ICML 2017, section 4.2, with Platt's bias, because an answer's probability is that of a whole sequence. It
    ranks answers as MaxProb does.
    """

    name = "temperature"
    calibrated = True

    def __init__(self, values: Temperature) -> None:
        self.values = values

    def score_features(self, features: Features) -> Array:
        z = self.values.scale * logit(features) + self.values.bias
        return _float32(1 / (1 + np.exp(-z)))


def logit(features: Features) -> Floats:
    """log(p / (1 - p)) of MaxProb [n]; p is kept 1e-6 away from 0 and 1."""
    p = np.exp(_statistic(features, "joint_logprob")).clip(1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)))


class Selector(Confidence):
    """Extrinsic confidence: a trained estimator over the trace (Dancette et al., CVPR 2023). Raises as `Estimator` does."""

    name = "selector"
    calibrated = True
    role = "selector"

    def __init__(self, bundle: Bundle) -> None:
        self._estimate = Estimator(bundle, self.role, "confidence")

    def score_features(self, features: Features) -> Array:
        """See `Estimator`."""
        return self._estimate.score_features(features)


class SelectorEarly(Selector):
    """A Selector over picture, question and first-token distribution alone: the gate decides before an answer is decoded."""

    name = "selector-early"
    role = "selector_early"
    early = True


INTRINSIC: dict[str, type[Confidence]] = {method.name: method for method in (MaxProb, MeanLogprob, Entropy, Margin)}
METHODS = (*INTRINSIC, TemperatureScaling.name, Selector.name, SelectorEarly.name)


def choose(bundle: Bundle, name: str | None = None) -> Confidence:
    """A confidence method by name; without one, the best that the bundle has: Selector, temperature, MaxProb."""
    manifest = bundle.manifest
    if name is None:
        name = (
            Selector.name
            if "selector" in manifest.estimators
            else TemperatureScaling.name
            if manifest.temperature
            else "maxprob"
        )
    if name in INTRINSIC:
        return INTRINSIC[name]()
    lacks = f"{bundle.name} has no {name}"
    fit = "fit one to your questions: edge-vqa-selector fit"
    if name == TemperatureScaling.name:
        if manifest.temperature is None:
            raise EdgeVqaError(lacks, fit)
        return TemperatureScaling(manifest.temperature)
    for kind in (Selector, SelectorEarly):
        if name == kind.name:
            if kind.role not in manifest.estimators:
                raise EdgeVqaError(lacks, fit)
            return kind(bundle)
    raise EdgeVqaError(f"a confidence method {name!r} is unknown", f"use one of {', '.join(METHODS)}")

"""How sure: every confidence method behind one interface, each usable by name (`METHODS`). A new method is one class.

All of them read features (`trace.features`), so that the device, calibration and the study score on one path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_vqa.bundles import onnx_file
from edge_vqa.bundles.manifest import Temperature
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import onnx_runtime
from edge_vqa.trust import trace as traces
from edge_vqa.trust.trace import STATISTICS, Array, Trace

Features: TypeAlias = Mapping[str, Array]
Floats: TypeAlias = npt.NDArray[np.float64]
MAX_SELECTOR_BYTES = 16 * 2**20


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
    """Extrinsic confidence: a trained estimator over the trace, an ONNX graph (Dancette et al., CVPR 2023).

    Raises EdgeVqaError when the graph does not read, or was made for another LM, vision tower or feature schema.
    """

    name = "selector"
    calibrated = True
    role = "selector"

    def __init__(self, bundle: Bundle) -> None:
        info = bundle.manifest.selectors[self.role]
        path = bundle.files[self.role]
        again = "train and export the Selector for this bundle: edge-vqa-selector"
        if bundle.fingerprint != (info.lm_sha256, info.vision_sha256):
            raise EdgeVqaError(f"{path.name} was trained for another LM or vision tower", again)
        if info.schema != traces.SCHEMA:
            raise EdgeVqaError(f"{path.name} reads feature schema {info.schema}, this version writes {traces.SCHEMA}", again)
        if path.stat().st_size > MAX_SELECTOR_BYTES:
            raise EdgeVqaError(f"{path.name} is larger than {MAX_SELECTOR_BYTES >> 20} MB", again)
        onnx_file.check_selector(path)
        self._session: Any = onnx_runtime.open_session(path.read_bytes(), path.name, again)
        shapes = {i.name: i.shape[-1] for i in self._session.get_inputs()}
        stored = self._session.get_modelmeta().custom_metadata_map
        if shapes != info.dimensions or stored.get("lm_sha256") != info.lm_sha256:
            raise EdgeVqaError(f"{path.name} is not the Selector that bundle.json describes", again)
        self._inputs = tuple(shapes)

    def score_features(self, features: Features) -> Array:
        """A graph that yields no number yields 0: abstain."""
        try:
            values = self._session.run(["confidence"], {name: features[name] for name in self._inputs})[0].reshape(-1)
        except Exception as error:
            raise EdgeVqaError(
                f"the Selector does not fit this model ({str(error).splitlines()[0]})", "train it again for this bundle"
            ) from None
        return np.minimum(np.where(values > 0, values, np.float32(0)), np.float32(1))  # what is no number is not > 0 either


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
            if "selector" in manifest.selectors
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
            if kind.role not in manifest.selectors:
                raise EdgeVqaError(lacks, fit)
            return kind(bundle)
    raise EdgeVqaError(f"a confidence method {name!r} is unknown", f"use one of {', '.join(METHODS)}")

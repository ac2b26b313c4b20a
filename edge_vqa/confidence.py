"""How sure: MaxProb and the ONNX Selector behind one small interface. A new method is one class with `name` and `score`."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from edge_vqa import trace as traces
from edge_vqa.bundle import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.trace import Trace

MAX_SELECTOR_BYTES = 16 * 2**20


class Confidence(Protocol):
    """Estimates the probability that an answer is correct."""

    name: str

    def score(self, trace: Trace) -> float:
        """Confidence in [0, 1]."""
        ...


class MaxProb:
    """Intrinsic confidence: the probability of the greedy answer under the model itself."""

    name = "maxprob"

    def score(self, trace: Trace) -> float:
        return trace.maxprob


class Selector:
    """Extrinsic confidence: a trained estimator over the trace, an ONNX graph (Dancette et al., CVPR 2023).

    Raises EdgeVqaError when the graph does not read, or was made for another LM, vision tower or feature schema.
    """

    name = "selector"

    def __init__(self, bundle: Bundle) -> None:
        info = bundle.manifest.selector
        path = bundle.files["selector"]
        assert info is not None
        again = "train and export the Selector for this bundle: edge-vqa-selector"
        if bundle.fingerprint != (info.lm_sha256, info.vision_sha256):
            raise EdgeVqaError(f"{path.name} was trained for another LM or vision tower", again)
        if info.schema != traces.SCHEMA:
            raise EdgeVqaError(f"{path.name} reads feature schema {info.schema}, this version writes {traces.SCHEMA}", again)
        if path.stat().st_size > MAX_SELECTOR_BYTES:
            raise EdgeVqaError(f"{path.name} is larger than {MAX_SELECTOR_BYTES >> 20} MB", again)
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            # from bytes: a graph that points to files outside itself does not load
            self._session: Any = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception:
            raise EdgeVqaError(f"{path.name} is not an ONNX graph that can be loaded", again) from None
        shapes = {i.name: i.shape[-1] for i in self._session.get_inputs()}
        stored = self._session.get_modelmeta().custom_metadata_map
        if shapes != info.dimensions or stored.get("lm_sha256") != info.lm_sha256:
            raise EdgeVqaError(f"{path.name} is not the Selector that bundle.json describes", again)

    def score(self, trace: Trace) -> float:
        return float(self.score_features({name: value[None] for name, value in traces.features(trace).items()})[0])

    def score_features(self, features: dict[str, traces.Array]) -> traces.Array:
        """Confidence [n] of n traces from their features [n, d]. A graph that yields no number yields 0: abstain."""
        try:
            values = self._session.run(["confidence"], features)[0].reshape(-1)
        except Exception as error:
            raise EdgeVqaError(
                f"the Selector does not fit this model ({str(error).splitlines()[0]})", "train it again for this bundle"
            ) from None
        return np.asarray(np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0), np.float32)

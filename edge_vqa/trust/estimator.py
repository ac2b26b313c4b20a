"""A small ONNX graph of a bundle that turns the features of traces into a number from 0 to 1: a Selector, or familiarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from edge_vqa.bundles import onnx_file
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import onnx_runtime
from edge_vqa.trust import trace as traces
from edge_vqa.trust.trace import Array

Features: TypeAlias = Mapping[str, Array]
MAX_BYTES = 16 * 2**20


class Estimator:
    """Raises EdgeVqaError when the graph does not read, or was made for another LM, vision tower or feature schema."""

    def __init__(self, bundle: Bundle, role: str, output: str) -> None:
        info, path = bundle.manifest.estimators[role], bundle.files[role]
        again = "fit it to this bundle: edge-vqa-selector fit"
        if bundle.fingerprint != (info.lm_sha256, info.vision_sha256):
            raise EdgeVqaError(f"{path.name} was trained for another LM or vision tower", again)
        if info.schema != traces.SCHEMA:
            raise EdgeVqaError(f"{path.name} reads feature schema {info.schema}, this version writes {traces.SCHEMA}", again)
        if path.stat().st_size > MAX_BYTES:
            raise EdgeVqaError(f"{path.name} is larger than {MAX_BYTES >> 20} MB", again)
        onnx_file.check_estimator(path)
        self._session: Any = onnx_runtime.open_session(path.read_bytes(), path.name, again)
        shapes = {i.name: i.shape[-1] for i in self._session.get_inputs()}
        stored = self._session.get_modelmeta().custom_metadata_map
        outputs = [o.name for o in self._session.get_outputs()]
        if shapes != info.dimensions or stored.get("lm_sha256") != info.lm_sha256 or outputs != [output]:
            raise EdgeVqaError(f"{path.name} is not what bundle.json describes", again)
        self._name, self._inputs, self._output = path.name, tuple(shapes), output

    def score_features(self, features: Features) -> Array:
        """Numbers [n] of features [n, d]. Where the graph yields none it is 0: abstain."""
        try:
            inputs = {name: features[name] for name in self._inputs}
            values = self._session.run([self._output], inputs)[0].reshape(-1)
        except Exception as error:
            raise EdgeVqaError(
                f"{self._name} does not fit this model ({str(error).splitlines()[0]})", "fit it again: edge-vqa-selector fit"
            ) from None
        return np.minimum(np.where(values > 0, values, np.float32(0)), np.float32(1))  # what is no number is not > 0 either

"""A vision tower in ONNX Runtime: a graph from `edge-vqa-convert --vision-backend onnx`, pixels in, embeddings out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import onnx_runtime
from edge_vqa.pictures.open import Rgb
from edge_vqa.vision.tokens import ImageTokens, Part, checked

AGAIN = "convert or download the bundle again"


def open_session(path: Path, preprocessing: Preprocessing, threads: int) -> Any:
    """The graph, loaded; may run beside llama.cpp's loading. Raises EdgeVqaError."""
    if preprocessing.method == "native":
        raise EdgeVqaError("only llama.cpp knows how this model cuts pictures", "use --vision mtmd")
    return onnx_runtime.open_session(path, path.name, AGAIN, threads=threads)


class OnnxTower:
    """Owns an ONNX Runtime session. The graph takes `pixels` uint8 [1, h, w, 3], and yields `embeddings` [tokens, n_embd]; it
    may also yield a `summary` [1, d], see `ImageTokens`."""

    def __init__(self, session: Any, path: Path, n_embd: int, preprocessing: Preprocessing) -> None:
        """session: of `open_session`. n_embd: width of the LM's input embeddings."""
        self._path, self._n_embd, self._preprocessing, self._session = path, n_embd, preprocessing, session
        inputs = [(i.name, i.type) for i in self._session.get_inputs()]
        outputs = {o.name: o.shape for o in self._session.get_outputs()}
        self._outputs = [name for name in ("embeddings", "summary") if name in outputs]
        fits = len(self._outputs) == len(outputs) and outputs.get("embeddings", [0])[-1] == n_embd
        if inputs != [("pixels", "tensor(uint8)")] or not fits:
            raise EdgeVqaError(f"{path.name} is not a vision tower for this LM", AGAIN)

    def encode(self, pixels: Rgb) -> list[Part]:
        """See `vision.Tower`."""
        pixels = checked(pixels)
        height, width, _ = pixels.shape
        try:
            embeddings, *rest = self._session.run(self._outputs, {"pixels": pixels[None]})
        except Exception as error:
            raise EdgeVqaError(f"the picture could not be encoded ({str(error).splitlines()[0]})", AGAIN) from None
        expected = self._preprocessing.tokens(width, height)
        if embeddings.shape != (expected, self._n_embd) or not np.isfinite(embeddings).all():
            raise EdgeVqaError(
                f"{self._path.name} makes {list(embeddings.shape)} of {width} x {height} pixels,"
                f" the bundle says {expected} tokens",
                AGAIN,
            )
        summary = rest[0].reshape(-1) if rest else None  # what is no number here, no picture is familiar with
        if self._preprocessing.method != "dynamic":
            return [ImageTokens(embeddings, None, expected, True, summary)]
        unit = self._preprocessing.tile
        rows, columns = height // unit, width // unit
        places = np.zeros((4, expected), np.int32)  # time, row, column, unused
        places[1], places[2] = np.divmod(np.arange(expected, dtype=np.int32), columns)
        return [ImageTokens(embeddings, places, max(rows, columns), True, summary)]

    def close(self) -> None:
        """See `vision.Tower`."""
        self._session = None

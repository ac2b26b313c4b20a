"""A vision tower in ONNX Runtime: a graph from `edge-vqa-convert --vision-backend onnx`, pixels in, embeddings out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import onnx_runtime
from edge_vqa.pictures.open import Rgb
from edge_vqa.vision.tokens import ImageTokens, Part, checked
from edge_vqa.vision.words import WordPiece

AGAIN = "convert or download the bundle again"
PRODUCTS = b"DynamicQuantizeMatMul"  # the operator that multiplies in 8 bits
NODES = 4 * 2**20  # bytes; a graph's nodes come first in its file, its weights behind them


def open_session(path: Path, preprocessing: Preprocessing, threads: int) -> Any:
    """The graph, loaded; may run beside llama.cpp's loading. Raises EdgeVqaError."""
    if preprocessing.method == "native":
        raise EdgeVqaError("only llama.cpp knows how this model cuts pictures", "use --vision mtmd")
    with path.open("rb") as stream:
        in_8_bits = PRODUCTS in stream.read(NODES)
    return onnx_runtime.open_session(path, path.name, AGAIN, threads=threads, in_8_bits=in_8_bits)


class OnnxTower:
    """Owns an ONNX Runtime session. The graph takes `pixels` uint8 [1, h, w, 3], and yields `embeddings` [tokens, n_embd]; it
    may also yield a `summary` [1, d], see `ImageTokens`; its metadata may say `attention: bidirectional`, for an LM in which
    the tokens of a picture see each other. One that reads the question also takes `seen` [pictures, n, width] and
    `question` int64 [1, words], and yields `features`, which is `seen` for the next question, with no pixels [0, h, w, 3]."""

    def __init__(self, session: Any, path: Path, n_embd: int, preprocessing: Preprocessing) -> None:
        """session: of `open_session`. n_embd: width of the LM's input embeddings."""
        self._path, self._n_embd, self._preprocessing, self._session = path, n_embd, preprocessing, session
        inputs = {i.name: i for i in self._session.get_inputs()}
        outputs = {o.name: o.shape for o in self._session.get_outputs()}
        self.reads = "question" in inputs
        last = "features" if self.reads else "summary"
        self._outputs = [name for name in ("embeddings", last) if name in outputs]
        fits = len(self._outputs) == len(outputs) and outputs.get("embeddings", [0])[-1] == n_embd
        wanted = {"pixels": "tensor(uint8)"}
        if self.reads:
            wanted |= {"seen": "tensor(float)", "question": "tensor(int64)"}
            fits = fits and last in self._outputs
        if {name: i.type for name, i in inputs.items()} != wanted or not fits:
            raise EdgeVqaError(f"{path.name} is not a vision tower for this LM", AGAIN)
        told = self._session.get_modelmeta().custom_metadata_map
        self._causal = told.get("attention") != "bidirectional"
        if self.reads:
            sides, seen = inputs["pixels"].shape[1:], inputs["seen"].shape[1:]
            if not all(isinstance(n, int) and 0 < n < 1 << 16 for n in (*sides, *seen)):
                raise EdgeVqaError(f"{path.name} takes pictures of no size", AGAIN)
            self._nothing = {
                "pixels": np.zeros((0, *sides), np.uint8),
                "seen": np.zeros((0, *seen), np.float32),
                "question": np.zeros((1, 0), np.int64),
            }
            self._words = WordPiece.of(told, path.name)

    def _run(self, **given: Any) -> list[Any]:
        feed = given if not self.reads else self._nothing | given
        try:
            made: list[Any] = self._session.run(self._outputs, feed)
        except Exception as error:
            raise EdgeVqaError(f"the picture could not be encoded ({str(error).splitlines()[0]})", AGAIN) from None
        return made

    def read(self, image: ImageTokens, text: str) -> ImageTokens:
        """See `vision.Tower`."""
        if image.features is None:
            return image
        embeddings, _ = self._run(seen=image.features[None], question=np.array([self._words.ids(text)], np.int64))
        return replace(image, embeddings=self._checked(embeddings, len(image.embeddings), "this question"))

    def _checked(self, embeddings: Any, expected: int, what: str) -> Any:
        if embeddings.shape != (expected, self._n_embd) or not np.isfinite(embeddings).all():
            raise EdgeVqaError(
                f"{self._path.name} makes {list(embeddings.shape)} of {what}, the bundle says {expected} tokens", AGAIN
            )
        return embeddings

    def encode(self, pixels: Rgb) -> list[Part]:
        """See `vision.Tower`."""
        pixels = checked(pixels)
        height, width, _ = pixels.shape
        embeddings, *rest = self._run(pixels=pixels[None])
        expected = self._preprocessing.tokens(width, height)
        self._checked(embeddings, expected, f"{width} x {height} pixels")
        if self.reads:
            return [ImageTokens(embeddings, None, expected, self._causal, features=rest[0][0])]
        summary = rest[0].reshape(-1) if rest else None  # what is no number here, no picture is familiar with
        if self._preprocessing.method != "dynamic":
            return [ImageTokens(embeddings, None, expected, self._causal, summary)]
        unit = self._preprocessing.tile
        rows, columns = height // unit, width // unit
        places = np.zeros((4, expected), np.int32)  # time, row, column, unused
        places[1], places[2] = np.divmod(np.arange(expected, dtype=np.int32), columns)
        return [ImageTokens(embeddings, places, max(rows, columns), self._causal, summary)]

    def close(self) -> None:
        """See `vision.Tower`."""
        self._session = None

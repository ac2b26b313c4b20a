"""Picture -> image embeddings: RGB pixels in, [n_tokens, n_embd] and their positions out; one interface over every backend.

`mtmd` is llama.cpp's own vision tower, from an mmproj gguf; `onnx` a graph for ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_vqa.bundle import BACKENDS, Preprocessing
from edge_vqa.errors import EdgeVqaError
from edge_vqa.picture import Rgb

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """What the LM sees of some pixels.

    embeddings: [n_tokens, n_embd]. positions: [4, n_tokens] from the first one on (time, row, column, unused), for LMs with
    M-RoPE, which take `n_positions` in all; None where tokens simply follow each other. causal: whether a token sees only
    those before it.
    """

    embeddings: Embeddings
    positions: npt.NDArray[np.int32] | None
    n_positions: int
    causal: bool


class Tower(Protocol):
    """What every backend does."""

    def encode(self, pixels: Rgb) -> list[list[int] | ImageTokens]:
        """Encode uint8 [h, w, 3]: one ImageTokens; where llama.cpp preprocesses, also the marker tokens it writes around."""

    def close(self) -> None:
        """Free what is native; safe to call twice."""


def open_tower(backend: str, path: Path, pixels: Preprocessing, threads: int) -> Callable[[Any, int], Tower]:
    """Begin to load a tower. What is returned ends it, given the LM's native handle and the width of its input embeddings: a
    graph loads while the LM does. Raises EdgeVqaError, either of them."""
    if backend == "mtmd":
        from edge_vqa.vision_mtmd import MtmdTower

        return lambda model, n_embd: MtmdTower(path, model, n_embd, pixels, threads)
    if backend == "onnx":
        from edge_vqa.vision_onnx import OnnxTower, open_session

        helper = ThreadPoolExecutor(1)
        session = helper.submit(open_session, path, pixels, threads)
        helper.shutdown(wait=False)
        return lambda _, n_embd: OnnxTower(session.result(), path, n_embd, pixels)
    raise EdgeVqaError(f"a vision backend {backend!r} is unknown", f"use one of {', '.join(BACKENDS)}")


def checked(pixels: Rgb) -> Rgb:
    """The pixels, contiguous. Raises ValueError for an array that is none."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels are uint8 [h, w, 3], not {pixels.dtype} {list(pixels.shape)}")
    return np.ascontiguousarray(pixels)

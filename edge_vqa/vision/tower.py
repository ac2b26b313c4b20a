"""Picture -> image embeddings: RGB pixels in, [n_tokens, n_embd] and their positions out; one interface over every backend.

`mtmd` is llama.cpp's own vision tower, from an mmproj gguf; `onnx` a graph for ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edge_vqa.bundles.manifest import BACKENDS, Preprocessing
from edge_vqa.errors import EdgeVqaError
from edge_vqa.vision.tokens import Tower


def open_tower(backend: str, path: Path, pixels: Preprocessing, threads: int) -> Callable[[Any, int], Tower]:
    """Begin to load a tower. What is returned ends it, given the LM's native handle and the width of its input embeddings: a
    graph loads while the LM does. Raises EdgeVqaError, either of them."""
    if backend == "mtmd":
        from edge_vqa.vision.mtmd import MtmdTower

        return lambda model, n_embd: MtmdTower(path, model, n_embd, pixels, threads)
    if backend == "onnx":
        from edge_vqa.vision.onnx import OnnxTower, open_session

        helper = ThreadPoolExecutor(1)
        session = helper.submit(open_session, path, pixels, threads)
        helper.shutdown(wait=False)
        return lambda _, n_embd: OnnxTower(session.result(), path, n_embd, pixels)
    raise EdgeVqaError(f"a vision backend {backend!r} is unknown", f"use one of {', '.join(BACKENDS)}")

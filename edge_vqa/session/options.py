"""How a bundle is run: what the user may choose when it is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from edge_vqa.errors import require
from edge_vqa.llm.threads import Threads
from edge_vqa.vision.cache import KEPT


@dataclass(frozen=True)
class Options:
    """How a bundle is run.

    confidence: the method that gates, one of `confidence.METHODS` (default: the best that the bundle has). `selector-early`
    decides after the first token: it abstains without decoding an answer, and the tokens of an answer it trusts are final.

    device: the name of a device profile (default: that of this machine), which settles what is not given here. vision: the
    backend of the vision tower, `mtmd` or `onnx` (default: what the bundle has; of both, the faster one here, measured
    once). threads: CPU threads (default: what was measured on this device, else by the size of the LM). context: tokens of the
    KV cache (default: room for the largest picture), at most what the LM was trained for. kv_type: f16, f32 (which also makes
    attention exact) or q8_0; thresholds hold for f16. gpu_layers: layers of the LM on a GPU, -1 for all. sequences: questions
    that `ask_many` may answer together (None: what was measured on this device). memory_limit: bytes (default: a share of what
    is free); a bundle that would need more is refused before it is loaded. watch: count confidences for
    the drift watch (`watch.py`; default: when $EDGE_VQA_WATCH is 1). pictures, cache_dir: how many encoded pictures to keep in
    memory (more than 8 within 64 MB), and a folder to keep them in. think: tokens of a thought before the answer, of models
    that think (default: the bundle's; 0: none, where the model can do without). then: a larger bundle, by name or path, that
    is loaded and asked where this one abstains.
    """

    confidence: str | None = None
    device: str | None = None
    vision: str | None = None
    threads: Threads | int | None = None
    context: int | None = None
    kv_type: str | None = None
    gpu_layers: int | None = None
    sequences: int | None = 1
    memory_limit: int | None = None
    watch: bool | None = None
    pictures: int = KEPT
    cache_dir: Path | None = None
    think: int | None = None
    then: str | Path | None = None

    def __post_init__(self) -> None:
        require(str, "a string", confidence=self.confidence, device=self.device, vision=self.vision, kv_type=self.kv_type)
        require((Threads, Integral), "Threads or a whole number", threads=self.threads)
        numbers = {"context": self.context, "gpu_layers": self.gpu_layers, "sequences": self.sequences}
        require(Integral, "a whole number", **numbers, think=self.think, memory_limit=self.memory_limit, pictures=self.pictures)
        require((str, os.PathLike), "a path", cache_dir=self.cache_dir, then=self.then)

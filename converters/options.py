"""What the user chose of a conversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_vqa.bundles import manifest as manifests

VISION_BACKENDS = {name: (role,) for name, role in manifests.BACKENDS.items()} | {"both": manifests.TOWERS}  # -> roles of files
VISION_TYPES = ("f32", "f16", "q8_0", "q4_0")  # never bf16: some runtimes cannot read it there
RECOVER_BY = ("weights", "gains", "closed-form")
Progress = Callable[[str, int, int], None]  # step, parts done, parts in all


@dataclass(frozen=True)
class Recovery:
    """What the user chose of a recovery. questions: a file, answers are not needed. state: a folder for the teacher's answers,
    which stay there. teacher: other than the source."""

    questions: Path
    by: str = "weights"
    minutes: float = 30.0
    state: Path | None = None
    teacher: Path | None = None


@dataclass(frozen=True)
class Options:
    """What the user chose. name and description go into the manifest."""

    quant: str = "rtn:q4_k_m"
    vision_type: str = "q8_0"
    vision_backend: str | None = None  # None: llama.cpp's, where it has one
    onnx_type: str = "int8"
    name: str | None = None
    version: str = "1"
    licence: str = "unknown"
    description: str = ""
    source: str | None = None
    revision: str = ""
    instruction: str = ""
    max_tokens: int = 32
    detail: str = "low"
    threads: int = 1
    force: bool = False
    single: bool = False  # asked about one picture at a time, whatever its kind can
    chat_template: str | None = None  # replaces the checkpoint's
    mmproj: Path | None = None  # of a gguf pair
    calibration: Path | None = None  # QUESTIONS.jsonl
    recover: Recovery | None = None

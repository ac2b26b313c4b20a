"""Round to nearest: llama.cpp's own `llama_model_quantize`, without calibration data."""

from __future__ import annotations

from pathlib import Path

from edge_vqa import native
from edge_vqa.errors import EdgeVqaError

# name -> llama_ftype
TYPES = {"q8_0": 7, "q4_0": 2, "q4_1": 3, "q4_k_m": 15, "q3_k_m": 12}


def quantise(source: Path, target: Path, type_: str, threads: int) -> None:
    """Quantise a float gguf. Rows that do not fit a K-type's blocks of 256 fall back to another type, as llama.cpp chooses."""
    llama, _ = native.bindings()
    params = llama.llama_model_quantize_default_params()
    params.ftype = TYPES[type_]
    params.nthread = threads
    status = llama.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    if status != 0:
        raise EdgeVqaError(
            f"llama.cpp could not quantise to {type_} ({native.last_complaint() or f'status {status}'})",
            "choose another --quant",
        )

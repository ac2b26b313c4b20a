"""Weights <-> ggml's blocks, by llama.cpp's own code; knows nothing of models.

`llama_model_quantize` calls the same `ggml_quantize_chunk`, row by row, so the bytes are the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import gguf
import numpy as np
import numpy.typing as npt

from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import bindings, blocks

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
_CHUNK = 1 << 20  # weights a task: large enough for the call, small enough to share


@cache
def _library() -> ctypes.CDLL:
    library = bindings.ggml()
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library


def kind(type_: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[type_.upper()]


def block(type_: str) -> tuple[int, int]:
    """Weights in a block, and its bytes."""
    weights, size = gguf.GGML_QUANT_SIZES[kind(type_)]
    return int(weights), int(size)


def fits(type_: str, shape: tuple[int, ...]) -> bool:
    """Whether rows of this length can be stored in blocks of this type."""
    return shape[-1] % block(type_)[0] == 0


def quantise(values: Floats, type_: str, *, importance: Floats | None = None, threads: int = 1) -> Bytes:
    """float32 [..., n] -> uint8 [..., bytes of a row].

    importance: float32 [n], positive: how much an error in each input channel matters (llama.cpp's imatrix); types without
    a search ignore it.
    """
    n = values.shape[-1]
    weights, size = block(type_)
    if n % weights:
        raise EdgeVqaError(f"rows of {n} weights do not fit blocks of {weights} ({type_})", "choose another --quant")
    flat = np.ascontiguousarray(values, np.float32).reshape(-1, n)
    out = np.empty((len(flat), n // weights * size), np.uint8)
    if type_ == "f32":
        return flat.view(np.uint8).reshape(*values.shape[:-1], -1)
    library, number = _library(), int(kind(type_))
    importance = None if importance is None else np.ascontiguousarray(importance, np.float32)

    def run(first: int, last: int) -> None:
        library.ggml_quantize_chunk(
            number,
            flat[first:last].ctypes.data,
            out[first:last].ctypes.data,
            0,
            last - first,
            n,
            None if importance is None else importance.ctypes.data,
        )

    in_parts(run, len(flat), max(1, _CHUNK // n), threads)
    return out.reshape(*values.shape[:-1], -1)


def in_parts(run: Callable[[int, int], None], total: int, most: int, threads: int) -> None:
    """run(first, last) over 0..total in parts of at most `most`, shared between threads: numpy and ggml release the GIL."""
    size = max(1, min(most, -(-total // threads)))  # a part for each thread at least
    parts = [(first, min(first + size, total)) for first in range(0, total, size)]
    if threads == 1 or len(parts) == 1:
        for part in parts:
            run(*part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda part: run(*part), parts))


def packed(codes: Bytes, *scales: Floats) -> Bytes:
    """Blocks of 32 4-bit codes [n, 32]: scales [n, 1] as float16, then 16 bytes, the first 16 codes in their lower halves."""
    heads = np.concatenate(scales, 1).astype(np.float16).view(np.uint8)
    return np.concatenate([heads, codes[:, :16] | (codes[:, 16:] << 4)], 1)


def dequantise(data: Bytes, type_: str) -> Floats:
    """uint8 [..., bytes of a row] -> float32 [..., n], as llama.cpp reads it."""
    weights, size = block(type_)
    return blocks.floats(data, int(kind(type_)), data.shape[-1] // size * weights)

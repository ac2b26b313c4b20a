"""ggml's blocks of a type -> numbers, by llama.cpp's own code."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from edge_vqa.native import bindings


class _Traits(ctypes.Structure):
    """The head of `struct ggml_type_traits` (ggml.h)."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def floats(data: npt.NDArray[np.uint8], kind: int, width: int) -> npt.NDArray[np.float32]:
    """uint8 [..., bytes of a row] of ggml type number `kind` -> float32 [..., width]."""
    data = np.ascontiguousarray(data)
    if kind == 0:  # GGML_TYPE_F32
        return data.view(np.float32)
    library = bindings.ggml()
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    out = np.empty((*data.shape[:-1], width), np.float32)
    library.ggml_get_type_traits(kind).contents.to_float(data.ctypes.data, out.ctypes.data, out.size)
    return out

"""What a graph's nodes look like to those who watch it run."""

from __future__ import annotations

import ctypes

_MAX_SRC = 10


class Tensor(ctypes.Structure):
    """The head of `struct ggml_tensor` (ggml.h), up to `src`."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _MAX_SRC),
    )

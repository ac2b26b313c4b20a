"""Watches the nodes of llama.cpp's graphs while they run, and reads and writes their tensors, wherever these lie."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vqa.native import bindings

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


class Watcher:
    """What is called for each node of a graph. `callback` is for `cb_eval`; the watcher must live as long as the context."""

    def __init__(self) -> None:
        llama, _ = bindings.load()
        self._ggml = bindings.ggml()
        # not the bound method: with it watcher and callback would hold each other, and their memory
        this = weakref.ref(self)

        def watch(address: int, ask: bool, _: Any) -> bool:
            watcher = this()
            if watcher is None:
                return not ask
            if ask:
                return watcher.before(address)
            watcher.behind(address)
            return True

        self.callback = llama.ggml_backend_sched_eval_callback(watch)

    def before(self, address: int) -> bool:
        """Called before a node runs: whether to stop behind it. Where none stops, llama.cpp runs on without a pause."""
        raise NotImplementedError

    def behind(self, address: int) -> None:
        """Called when a node that was stopped behind has run."""

    def name(self, address: int) -> bytes:
        """What llama.cpp calls a tensor."""
        found: bytes = self._ggml.ggml_get_name(address)
        return found

    def op(self, node: Tensor) -> bytes:
        """What a node does, in llama.cpp's word: CONCAT, SCALE, ..."""
        found: bytes = self._ggml.ggml_op_name(node.op)
        return found

    def read(self, address: int, into: npt.NDArray[Any]) -> None:
        """Copy the first bytes of a tensor, as many as `into` has."""
        self._ggml.ggml_backend_tensor_get(address, into.ctypes.data, 0, into.nbytes)

    def write(self, address: int, values: npt.NDArray[Any]) -> bool:
        """Write the first bytes of a tensor, and see whether they are there."""
        self._ggml.ggml_backend_tensor_set(address, values.ctypes.data, 0, values.nbytes)
        found = np.empty_like(values)
        self.read(address, found)
        return np.array_equal(found, values)

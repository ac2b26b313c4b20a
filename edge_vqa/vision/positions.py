"""Puts the positions of InternVL's tower in the order of llama.cpp's graph.

llama.cpp (tools/mtmd/models/internvl.cpp) appends the class token behind the patches, but its converter leaves the class
token's position in front of theirs: each patch gets its neighbour's. A file of that kind keeps the batch dimension of its
positions; ours has none. The positions are turned round once, before the first node that reads them runs. A build that puts
the class token first is left alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_vqa.bundles.gguf_file import Header
from edge_vqa.bundles.ready import projector_of
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import bindings
from edge_vqa.native.tensor import Tensor

_CLASS, _POSITIONS = b"v.class_embd", b"v.position_embd.weight"


class PositionOrder:
    """`callback` is for mtmd's `cb_eval`; it must live as long as the context."""

    @staticmethod
    def concerns(header: Header) -> bool:
        """Whether this is a tower whose first position is the class token's."""
        shape, *_ = header.tensors.get(_POSITIONS.decode(), ((),))
        return projector_of(header) == "internvl" and len(shape) == 3

    def __init__(self, header: Header) -> None:
        llama, _ = bindings.load()
        self._ggml = bindings.ggml()
        self._behind = False  # the class token was appended in the graph that is about to run
        self._right = False  # or put in front, or positions are in their places
        self.callback = llama.ggml_backend_sched_eval_callback(self._before_node)

    def _before_node(self, address: Any, ask: bool, _: Any) -> bool:
        """Called with `ask` for every node before it runs; False lets llama.cpp run on without stopping at it."""
        if ask and not self._right:
            node = Tensor.from_address(int(address))
            sources = [int(source) for source in node.src[:2] if source]
            if self._ggml.ggml_op_name(node.op) == b"CONCAT" and self._is_class(sources[0]):
                self._right = True
            elif self._ggml.ggml_op_name(node.op) == b"CONCAT" and self._is_class(sources[1]):
                self._behind = True
            elif self._behind:
                for source in sources:
                    if self._ggml.ggml_get_name(source) == _POSITIONS:
                        self._turn(source)
        return not ask

    def _is_class(self, address: int) -> bool:
        """Whether a tensor is the class token, or made of it alone."""
        first = Tensor.from_address(address).src[0]
        return _CLASS in (self._ggml.ggml_get_name(address), self._ggml.ggml_get_name(first) if first else b"")

    def _turn(self, address: int) -> None:
        """Put the first row behind the others, wherever the tensor lies, and see that it is there."""
        tensor = Tensor.from_address(address)
        rows = np.empty((int(tensor.ne[1]), int(tensor.nb[1])), np.uint8)
        self._ggml.ggml_backend_tensor_get(address, rows.ctypes.data, 0, rows.nbytes)
        turned = np.roll(rows, -1, 0)
        self._ggml.ggml_backend_tensor_set(address, turned.ctypes.data, 0, turned.nbytes)
        self._ggml.ggml_backend_tensor_get(address, rows.ctypes.data, 0, rows.nbytes)
        self._right = np.array_equal(rows, turned)

    def check(self) -> None:
        """After a picture was encoded: raises EdgeVqaError where the graph was not seen to be right."""
        if not self._right:
            raise EdgeVqaError(
                "this model's positions are not in the order of llama.cpp's graph, and here they could not be put in it",
                "convert a float pair, or the checkpoint, with edge-vqa-convert",
            )

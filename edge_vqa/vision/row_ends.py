"""Gives the rows of Pixtral's pictures a sound end in llama.cpp's graph.

llama.cpp (tools/mtmd/models/pixtral.cpp) makes room for the embeddings that end rows by scaling memory that nothing was written
to by 0: where that happens to hold a NaN, the whole picture becomes one. What comes of the scaling is set to 0 here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_vqa.bundles.gguf_file import Header
from edge_vqa.bundles.ready import ROW_END
from edge_vqa.native import bindings
from edge_vqa.native.tensor import Tensor


class RowEnds:
    """`callback` is for mtmd's `cb_eval`; it must live as long as the context."""

    @staticmethod
    def concerns(header: Header) -> bool:
        """Whether this is a tower that ends rows."""
        return ROW_END in header.tensors

    def __init__(self, header: Header) -> None:
        llama, _ = bindings.load()
        self._ggml = bindings.ggml()
        self.callback = llama.ggml_backend_sched_eval_callback(self._node)

    def _node(self, address: Any, ask: bool, _: Any) -> bool:
        """Called with `ask` before a node runs: whether to stop behind it; and then again, when it has run."""
        node = Tensor.from_address(int(address))
        if node.op_params[0] != 0 or self._ggml.ggml_op_name(node.op) != b"SCALE":
            return not ask
        if not ask:
            zeros = np.zeros([*node.ne][::-1], np.float32)
            self._ggml.ggml_backend_tensor_set(address, zeros.ctypes.data, 0, zeros.nbytes)
        return True

    def check(self) -> None:
        """There is nothing to look for: a graph that scales nothing by 0 is sound."""

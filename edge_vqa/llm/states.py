"""The final hidden states of an LM whose graph gives either these or logits (LFM2), read from the graph while it runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vqa.native import bindings
from edge_vqa.native.tensor import Tensor

ARCHITECTURES = (b"lfm2", b"lfm2moe")
_NAME = b"result_norm"  # of the node that the output matrix is applied to


class LastStates:
    """`callback` is for a context's `cb_eval`; it must live as long as the context."""

    def __init__(self, width: int) -> None:
        llama, _ = bindings.load()
        self._ggml, self._width = bindings.ggml(), width
        self._rows: list[npt.NDArray[np.float32]] | None = None
        self.callback = llama.ggml_backend_sched_eval_callback(self._node)

    def begin(self) -> None:
        """From here on rows are kept."""
        self._rows = []

    def take(self) -> npt.NDArray[np.float32]:
        """The rows [n, width] since `begin`."""
        rows, self._rows = self._rows or [], None
        return np.concatenate(rows)

    def _node(self, address: Any, ask: bool, _: Any) -> bool:
        """Called with `ask` before each node: whether to stop behind it; and then again, when it is there."""
        if self._rows is None or self._ggml.ggml_get_name(address) != _NAME:
            return not ask
        if not ask:
            made = np.empty((Tensor.from_address(int(address)).ne[1], self._width), np.float32)
            self._ggml.ggml_backend_tensor_get(address, made.ctypes.data, 0, made.nbytes)
            self._rows.append(made)
        return True

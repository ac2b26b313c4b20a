"""The final hidden states of an LM whose graph gives either these or logits (LFM2), read from the graph while it runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_vqa.native.graph import Tensor, Watcher

ARCHITECTURES = (b"lfm2", b"lfm2moe")
_NAME = b"result_norm"  # of the node that the output matrix is applied to


class LastStates(Watcher):
    """See `Watcher`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width
        self._rows: list[npt.NDArray[np.float32]] | None = None

    def begin(self) -> None:
        """From here on rows are kept."""
        self._rows = []

    def take(self) -> npt.NDArray[np.float32]:
        """The rows [n, width] since `begin`."""
        rows, self._rows = self._rows or [], None
        return np.concatenate(rows)

    def before(self, address: int) -> bool:
        """See `Watcher`."""
        return self._rows is not None and self.name(address) == _NAME

    def behind(self, address: int) -> None:
        """See `Watcher`."""
        assert self._rows is not None
        self._rows.append(np.empty((Tensor.from_address(address).ne[1], self._width), np.float32))
        self.read(address, self._rows[-1])

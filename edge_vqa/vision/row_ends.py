"""Gives the rows of Pixtral's pictures a sound end in llama.cpp's graph.

llama.cpp (tools/mtmd/models/pixtral.cpp) makes room for the embeddings that end rows by scaling memory that nothing was written
to by 0: where that happens to hold a NaN, the whole picture becomes one. What comes of the scaling is set to 0 here.
"""

from __future__ import annotations

import numpy as np

from edge_vqa.bundles.gguf_file import Header
from edge_vqa.bundles.ready import ROW_END
from edge_vqa.native.graph import Tensor, Watcher


class RowEnds(Watcher):
    """See `Watcher`; one of the `MENDS`."""

    @staticmethod
    def concerns(header: Header) -> bool:
        """Whether this is a tower that ends rows."""
        return ROW_END in header.tensors

    def __init__(self, header: Header) -> None:
        super().__init__()

    def before(self, address: int) -> bool:
        """See `Watcher`."""
        node = Tensor.from_address(address)
        return node.op_params[0] == 0 and self.op(node) == b"SCALE"

    def behind(self, address: int) -> None:
        """See `Watcher`."""
        self.write(address, np.zeros([*Tensor.from_address(address).ne][::-1], np.float32))

    def check(self) -> None:
        """There is nothing to look for: a graph that scales nothing by 0 is sound."""

"""Puts the positions of InternVL's tower in the order of llama.cpp's graph.

llama.cpp (tools/mtmd/models/internvl.cpp) appends the class token behind the patches, but its converter leaves the class
token's position in front of theirs: each patch gets its neighbour's. A file of that kind keeps the batch dimension of its
positions; ours has none. The positions are turned round once, before the first node that reads them runs. A build that puts
the class token first is left alone.
"""

from __future__ import annotations

import numpy as np

from edge_vqa.bundles.gguf_file import Header
from edge_vqa.bundles.ready import projector_of
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native.graph import Tensor, Watcher

_CLASS, _POSITIONS = b"v.class_embd", b"v.position_embd.weight"


class PositionOrder(Watcher):
    """See `Watcher`; one of the `MENDS`."""

    @staticmethod
    def concerns(header: Header) -> bool:
        """Whether this is a tower whose first position is the class token's."""
        shape, *_ = header.tensors.get(_POSITIONS.decode(), ((),))
        return projector_of(header) == "internvl" and len(shape) == 3

    def __init__(self, header: Header) -> None:
        super().__init__()
        self._behind = False  # the class token was appended in the graph that is about to run
        self._right = False  # or put in front, or positions are in their places

    def before(self, address: int) -> bool:
        """See `Watcher`."""
        if self._right:
            return False
        node = Tensor.from_address(address)
        sources = [int(source) for source in node.src[:2] if source]
        if self.op(node) == b"CONCAT" and self._is_class(sources[0]):
            self._right = True
        elif self.op(node) == b"CONCAT" and self._is_class(sources[1]):
            self._behind = True
        elif self._behind:
            for source in sources:
                if self.name(source) == _POSITIONS:
                    self._turn(source)
        return False

    def _is_class(self, address: int) -> bool:
        """Whether a tensor is the class token, or made of it alone."""
        first = Tensor.from_address(address).src[0]
        return _CLASS in (self.name(address), self.name(first) if first else b"")

    def _turn(self, address: int) -> None:
        """Put the first row behind the others."""
        tensor = Tensor.from_address(address)
        rows = np.empty((int(tensor.ne[1]), int(tensor.nb[1])), np.uint8)
        self.read(address, rows)
        self._right = self.write(address, np.roll(rows, -1, 0))

    def check(self) -> None:
        """After a picture was encoded: raises EdgeVqaError where the graph was not seen to be right."""
        if not self._right:
            raise EdgeVqaError(
                "this model's positions are not in the order of llama.cpp's graph, and here they could not be put in it",
                "convert a float pair, or the checkpoint, with edge-vqa-convert",
            )

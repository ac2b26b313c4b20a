"""Puts CLIP's class token in its place in llama.cpp's LLaVA graph.

llama.cpp (tools/mtmd/models/llava.cpp) appends the class embedding behind the patches, but numbers positions and picks
patches as if it stood before them: each patch gets its neighbour's position embedding, the first patch is lost, and the
class token is shown to the LM instead (https://github.com/ggml-org/llama.cpp/issues/25814). The two index tensors are
inputs of the graph, so they are rewritten before its first node runs. A build that puts the class token first is left
alone, and so is a tower without one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_vqa.bundles.gguf_file import Header
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native.graph import Tensor, Watcher

_CLASS = b"v.class_embd"


class ClassTokenOrder(Watcher):
    """See `Watcher`; one of the `MENDS`."""

    @staticmethod
    def concerns(header: Header) -> bool:
        """Whether this is a tower with a class token and LLaVA's projector."""
        return _CLASS.decode() in header.tensors and "mm.0.weight" in header.tensors

    def __init__(self, header: Header) -> None:
        super().__init__()
        self._behind = False  # the class token was appended in the graph that is about to run
        self._first = False  # or put in front
        self._written: set[str] = set()

    def before(self, address: int) -> bool:
        """See `Watcher`."""
        sources = [int(s) for s in Tensor.from_address(address).src[:2] if s]
        if len(sources) == 2:
            names = [self.name(source) for source in sources]
            if names[1] == _CLASS:
                self._behind, self._written = True, set()
            self._first = self._first or names[0] == _CLASS
            if self._behind and names[1].endswith((b"positions", b"positions#0")):
                n = int(Tensor.from_address(sources[1]).ne[0])
                self._put("positions", sources[1], np.array([*range(1, n), 0], np.int32))
            elif self._behind and names[1].endswith((b"patches", b"patches#0")):
                n = int(Tensor.from_address(sources[1]).ne[0])
                self._put("patches", sources[1], np.arange(n, dtype=np.int32))
        return False

    def _put(self, what: str, address: int, values: npt.NDArray[np.int32]) -> None:
        if self.write(address, values):
            self._written.add(what)

    def check(self) -> None:
        """After a picture was encoded: raises EdgeVqaError where the graph was not seen to be right."""
        if not self._first and not (self._behind and self._written == {"positions", "patches"}):
            raise EdgeVqaError(
                "llama.cpp misplaces this model's class token, and here it could not be put in its place",
                "convert the checkpoint with --vision-backend onnx",
            )

"""Changes parameters of nodes in llama.cpp's graphs of vision towers, before they run.

Gemma 4: llama.cpp's converter does not write which activation the tower has, GELU, and llama.cpp takes x * sigmoid(1.702 x).
PaddleOCR-VL: llama.cpp interpolates the positions of pictures smaller than the tower's own grid with antialiasing, the model
was trained without. A build that does neither is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_vqa.bundles.gguf_file import Header
from edge_vqa.bundles.ready import lost_gelu, projector_of
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native.graph import Tensor, Watcher

_GEGLU, _GEGLU_QUICK = 1, 5  # of enum ggml_glu_op (ggml.h)
_ANTIALIAS = 1 << 9  # of enum ggml_scale_flag


@dataclass(frozen=True)
class _Change:
    """concerns: a tower; operator: of the nodes; change: of their first parameter; always: whether every picture's graph has
    such nodes."""

    concerns: Callable[[Header], bool]
    operator: bytes
    change: Callable[[int], int]
    always: bool


_CHANGES = (
    _Change(lost_gelu, b"GLU", lambda kind: _GEGLU if kind == _GEGLU_QUICK else kind, True),
    _Change(lambda tower: projector_of(tower) == "paddleocr", b"UPSCALE", lambda mode: mode & ~_ANTIALIAS, False),
)


class Parameters(Watcher):
    """See `Watcher`; one of the `MENDS`."""

    @staticmethod
    def concerns(header: Header) -> bool:
        """Whether a tower is one of those above."""
        return any(change.concerns(header) for change in _CHANGES)

    def __init__(self, header: Header) -> None:
        super().__init__()
        self._change = next(change for change in _CHANGES if change.concerns(header))
        names = [self._ggml.ggml_glu_op_name(op) for op in (_GEGLU, _GEGLU_QUICK)]
        self._right = names == [b"GEGLU", b"GEGLU_QUICK"]  # else the numbers above are another version's
        self._seen = not self._change.always

    def before(self, address: int) -> bool:
        """See `Watcher`."""
        node = Tensor.from_address(address)
        if self._right and self.op(node) == self._change.operator:
            node.op_params[0] = self._change.change(node.op_params[0])
            self._seen = True
        return False

    def check(self) -> None:
        """After a picture was encoded: raises EdgeVqaError where the graph was not seen to be right."""
        if not (self._right and self._seen):
            raise EdgeVqaError(
                "llama.cpp computes this vision tower otherwise than it was trained, and here that could not be changed",
                "use the version of llama-cpp-python that edge-vqa names",
            )

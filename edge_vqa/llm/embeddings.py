"""The embedding of an LM's tokens, row by row from its file: for an encoder, which takes a picture and text in one piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_vqa.bundles import gguf_file
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import blocks

_NAME = "token_embd.weight"


class TokenEmbeddings:
    """Maps the file; what is read of it are the rows asked for."""

    def __init__(self, path: Path) -> None:
        header = gguf_file.read(path)
        if _NAME not in header.tensors:
            raise EdgeVqaError(f"{path.name} holds no embeddings", "convert or download the bundle again")
        (rows, self._width), self._kind, size = header.tensors[_NAME]
        self._rows = np.memmap(path, np.uint8, "r", header.starts[_NAME], (rows, size // rows))

    def __call__(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Embeddings [len(tokens), width]."""
        return blocks.floats(self._rows[list(tokens)], self._kind, self._width)

"""What every vision tower takes and gives: RGB pixels in, image embeddings and their positions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_vqa.pictures.open import Rgb

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """What the LM sees of some pixels.

    embeddings: [n_tokens, n_embd]. positions: [4, n_tokens] from the first one on (time, row, column, unused), for LMs with
    M-RoPE, which take `n_positions` in all; None where tokens simply follow each other. causal: whether a token sees only
    those before it.
    """

    embeddings: Embeddings
    positions: npt.NDArray[np.int32] | None
    n_positions: int
    causal: bool


Part: TypeAlias = "list[int] | ImageTokens"  # of a prompt: what its tokenizer or its tower made


class Tower(Protocol):
    """What every backend does."""

    def encode(self, pixels: Rgb) -> list[Part]:
        """Encode uint8 [h, w, 3]: one ImageTokens; where llama.cpp preprocesses, also the marker tokens it writes around."""

    def close(self) -> None:
        """Free what is native; safe to call twice."""


def checked(pixels: Rgb) -> Rgb:
    """The pixels, contiguous. Raises ValueError for an array that is none."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels are uint8 [h, w, 3], not {pixels.dtype} {list(pixels.shape)}")
    return np.ascontiguousarray(pixels)

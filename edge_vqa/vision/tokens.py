"""What every vision tower takes and gives: RGB pixels in, image embeddings and their positions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    those before it. For judging how familiar the picture is: summary [d], what a tower may tell beside its tokens, and
    pixels, see `pixel_statistics`, which `Session` adds to the first of a picture. features: [n, width], of a tower that reads
    the question, what it makes of the picture alone.
    """

    embeddings: Embeddings
    positions: npt.NDArray[np.int32] | None
    n_positions: int
    causal: bool
    summary: Embeddings | None = None
    pixels: Embeddings | None = None
    features: Embeddings | None = None


Part: TypeAlias = "list[int] | ImageTokens"  # of a prompt: what its tokenizer or its tower made


def with_pixels(parts: Sequence[Part], pixels: Embeddings) -> list[Part]:
    """The parts, the first ImageTokens with the pixel statistics of the picture."""
    number = next(n for n, part in enumerate(parts) if isinstance(part, ImageTokens))
    first = parts[number]
    assert isinstance(first, ImageTokens)
    return [*parts[:number], replace(first, pixels=pixels), *parts[number + 1 :]]


class Tower(Protocol):
    """What every backend does. reads: what the LM sees of a picture hangs on the question."""

    reads: bool

    def encode(self, pixels: Rgb) -> list[Part]:
        """Encode uint8 [h, w, 3]: one ImageTokens; where llama.cpp preprocesses, also the marker tokens it writes around."""

    def read(self, image: ImageTokens, text: str) -> ImageTokens:
        """What the LM sees of an encoded picture under this text: the same, but of a tower that reads it."""

    def close(self) -> None:
        """Free what is native; safe to call twice."""


def checked(pixels: Rgb) -> Rgb:
    """The pixels, contiguous. Raises ValueError for an array that is none."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels are uint8 [h, w, 3], not {pixels.dtype} {list(pixels.shape)}")
    return np.ascontiguousarray(pixels)

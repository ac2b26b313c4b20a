"""Picture -> image embeddings, over llama.cpp's mtmd: one tile of RGB pixels in, [tile_tokens, n_embd] out."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vqa import native
from edge_vqa.bundle import Preprocessing
from edge_vqa.errors import EdgeVqaError
from edge_vqa.picture import Rgb

Embeddings = npt.NDArray[np.float32]


class VisionTower:
    """Owns an mtmd context. `model` is the handle of the loaded LM, whose embedding size must fit."""

    def __init__(self, path: Path, model: Any, n_embd: int, preprocessing: Preprocessing, threads: int) -> None:
        _, self._mtmd = native.bindings()
        self._preprocessing = preprocessing
        self._n_embd = n_embd
        params = self._mtmd.mtmd_context_params_default()
        params.n_threads = threads
        params.print_timings = False
        params.warmup = False
        # One tile's worth of tokens: mtmd then leaves a picture of exactly one tile as it is, whatever longest edge the
        # file names, and its own resize is the identity.
        params.image_max_tokens = preprocessing.tile_tokens
        self._context: int | None = self._mtmd.mtmd_init_from_file(str(path).encode(), model, params)
        if not self._context:
            raise EdgeVqaError(
                f"{path.name} is not a vision tower for this LM ({native.last_complaint() or 'llama.cpp refused it'})",
                "convert or download the bundle again",
            )
        fit = self._mtmd.mtmd_support_vision(self._context) and not (
            self._mtmd.mtmd_decode_use_mrope(self._context) or self._mtmd.mtmd_decode_use_non_causal(self._context, None)
        )
        if not fit:
            self.close()
            raise EdgeVqaError(f"{path.name} is of a kind that this version cannot run", "use an Idefics3 or SmolVLM bundle")
        self._marker: bytes = self._mtmd.mtmd_get_marker(self._context)

    def encode(self, tile: Rgb) -> Embeddings:
        """Encode one tile, uint8 [tile, tile, 3] -> float32 [tile_tokens, n_embd]."""
        side = self._preprocessing.tile
        if tile.shape != (side, side, 3) or tile.dtype != np.uint8:
            raise ValueError(f"a tile is uint8 [{side}, {side}, 3], not {tile.dtype} {list(tile.shape)}")
        mtmd = self._mtmd
        pixels = np.ascontiguousarray(tile)
        bitmap = mtmd.mtmd_bitmap_init(side, side, pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            text = mtmd.mtmd_input_text(text=self._marker, text_len=len(self._marker), add_special=False, parse_special=True)
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if mtmd.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1) != 0:
                raise self._failure("cut")
            # mtmd yields slices, then the overview: the last image chunk is the whole tile.
            images = [
                chunk
                for chunk in (mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks)))
                if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE
            ]
            n_tokens = mtmd.mtmd_input_chunk_get_n_tokens(images[-1]) if images else 0
            if n_tokens != self._preprocessing.tile_tokens:
                raise EdgeVqaError(
                    f"a tile makes {n_tokens} tokens, the bundle says {self._preprocessing.tile_tokens}",
                    "convert or download the bundle again",
                )
            if mtmd.mtmd_encode_chunk(self._context, images[-1]) != 0:
                raise self._failure("encoded")
            out = mtmd.mtmd_get_output_embd(self._context)
            # overwritten by the next call: copy
            return np.ctypeslib.as_array(out, (n_tokens, self._n_embd)).astype(np.float32, copy=True)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _failure(self, verb: str) -> EdgeVqaError:
        return EdgeVqaError(f"the picture could not be {verb} ({native.last_complaint()})", "run with --verbose to see why")

    def close(self) -> None:
        """Free the native context; safe to call twice."""
        if self._context:
            self._mtmd.mtmd_free(self._context)
            self._context = None

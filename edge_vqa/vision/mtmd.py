"""A vision tower in llama.cpp's mtmd, from an mmproj gguf."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from edge_vqa.bundles import gguf_file
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.errors import EdgeVqaError
from edge_vqa.native import bindings
from edge_vqa.pictures.open import Rgb
from edge_vqa.vision.class_token import ClassTokenOrder
from edge_vqa.vision.parameters import Parameters
from edge_vqa.vision.positions import PositionOrder
from edge_vqa.vision.row_ends import RowEnds
from edge_vqa.vision.tokens import ImageTokens, Part, checked

MENDS = (ClassTokenOrder, PositionOrder, Parameters, RowEnds)  # of llama.cpp's graphs; no tower needs two


class MtmdTower:
    """Owns an mtmd context. `model` is the loaded LM, whose embedding size must fit."""

    reads = False

    def __init__(self, path: Path, model: Any, n_embd: int, preprocessing: Preprocessing, threads: int) -> None:
        header = gguf_file.read(path)
        _, self._mtmd = bindings.load()
        self._preprocessing = preprocessing
        self._n_embd = n_embd
        self._mend = next((mend(header) for mend in MENDS if mend.concerns(header)), None)
        params = self._mtmd.mtmd_context_params_default()
        params.n_threads = threads
        params.print_timings = False
        params.warmup = False
        if self._mend is not None:
            params.cb_eval = self._mend.callback
        # Pillow has scaled the picture already: with these limits mtmd's own resize is the identity.
        if preprocessing.method == "tiles":
            params.image_max_tokens = preprocessing.tile_tokens
        elif preprocessing.method == "dynamic":
            params.image_min_tokens, params.image_max_tokens = 1, preprocessing.high_tokens
        self._context: int | None = self._mtmd.mtmd_init_from_file(str(path).encode(), model, params)
        if not self._context:
            raise EdgeVqaError(
                f"{path.name} is not a vision tower for this LM ({bindings.last_complaint() or 'llama.cpp refused it'})",
                "convert or download the bundle again",
            )
        if not self._mtmd.mtmd_support_vision(self._context):
            self.close()
            raise EdgeVqaError(f"{path.name} holds no vision tower", "use a bundle with one")
        self._marker: bytes = self._mtmd.mtmd_get_marker(self._context)

    def encode(self, pixels: Rgb) -> list[Part]:
        """See `vision.Tower`."""
        mtmd, method = self._mtmd, self._preprocessing.method
        pixels = checked(pixels)
        height, width, _ = pixels.shape
        bitmap = mtmd.mtmd_bitmap_init(width, height, pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            text = mtmd.mtmd_input_text(text=self._marker, text_len=len(self._marker), add_special=False, parse_special=True)
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if mtmd.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1) != 0:
                raise self._failure("cut")
            listed = [mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks))]
            if method == "native":
                return [self._tokens(chunk) if self._is_text(chunk) else self._encode(chunk) for chunk in listed]
            # Of what mtmd yields for Idefics3, slices and an overview, the last is the whole tile; others yield one image.
            images = [chunk for chunk in listed if not self._is_text(chunk)]
            n_tokens = mtmd.mtmd_input_chunk_get_n_tokens(images[-1]) if images else 0
            expected = self._preprocessing.tokens(width, height)
            if n_tokens != expected:
                raise EdgeVqaError(
                    f"{width} x {height} pixels make {n_tokens} tokens, the bundle says {expected}",
                    "convert or download the bundle again",
                )
            return [self._encode(images[-1])]
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def read(self, image: ImageTokens, text: str) -> ImageTokens:
        """See `vision.Tower`."""
        return image

    def _is_text(self, chunk: Any) -> bool:
        return bool(self._mtmd.mtmd_input_chunk_get_type(chunk) == self._mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT)

    def _tokens(self, chunk: Any) -> list[int]:
        n = ctypes.c_size_t()
        tokens = self._mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n))
        return [int(tokens[i]) for i in range(n.value)]

    def _encode(self, chunk: Any) -> ImageTokens:
        mtmd = self._mtmd
        if mtmd.mtmd_encode_chunk(self._context, chunk) != 0:
            raise self._failure("encoded")
        if self._mend is not None:
            self._mend.check()
        n = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        out = mtmd.mtmd_get_output_embd(self._context)
        # overwritten by the next call: copy
        embeddings = bindings.floats(out, n, self._n_embd).copy()
        positions = None
        if mtmd.mtmd_decode_use_mrope(self._context):
            image = mtmd.mtmd_input_chunk_get_tokens_image(chunk)
            listed = [mtmd.mtmd_image_tokens_get_decoder_pos(image, 0, i) for i in range(n)]
            positions = np.array([[p.t, p.y, p.x, p.z] for p in listed], np.int32).T
        return ImageTokens(
            embeddings=embeddings,
            positions=positions,
            n_positions=mtmd.mtmd_input_chunk_get_n_pos(chunk),
            causal=not mtmd.mtmd_decode_use_non_causal(self._context, chunk),
        )

    def _failure(self, verb: str) -> EdgeVqaError:
        return EdgeVqaError(f"the picture could not be {verb} ({bindings.last_complaint()})", "run with --verbose to see why")

    def close(self) -> None:
        """Free the native context; safe to call twice."""
        if self._context:
            self._mtmd.mtmd_free(self._context)
            self._context = None

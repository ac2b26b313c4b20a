"""Encoded pictures, kept for the next question on them: the last few in memory, more of them in a folder on request.

The key is a hash of the picture's pixels and the detail level, so that a changed file is another picture.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from edge_vqa.border.whole import write_bytes
from edge_vqa.errors import EdgeVqaError
from edge_vqa.pictures.open import Picture
from edge_vqa.vision.tokens import ImageTokens, Part

KEPT = 8  # pictures in memory: 0.1 to 6 MB each
MEMORY_BYTES = 64 * 2**20  # where more are asked for, beyond that no more than KEPT
FOLDER_BYTES = 512 * 2**20  # beyond that, what was used longest ago goes
_CAUSAL, _POSITIONS = 1, 2  # bits of what an entry says of an image


def key_of(picture: Picture, detail: str) -> bytes:
    """What tells pictures apart."""
    digest = hashlib.sha256(f"{detail} {picture.size}".encode())
    digest.update(np.ascontiguousarray(picture.rgb).data)
    for other in picture.more:
        digest.update(key_of(other, detail))
    return digest.digest()


class PictureCache:
    """The parts of a prompt up to and including the picture (`engine.Part`), by key. Not thread-safe.

    identity: everything beside picture and detail that they depend on (files of the bundle, backend, prompt, build). Entries of
    the folder are read with care: one that is damaged, or of another width than `n_embd`, does not count.
    """

    def __init__(self, identity: str, n_embd: int, kept: int = KEPT, folder: Path | None = None) -> None:
        self._identity, self._n_embd, self._kept, self._folder = identity, n_embd, kept, folder
        self._memory: OrderedDict[bytes, list[Part]] = OrderedDict()
        self._bytes = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise EdgeVqaError(f"{folder} cannot be made ({error.strerror})", "choose another --cache-dir") from None

    def get(self, key: bytes) -> list[Part] | None:
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        parts = self._read(key) if self._folder else None
        if parts is not None:
            self._remember(key, parts)
        return parts

    def put(self, key: bytes, parts: list[Part]) -> None:
        self._remember(key, parts)
        if self._folder is not None:
            # a cache that cannot be written only costs time
            with contextlib.suppress(EdgeVqaError, OSError):
                write_bytes(self._path(key), _packed(parts))
                self._make_room()

    def _remember(self, key: bytes, parts: list[Part]) -> None:
        self._bytes += _size(parts) - _size(self._memory.get(key, []))
        self._memory[key] = parts
        while len(self._memory) > self._kept or (self._bytes > MEMORY_BYTES and len(self._memory) > KEPT):
            self._bytes -= _size(self._memory.popitem(last=False)[1])

    def _path(self, key: bytes) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(self._identity.encode() + key).hexdigest()}.npz"

    def _read(self, key: bytes) -> list[Part] | None:
        path = self._path(key)
        try:
            parts = _unpacked(path.read_bytes(), self._n_embd)
            os.utime(path)  # used just now
            return parts
        except Exception:  # missing, or whatever hostile bytes do to a reader of zip files
            return None

    def _make_room(self) -> None:
        assert self._folder is not None
        entries = sorted(((s := path.stat()).st_mtime_ns, s.st_size, path) for path in self._folder.glob("*.npz"))
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= FOLDER_BYTES:
                break
            path.unlink(missing_ok=True)
            total -= size


def _size(parts: list[Part]) -> int:
    """Bytes of embeddings, which are nearly all."""
    return sum(part.embeddings.nbytes for part in parts if isinstance(part, ImageTokens))


def _packed(parts: list[Part]) -> bytes:
    arrays: dict[str, Any] = {}
    for number, part in enumerate(parts):
        if isinstance(part, ImageTokens):
            arrays[f"{number}_embeddings"] = part.embeddings
            bits = _CAUSAL * part.causal + _POSITIONS * (part.positions is not None)
            arrays[f"{number}_image"] = np.array([part.n_positions, bits], np.int32)
            if part.positions is not None:
                arrays[f"{number}_positions"] = part.positions
            about = {"pixels": part.pixels, "summary": part.summary, "features": part.features}
            arrays |= {f"{number}_{name}": values for name, values in about.items() if values is not None}
        else:
            arrays[f"{number}_tokens"] = np.array(part, np.int32)
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _unpacked(data: bytes, n_embd: int) -> list[Part]:
    """Raises anything for bytes that `_packed` did not write."""
    parts: list[Part] = []
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        while True:
            number = len(parts)
            if f"{number}_tokens" in stored:
                parts.append([int(token) for token in stored[f"{number}_tokens"]])
                continue
            if f"{number}_image" not in stored:
                break
            n_positions, bits = (int(v) for v in stored[f"{number}_image"])
            embeddings = stored[f"{number}_embeddings"]
            positions = stored[f"{number}_positions"] if bits & _POSITIONS else None
            fits = embeddings.dtype == np.float32 and embeddings.shape[1:] == (n_embd,) and np.isfinite(embeddings).all()
            if not fits or (positions is not None and positions.shape != (4, len(embeddings))):
                raise ValueError("another shape")
            names = ("summary", "pixels", "features")
            about = [stored[key] if (key := f"{number}_{name}") in stored else None for name in names]
            for name, values in zip(names, about, strict=True):
                wanted = 2 if name == "features" else 1
                if values is not None and (values.dtype != np.float32 or values.ndim != wanted):
                    raise ValueError("another shape")
            parts.append(ImageTokens(embeddings, positions, n_positions, bool(bits & _CAUSAL), *about))
    if not any(isinstance(part, ImageTokens) for part in parts):
        raise ValueError("no picture")
    return parts

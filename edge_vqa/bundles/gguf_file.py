"""Checks the structure of a gguf file before llama.cpp sees it, because llama.cpp aborts on some of what is wrong.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Only headers are read; weights are left to the checksum.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_vqa.errors import EdgeVqaError

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # value type -> bytes
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# ggml type -> (weights in a block, bytes of a block); others are not used by any bundle
BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 30: (1, 2), 24: (1, 1), 25: (1, 2), 26: (1, 4), 28: (1, 8)},
    **{2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 20: (32, 18), 39: (32, 17)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 23: (256, 136)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 21: (256, 110), 22: (256, 82), 29: (256, 56)},
}
_MAX_COUNT = 1 << 20


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def number(self, form: str) -> int:
        value: int = struct.unpack_from(form, self.data, self.at)[0]
        self.at += struct.calcsize(form)
        return value

    def count(self, most: int = _MAX_COUNT) -> int:
        value = self.number("<Q")
        if value > most:
            raise ValueError(f"a count of {value}")
        return value

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("it ends early")

    def string(self) -> bytes:
        size = self.count(len(self.data))
        start = self.at
        self.skip(size)
        return self.data[start : self.at]


@dataclass(frozen=True)
class Header:
    """What a gguf says of itself: metadata by key, and each tensor's shape (slowest first), ggml type number and bytes, and
    where in the file it begins."""

    metadata: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int, int]]
    starts: dict[str, int] = field(default_factory=dict)


def read(path: Path) -> Header:
    """The header of a gguf, checked. Raises EdgeVqaError as `check` does."""
    header = Header({}, {})
    _opened(path, header)
    return header


def check(path: Path) -> set[bytes]:
    """The names of a gguf's tensors.

    Raises EdgeVqaError unless header, metadata and tensor table are sound and every tensor lies inside the file.
    """
    return _opened(path, None)


def _opened(path: Path, header: Header | None) -> set[bytes]:
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _check(_Reader(data), header)
    except (ValueError, struct.error, OSError) as error:
        raise EdgeVqaError(f"{path.name} is not a sound gguf file ({error})", "convert or download the bundle again") from None


def _check(reader: _Reader, header: Header | None) -> set[bytes]:
    if reader.data[:4] != b"GGUF":
        raise ValueError("no gguf at all")
    reader.skip(4)
    if (version := reader.number("<I")) not in (2, 3):
        raise ValueError(f"version {version}")
    n_tensors, n_keys = reader.count(), reader.count()
    alignment, keys = 32, set()
    for _ in range(n_keys):
        key, kind = reader.string(), reader.number("<I")
        if key in keys:
            raise ValueError(f"{key!r} comes twice")
        keys.add(key)
        if key == b"general.alignment":
            alignment = struct.unpack_from("<I", reader.data, reader.at)[0]
        value = _value(reader, key, kind, decode=header is not None)
        if header is not None:
            header.metadata[key.decode(errors="replace")] = value
    if alignment < 8 or alignment & (alignment - 1):
        raise ValueError(f"alignment {alignment}")
    names, ends = set(), []
    for _ in range(n_tensors):
        name = reader.string()
        dimensions = reader.number("<I")
        if name in names or b"\0" in name or not 1 <= dimensions <= 4:
            raise ValueError(f"tensor {name[:40]!r}")
        names.add(name)
        shape = [reader.count(1 << 40) for _ in range(dimensions)]
        kind, offset = reader.number("<I"), reader.number("<Q")
        if kind not in BLOCKS or min(shape) < 1 or shape[0] % BLOCKS[kind][0] or offset % alignment:
            raise ValueError(f"tensor {name[:40]!r}")
        weights, size = BLOCKS[kind]
        ends.append(offset + math.prod(shape) // weights * size)
        if header is not None:
            header.tensors[name.decode(errors="replace")] = (tuple(reversed(shape)), kind, math.prod(shape) // weights * size)
            header.starts[name.decode(errors="replace")] = offset
    start = -(-reader.at // alignment) * alignment
    if start + max(ends, default=0) > len(reader.data):
        raise ValueError("it ends early")
    if header is not None:
        header.starts.update({name: start + offset for name, offset in header.starts.items()})
    return names


def _value(reader: _Reader, key: bytes, kind: int, *, decode: bool) -> Any:
    """Step over a value; decode it on request."""
    if kind == _STRING:
        return reader.string().decode(errors="replace")
    if kind == _ARRAY:
        inner, n = reader.number("<I"), reader.count(1 << 24)
        if inner == _STRING:
            tokens, texts = key == b"tokenizer.ggml.tokens", []
            for _ in range(n):
                text = reader.string()
                if tokens and (not text or b"\0" in text):
                    raise ValueError("an impossible token")
                if decode:
                    texts.append(text.decode(errors="replace"))
            return texts
        if inner in _SCALARS:
            start = reader.at
            reader.skip(n * _SCALARS[inner])
            return list(struct.unpack_from(f"<{n}{_FORMATS[inner]}", reader.data, start)) if decode else None
        raise ValueError(f"an array of type {inner}")
    if kind in _SCALARS:
        start = reader.at
        reader.skip(_SCALARS[kind])
        return struct.unpack_from(f"<{_FORMATS[kind]}", reader.data, start)[0] if decode else None
    raise ValueError(f"a value of type {kind}")

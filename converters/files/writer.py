"""Writes gguf files tensor by tensor; knows nothing of models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from converters import ggml
from converters.files.parts import Kept
from converters.ggml import Bytes, Floats
from edge_vqa.errors import EdgeVqaError

Coder = Callable[[Floats], Bytes]  # float32 [..., n] -> uint8 [..., bytes of a row]


@dataclass(frozen=True)
class Entry:
    """One tensor to write: gguf name, shape (slowest first), stored type, how to get its float32 values, what it is called
    where they come from, and how to make blocks of the stored type of them."""

    name: str
    shape: tuple[int, ...]
    type: str
    read: Callable[[], Floats]
    origin: str
    coder: Coder

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


def write(path: Path, metadata: dict[str, Any], entries: Iterable[Entry], done: Callable[[int], None]) -> None:
    """Write a gguf. `metadata` holds `general.architecture`; `done` is told the weights of each tensor as it is written.

    One tensor is in memory at a time. Raises EdgeVqaError for one that is not finite, by name.
    """
    rest = dict(metadata)
    writer = gguf.GGUFWriter(path, rest.pop("general.architecture"))
    try:
        for key, value in rest.items():
            _add(writer, key, value)
        entries = list(entries)
        for entry in entries:
            kind = ggml.kind(entry.type)
            stored = gguf.quant_shape_to_byte_shape(entry.shape, kind)
            writer.add_tensor_info(entry.name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries:
            values = entry.read()
            if not (np.isfinite(values.max()) and np.isfinite(values.min())):
                raise EdgeVqaError(f"{entry.origin} holds weights that are not finite", "use an intact checkpoint")
            data = entry.coder(values)
            del values
            writer.write_tensor_data(data.reshape(-1))
            done(entry.weights)
    finally:
        writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, Kept):
        writer.add_key_value(key, value.value, value.kind, value.inner)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def rounding(type_: str, threads: int, importance: Floats | None = None) -> Coder:
    """llama.cpp's own blocks of a type."""
    return lambda values: ggml.quantise(values, type_, importance=importance, threads=threads)

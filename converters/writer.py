"""Writes gguf files tensor by tensor; knows nothing of models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Entry:
    """One tensor to write: gguf name, shape (slowest first), stored type, and how to get its float32 values."""

    name: str
    shape: tuple[int, ...]
    type: str
    read: Callable[[], Tensor]


def _kind(type_: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[type_.upper()]


def fits(type_: str, shape: tuple[int, ...]) -> bool:
    """Whether rows of this length can be stored in blocks of this type."""
    return bool(shape[-1] % gguf.GGML_QUANT_SIZES[_kind(type_)][0] == 0)


def write(path: Path, metadata: dict[str, Any], entries: Iterable[Entry], done: Callable[[int], None]) -> None:
    """Write a gguf. `metadata` holds `general.architecture`; `done` is told the bytes of each tensor as it is written."""
    rest = dict(metadata)
    writer = gguf.GGUFWriter(path, rest.pop("general.architecture"))
    for key, value in rest.items():
        _add(writer, key, value)
    entries = list(entries)
    for entry in entries:
        kind = _kind(entry.type)
        stored = gguf.quant_shape_to_byte_shape(entry.shape, kind)
        writer.add_tensor_info(entry.name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry in entries:
        values = np.ascontiguousarray(entry.read(), np.float32)
        data = gguf.quants.quantize(values, _kind(entry.type))
        data = np.ascontiguousarray(data).view(np.uint8)
        writer.write_tensor_data(data)
        done(data.nbytes)
    writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def bits_per_weight(path: Path) -> float:
    """Mean bits of a weight over all tensors of a gguf."""
    tensors = gguf.GGUFReader(path).tensors
    return sum(int(t.n_bytes) for t in tensors) * 8 / sum(int(t.n_elements) for t in tensors)

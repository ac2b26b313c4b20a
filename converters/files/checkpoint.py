"""Reads a Hugging Face checkpoint folder lazily: tensors come one at a time from safetensors files, sharded or not.

No torch: bfloat16 is widened by hand. Nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_vqa.border import untrusted
from edge_vqa.errors import EdgeVqaError

_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class _Place:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int  # from the start of the file


class Checkpoint:
    """A checkpoint folder: `config`, JSON files beside it, and tensors by name."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise EdgeVqaError(f"{folder} is not a folder", "give the folder of a Hugging Face checkpoint")
        self.folder = folder
        self.config: dict[str, Any] = self.json("config.json")
        self._places: dict[str, _Place] = {}
        for file in self._files():
            self._places |= _read_header(file)

    def rename(self, prefixes: Sequence[tuple[str, str]]) -> None:
        """Give tensors under one prefix the names of another: checkpoints of different ages name the same parts differently.

        The first prefix that a name starts with counts.
        """
        places = {}
        for name, place in self._places.items():
            old, new = next(((old, new) for old, new in prefixes if name.startswith(old)), ("", ""))
            places[new + name[len(old) :]] = place
        self._places = places

    def json(self, name: str, *, required: bool = True) -> dict[str, Any]:
        """A JSON file of the folder; {} when it is missing and not required."""
        path = self.folder / name
        if not path.is_file() and not required:
            return {}
        try:
            decoded = json.loads(untrusted.read_text(path))
        except FileNotFoundError:
            raise EdgeVqaError(f"{self.folder} holds no {name}", "give a complete Hugging Face checkpoint") from None
        except (OSError, ValueError) as error:
            raise EdgeVqaError(f"{path} is damaged ({error})", "download the checkpoint again") from None
        if not isinstance(decoded, dict):
            raise EdgeVqaError(f"{path} is damaged (not an object)", "download the checkpoint again")
        return decoded

    def _files(self) -> list[Path]:
        single = self.folder / "model.safetensors"
        if single.is_file():
            return [single]
        if (self.folder / "model.safetensors.index.json").is_file():
            shards = self.json("model.safetensors.index.json").get("weight_map", {})
            names = sorted({str(name) for name in shards.values()})
            for name in names:
                if name != Path(name).name or not (self.folder / name).is_file():
                    raise EdgeVqaError(f"the shard {name} is missing from {self.folder}", "download the checkpoint again")
            return [self.folder / name for name in names]
        if any(self.folder.glob("*.bin")) or any(self.folder.glob("*.pt")):
            raise EdgeVqaError(
                f"{self.folder} holds pickled weights only, and unpickling runs code",
                "save it as safetensors first: model.save_pretrained(folder, safe_serialization=True)",
            )
        raise EdgeVqaError(f"{self.folder} holds no model.safetensors", "give a complete Hugging Face checkpoint")

    def names(self) -> list[str]:
        return sorted(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name].shape

    def dtype(self, name: str) -> str:
        """F32, F16 or BF16."""
        return self._places[name].dtype

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """Read one tensor as float32, exactly."""
        place = self._places[name]
        n = int(np.prod(place.shape, dtype=np.int64))
        stored = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[place.dtype]
        raw = np.fromfile(place.file, stored, n, offset=place.offset)
        if place.dtype == "BF16":  # the upper half of a float32
            bits = raw.astype(np.uint32)
            bits <<= 16
            return bits.view(np.float32).reshape(place.shape)
        return raw.astype(np.float32, copy=False).reshape(place.shape)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._places = {}


def _read_header(file: Path) -> dict[str, _Place]:
    """The header of a safetensors file: 8 bytes of length, then JSON; every offset is checked against the file."""
    size = file.stat().st_size
    damaged = EdgeVqaError(f"{file} is not an intact safetensors file", "download the checkpoint again")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise damaged
        try:
            header = json.loads(stream.read(length))
            places = {}
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                dtype, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
                begin, end = (int(n) for n in entry["data_offsets"])
                if dtype not in _WIDTHS:
                    raise EdgeVqaError(f"{name} in {file.name} is {dtype}", "give an f32, f16 or bf16 checkpoint")
                wanted = int(np.prod(shape, dtype=np.int64)) * _WIDTHS[dtype]
                if begin < 0 or end - begin != wanted or 8 + length + end > size or min(shape, default=1) < 1:
                    raise damaged
                places[name] = _Place(file, dtype, shape, 8 + length + begin)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise damaged from None
    return places

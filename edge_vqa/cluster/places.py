"""Folders and files in any place that fsspec reaches, this machine's disk among them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from edge_vqa.errors import EdgeVqaError

WORK = ".edge-vqa-"  # begins the name of what is not whole


@dataclass(frozen=True)
class Place:
    """A path in a file system. local: one of this machine's files, or of a disk that several machines share."""

    fs: Any
    path: str

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def _now(self) -> Any:
        """The file system, without what it remembers of a folder: others write there too."""
        self.fs.invalidate_cache()
        return self.fs

    def __str__(self) -> str:
        return self.path if self.local else str(self.fs.unstrip_protocol(self.path))

    def child(self, name: str) -> Place:
        return Place(self.fs, f"{self.path.rstrip('/')}/{name}")

    def sibling(self, name: str) -> Place:
        """Another name in the same folder."""
        folder, slash, _ = self.path.rpartition("/")
        return Place(self.fs, f"{folder}{slash}{name}")

    def exists(self) -> bool:
        with said(self):
            return bool(self._now().exists(self.path))

    def names(self) -> list[str]:
        """Of what lies in this folder, in order; nothing where there is none."""
        with said(self):
            if not self._now().isdir(self.path):
                return []
            return sorted(name.rstrip("/").rpartition("/")[2] for name in self.fs.ls(self.path, detail=False))

    def make(self) -> None:
        """This folder."""
        with said(self, "written"):
            self.fs.makedirs(self.path, exist_ok=True)

    def size(self) -> int:
        """Bytes of this file."""
        with said(self):
            return int(self._now().size(self.path))

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes of this file."""
        with said(self):
            return bytes(self._now().cat_file(self.path, start=start, end=end))

    def put(self, made: Path) -> None:
        """A finished file of this machine's gets here, whole or not at all."""
        work = self.sibling(f"{WORK}{uuid.uuid4().hex}").path
        with said(self, "written"):
            if not self.local:  # an object store shows an object when it is whole
                self.fs.put_file(str(made), self.path)
                return
            try:
                with made.open("rb") as source, Path(work).open("wb") as stream:
                    while block := source.read(2**20):
                        stream.write(block)
                    stream.flush()
                    os.fsync(stream.fileno())
                Path(work).replace(self.path)
            finally:
                Path(work).unlink(missing_ok=True)

    def remove(self) -> None:
        """This file, if it is there."""
        with said(self, "removed"), suppress(FileNotFoundError):
            self.fs.rm_file(self.path)


def place(name: str) -> Place:
    """A path, or an address as s3://bucket/folder. Raises EdgeVqaError for a kind of place that is not known here."""
    try:
        fs, path = fsspec.core.url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise EdgeVqaError(f"{name} cannot be reached ({error})", "install what fsspec needs for it, or copy it") from None
    return Place(fs, name if isinstance(fs, LocalFileSystem) and "://" not in name else path)


@contextmanager
def said(at: Place | str, what: str = "read") -> Iterator[None]:
    """What a file system raises becomes EdgeVqaError; these are many, and fsspec's back ends bring their own."""
    try:
        yield
    except EdgeVqaError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:150] or type(error).__name__
        raise EdgeVqaError(f"{at} cannot be {what} ({reason})", "check the place, and start again: it goes on") from None

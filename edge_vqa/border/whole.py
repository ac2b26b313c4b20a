"""Writes files whole: under a temporary name, then renamed. An interruption loses nothing that was there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from edge_vqa.errors import EdgeVqaError


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name and rename it: whoever reads `path` sees the old file or the new one, whole."""
    work = path.with_name(f".{path.name}.tmp")
    try:
        with work.open("wb") as stream:
            write(stream)
        work.replace(path)
    except OSError as error:
        raise EdgeVqaError(f"{path} cannot be written ({error.strerror})", "choose another place") from None
    finally:
        with contextlib.suppress(OSError):
            work.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """`write_whole` for content that is there already."""
    write_whole(path, lambda stream: stream.write(content))

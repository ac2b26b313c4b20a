"""Reads files that a user or a download names. Such a file may be a device or a pipe without end, or come from a Windows
program that puts a byte order mark first.
"""

from __future__ import annotations

from pathlib import Path

MOST_TEXT = 256 * 2**20  # bytes of a text file, where nothing else is said


def read_bytes(path: Path, most: int) -> bytes:
    """The whole content. Raises ValueError above `most` bytes, of which no more are read; OSError as `open` does."""
    with path.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most >> 20} MB")
    return content


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """The content as UTF-8, without a byte order mark. Raises ValueError for other bytes too."""
    return read_bytes(path, most).decode("utf-8-sig")

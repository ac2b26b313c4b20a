"""Standard streams that are closed or full: what cannot be written is an error in one line, not an internal one."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edge_vqa.errors import EdgeVqaError


class _Output(io.TextIOWrapper):
    """A standard output whose failures say so. A broken pipe is no failure: whoever read has seen enough."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise self._failed(error) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> Exception:
        if isinstance(error, BrokenPipeError):
            return error
        say_no_more()
        return EdgeVqaError(f"standard output cannot be written ({error.strerror})", "make room, or let it go elsewhere")


class _Closed(io.TextIOBase):
    """In the place of a standard output that is closed, `>&-`."""

    def write(self, text: str) -> int:
        raise EdgeVqaError("standard output is closed", "let it go somewhere, as to /dev/null")

    def writable(self) -> bool:
        return True


def prepare() -> None:
    """Let the program's standard streams be there, whatever they are, and a failing output be an EdgeVqaError.

    Those that are closed become /dev/null: the next file would get their numbers, and what llama.cpp prints.
    """
    absent = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    while absent and os.open(os.devnull, os.O_RDWR) < 2:
        pass
    for name in absent:
        number = ("stdin", "stdout", "stderr").index(name)
        setattr(sys, name, _Closed() if name == "stdout" else open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        sys.stdout = _Output(
            out.detach(),
            encoding=out.encoding,
            errors=out.errors,
            line_buffering=out.line_buffering,
            write_through=out.write_through,
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Standard error stays ours: what libraries write to the descriptors of both outputs meanwhile is lost."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept, error, nowhere = (os.dup(1), os.dup(2)), sys.stderr, os.open(os.devnull, os.O_WRONLY)
    with open(kept[1], "w", encoding=error.encoding, errors=error.errors, buffering=1, closefd=False) as sys.stderr:
        for number in (1, 2):
            os.dup2(nowhere, number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stderr = error
            for number, was in zip((1, 2), kept, strict=True):
                os.dup2(was, number)
                os.close(was)
            os.close(nowhere)


def say_no_more() -> None:
    """Lose what was not written to standard output: Python would try it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

"""The one error type of the project: what is wrong, and what to do about it, in one line."""

from __future__ import annotations

import _thread
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn, TextIO

from edge_vqa.visible import visible


class EdgeVqaError(Exception):
    """Something a user can act on. `what` says what is wrong, `todo` what to do; both are short and hold no newline."""

    def __init__(self, what: str, todo: str) -> None:
        self.what = visible(" ".join(what.split()))
        self.todo = visible(" ".join(todo.split()))
        super().__init__(f"{self.what}: {self.todo}")


def require(kinds: type | tuple[type, ...], what: str, **named: object) -> None:
    """Raise TypeError, naming the argument, for one that is neither None nor of these types."""
    for name, value in named.items():
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise TypeError(f"{name} must be {what}, not {type(value).__name__}")


class _Interrupted(BaseException):
    """Ctrl-C. Not KeyboardInterrupt, which typer would turn into an exit status of its own."""

    raised = False  # for those who turn it into something else, as a native module does while it is imported


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise _Interrupted, but never inside llama.cpp's log callback: ctypes would swallow it. Then a moment later."""
    inner = frame
    while inner is not None:
        if inner.f_code.co_name == "log" and inner.f_globals.get("__name__") == "edge_vqa.native":
            threading.Timer(0.01, _thread.interrupt_main).start()
            return
        inner = inner.f_back
    _Interrupted.raised = True
    raise _Interrupted


class _Closed(io.TextIOBase):
    """In the place of a standard output that is closed, `>&-`."""

    def write(self, text: str) -> int:
        raise EdgeVqaError("standard output is closed", "let it go somewhere, as to /dev/null")

    def writable(self) -> bool:
        return True


def _open_standard_streams() -> None:
    """Give the numbers 0, 1 and 2 to /dev/null where they are closed: the next file would get them, and llama.cpp's log."""
    absent = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    if not absent:
        return
    while os.open(os.devnull, os.O_RDWR) < 2:
        pass
    for name in absent:
        stream: TextIO | _Closed = _Closed() if name == "stdout" else open(os.devnull, "r" if name == "stdin" else "w")  # noqa: SIM115, PTH123
        setattr(sys, name, stream)


def _flush() -> None:
    """Write out what was printed. Raises BrokenPipeError, and EdgeVqaError where it cannot be written otherwise."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _say_no_more()
        raise EdgeVqaError(
            f"standard output cannot be written ({error.strerror})", "make room, or let it go elsewhere"
        ) from None


def _say_no_more() -> None:
    """Lose what was not written: Python would try it once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(app: Callable[[], object], program: str) -> NoReturn:
    """Run a typer app as a program: an EdgeVqaError becomes one line on stderr and exit status 1, never a traceback."""
    _open_standard_streams()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        try:
            app()
        finally:
            _flush()
    except BrokenPipeError:
        _say_no_more()
        sys.exit(1)
    except (Exception, _Interrupted) as error:
        wipe = "\r\033[K" if sys.stderr.isatty() else ""  # whatever was said to be going on
        if _Interrupted.raised:
            print(wipe, end="", file=sys.stderr)
            sys.exit(130)
        if "--debug" in sys.argv:
            raise
        said = str(error)
        if not isinstance(error, EdgeVqaError):
            line = visible(" ".join(said.split())[:200])
            said = f"internal error ({type(error).__name__}: {line}): run again with --debug and report it"
        print(f"{wipe}{program}: {said}", file=sys.stderr)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is over: nothing is left to interrupt
    sys.exit(0)

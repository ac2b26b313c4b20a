"""Runs a command as a program: every error is one line, Ctrl-C an exit status, an output that fails says so."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from edge_vqa.border import streams
from edge_vqa.errors import EdgeVqaError
from edge_vqa.visible import visible


class _Interrupted(BaseException):
    """Ctrl-C. Not KeyboardInterrupt, which typer would turn into an exit status of its own."""

    raised = False  # for those who turn it into something else, as a native module does while it is imported


CALLED_BACK = ("log", "watch")  # functions of `edge_vqa.native` that llama.cpp calls, by ctypes: no exception comes out of them


def _swallows(frame: FrameType) -> bool:
    code, module = frame.f_code, str(frame.f_globals.get("__name__"))
    if code.co_name == "cb":  # the import system's, of a weak reference to a module's lock
        return code.co_filename.startswith("<frozen importlib")
    return code.co_name in CALLED_BACK and module.startswith("edge_vqa.native.")


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise _Interrupted, but never where it would be swallowed. Then a moment later."""
    inner = frame
    while inner is not None:
        if _swallows(inner):
            threading.Timer(0.01, _thread.interrupt_main).start()
            return
        inner = inner.f_back
    _Interrupted.raised = True
    raise _Interrupted


def run(app: Callable[[], object], program: str) -> NoReturn:
    """Run a typer app as a program: an EdgeVqaError becomes one line on stderr and exit status 1, never a traceback."""
    streams.prepare()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        streams.say_no_more()
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

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
AGAIN_SECONDS = 0.2


def _swallows(frame: FrameType | None) -> bool:
    """Whether an exception raised here would be lost, and what is computed wrong."""
    while frame is not None:
        if frame.f_code.co_name in CALLED_BACK and str(frame.f_globals.get("__name__")).startswith("edge_vqa.native."):
            return True
        frame = frame.f_back
    return False


def _ends() -> bool:
    """Whether what runs now is run because of Ctrl-C: what closes and keeps things on the way out is left alone."""
    error = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, _Interrupted):
            return True
        error = error.__context__
    return False


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise _Interrupted, and see a moment later whether it went through: Python drops what is raised in a finaliser, in the
    callback of a weak reference, or where a library catches everything."""
    timer = threading.Timer(AGAIN_SECONDS, _thread.interrupt_main)
    timer.daemon = True
    timer.start()
    if not _ends() and not _swallows(frame):
        _Interrupted.raised = True
        raise _Interrupted


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    if not isinstance(unraisable.exc_value, _Interrupted):
        sys.__unraisablehook__(unraisable)


def run(app: Callable[[], object], program: str) -> NoReturn:
    """Run a typer app as a program: an EdgeVqaError becomes one line on stderr and exit status 1, never a traceback."""
    streams.prepare()
    signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _unraisable
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

"""Runs what might kill, hang or fill the machine in a child process: a native library on a CPU for the first time, a bundle
that nobody here has run, a chat template that somebody else wrote.

The child is a new Python that imports one module, reads one JSON value and prints JSON lines. It has a time limit, a limit on
the memory that it may allocate, and nothing to write to.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a fault in native code ends with: the same again next time, so that it may be remembered
FAULTS = ("SIGILL", "SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGTRAP", "SIGSYS")
LATE = "it did not end"
_START = (
    "import sys; sys.path[:] = {path!r}; from edge_vqa.border import child; child.serve({module!r}, {memory!r}, {seconds!r})"
)


@dataclass(frozen=True)
class Ended:
    """How a child ended. lines: what it printed, decoded, also before it died. reason: why it did not come to its end, empty
    where it did; signal: the signal's name, where one ended it."""

    lines: tuple[Any, ...]
    reason: str = ""
    signal: str = ""

    @property
    def said(self) -> dict[str, Any]:
        """What the objects among the lines say together."""
        return {key: value for line in self.lines if isinstance(line, dict) for key, value in line.items()}

    @property
    def started(self) -> bool:
        return self.reason != _NOT_STARTED


_NOT_STARTED = "no process could be started"


def run(module: str, request: Any, *, seconds: float, memory: int | None = None) -> Ended:
    """Call `main(request)` of a module in a child, and wait for it.

    `main` yields values that JSON can hold. seconds: after them it is killed. memory: bytes that it may allocate in all; where
    the system knows no such limit, there is none.
    """
    if not Path(sys.executable or "").name.startswith(("python", "pypy")):  # inside another program, which is not to be run
        return Ended((), _NOT_STARTED)
    code = _START.format(path=sys.path, module=module, memory=memory, seconds=seconds)
    try:
        # -I, -S: no environment and no site, whose work is done: the path is given
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code],
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as ended:
        return Ended(_lines(ended.stdout or b""), f"{LATE} within {seconds:.0f} s")
    except (OSError, MemoryError):
        return Ended((), _NOT_STARTED)
    if done.returncode < 0:
        try:
            name = signal.Signals(-done.returncode).name
        except ValueError:
            name = f"signal {-done.returncode}"
        if name == "SIGXCPU":
            return Ended(_lines(done.stdout), f"{LATE} within {seconds:.0f} s")
        return Ended(_lines(done.stdout), f"it ended the process ({name})", name)
    if done.returncode > 0:
        return Ended(_lines(done.stdout), f"it ended the process (exit status {done.returncode})")
    return Ended(_lines(done.stdout))


def _lines(said: bytes) -> tuple[Any, ...]:
    """Whole lines only: the last one may be torn."""
    return tuple(json.loads(line) for line in said.split(b"\n")[:-1])


def serve(module: str, memory: int | None, seconds: float) -> None:
    """The child's side."""
    said = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what a library prints is not an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    _limit(memory, seconds)
    import importlib

    main: Callable[[Any], Iterator[Any]] = importlib.import_module(module).main
    request = json.load(sys.stdin)
    for value in main(request):
        os.write(said, json.dumps(value).encode() + b"\n")
    os._exit(0)  # what native libraries do at exit is not on trial


def _limit(memory: int | None, seconds: float) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cpu = int(seconds * (os.cpu_count() or 1)) + 1  # should its parent be killed, it does not run for ever
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

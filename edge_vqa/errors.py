"""The one error type of the project: what is wrong, and what to do about it, in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn


class EdgeVqaError(Exception):
    """Something a user can act on. `what` says what is wrong, `todo` what to do; both are short and hold no newline."""

    def __init__(self, what: str, todo: str) -> None:
        self.what = " ".join(what.split())
        self.todo = " ".join(todo.split())
        super().__init__(f"{self.what}: {self.todo}")


def run(app: Callable[[], object], program: str) -> NoReturn:
    """Run a typer app as a program: an EdgeVqaError becomes one line on stderr and exit status 1, never a traceback."""
    try:
        app()
    except EdgeVqaError as error:
        if "--debug" in sys.argv:
            raise
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more can be said
        sys.exit(1)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        line = " ".join(str(error).split())[:200]
        print(
            f"{program}: internal error ({type(error).__name__}: {line}): run again with --debug and report it",
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(0)

"""What commands show on the terminal while they work, and JSON when they are done."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def progress() -> Progress:
    """Bars on the terminal; nothing where stderr is a file or a pipe."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    terminal = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)


def steps(bars: Progress) -> Callable[[str, int, int], None]:
    """A callback (step, done, total) that draws one bar for each step."""
    tasks: dict[str, TaskID] = {}

    def update(step: str, done: int, total: int) -> None:
        if step not in tasks:
            tasks[step] = bars.add_task(step, total=total)
        bars.update(tasks[step], completed=done, total=total)

    return update


def busy(doing: str) -> None:
    """What is going on, on a terminal only; an empty text wipes it away."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{doing}")
        sys.stderr.flush()


def print_json(value: Any) -> None:
    """For programs: one line."""
    print(json.dumps(value, ensure_ascii=False))

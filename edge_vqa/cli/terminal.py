"""What commands show on the terminal while they work, and JSON when they are done."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_vqa.visible import as_json, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


def say(text: str = "", *, lines: bool = False, end: str = "\n", flush: bool = False) -> None:
    """Print to stdout. `lines`: the text may have several, as an answer may; other control characters are written out."""
    print(visible(text, lines=lines), end=end, flush=flush)


def tell(text: str) -> None:
    """Print a line to stderr."""
    print(visible(text), file=sys.stderr)


def console(*, stderr: bool = False, **how: Any) -> Console:
    """rich's console for tables: plain text in it is shown as it is, neither read as markup nor sent as control characters."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(visible(text, lines=True), **how)

    return Plain(stderr=stderr, highlight=False, markup=False, **how)


def progress() -> Progress:
    """Bars on the terminal; nothing where stderr is a file or a pipe."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    terminal = console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal)


def steps(bars: Progress) -> Callable[[str, int, int | None], None]:
    """A callback (step, done, total) that draws one bar for each step; total: None while it is not known."""
    from rich.markup import escape

    tasks: dict[str, TaskID] = {}

    def update(step: str, done: int, total: int | None) -> None:
        if step not in tasks:
            tasks[step] = bars.add_task(escape(visible(step)), total=total)
        bars.update(tasks[step], completed=done, total=total)

    return update


def busy(doing: str) -> None:
    """What is going on, on a terminal only; an empty text wipes it away."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{visible(doing)}")
        sys.stderr.flush()


def print_json(value: Any) -> None:
    """For programs: one line."""
    print(as_json(value))

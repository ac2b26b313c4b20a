"""The one error type of the project: what is wrong, and what to do about it, in one line."""

from __future__ import annotations

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

"""What takes its time, out of the way of an asyncio loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def steps(make: Callable[[], Generator[T]]) -> AsyncGenerator[T]:
    """What a generator yields, worked through in one thread. Who stops listening, or is cancelled, ends it at its next step."""
    loop, left = asyncio.get_running_loop(), threading.Event()
    said: asyncio.Queue[tuple[T | None, BaseException | None]] = asyncio.Queue()

    def tell(value: T | None, error: BaseException | None = None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(said.put_nowait, (value, error))

    def work() -> None:
        try:
            going = make()
            for value in going:
                if left.is_set():
                    going.close()
                    return
                tell(value)
            tell(None)
        except BaseException as error:
            tell(None, error)

    working: asyncio.Future[Any] = loop.run_in_executor(None, work)
    try:
        while True:
            value, error = await said.get()
            if error is not None:
                raise error
            if value is None:
                return
            yield value
    finally:
        left.set()
        await asyncio.shield(working)

"""The server as a process: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import Model
from edge_vqa.serve.app import Limits, Service
from edge_vqa.serve.guard import Guard, Rules, is_local

CONNECTIONS = 512
HEADER_BYTES, HEADER_SECONDS = 32 * 2**10, 30.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, which waits for a request's headers for ever: here they come in time, or the connection ends."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()  # they are there
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Server(uvicorn.Server):
    """Ends at SIGINT and SIGTERM as uvicorn does, but does not raise them again when it has ended."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def _names(host: str, token: str | None) -> Callable[[str], bool]:
    """By which names it may be called: where no token is asked for, by none that a page elsewhere could make its own."""
    if host in LOOPBACK:
        return LOOPBACK.__contains__
    return is_local if token is None else lambda name: True


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises EdgeVqaError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(128)
        return made
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise EdgeVqaError(f"{host} port {port} cannot be listened on ({reason})", "choose another with --port") from None


def serve(
    load: Callable[[], Model],
    host: str,
    port: int,
    *,
    token: str | None,
    limits: Limits,
    tell: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM: then what is being answered is answered. Raises what `load` raises."""
    listening = listen(host, port)
    failures: list[Exception] = []

    def ready(model: Model) -> None:
        for warning in model.warnings:
            tell(f"edge-vqa: {warning}")
        name = f"[{host}]" if ":" in host else host
        tell(f"edge-vqa: {model.bundle.name} answers at http://{name}:{listening.getsockname()[1]} (Ctrl-C ends it)")

    def failed(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    service = Service(load, limits, ready, failed)
    guarded = Guard(service.app, Rules(token, _names(host, token), limits.origins, limits.body), service.figures.log)
    server = _Server(
        uvicorn.Config(
            guarded,
            http=Protocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            h11_max_incomplete_event_size=HEADER_BYTES,
            timeout_graceful_shutdown=30,
        )
    )
    with listening:
        server.run(sockets=[listening])
    if failures:
        raise failures[0]

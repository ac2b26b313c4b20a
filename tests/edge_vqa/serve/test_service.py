"""What a server says while it cannot answer: loading, full, late."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from edge_vqa.model import Model, load
from edge_vqa.serve import guard, run
from edge_vqa.serve.app import Limits, Service
from edge_vqa.serve.guard import Guard, Rules
from edge_vqa.serve.run import LOOPBACK, listen
from tests.conftest import EXAMPLES
from tests.edge_vqa.serve.conftest import asked

BODY = json.dumps({"messages": asked(EXAMPLES / "price.png", "how much is it?")}).encode()


class Here:
    """A server in a thread of this process."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address

    def __call__(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any, dict[str, str]]:
        """Status, decoded body, headers."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        connection.request(method, path, body)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, json.loads(content) if content[:1] == b"{" else content, dict(response.headers)


@contextmanager
def here(limits: Limits, make: Callable[[], Model]) -> Iterator[Here]:
    service = Service(make, limits, lambda model: None, lambda error: None)
    app = Guard(service.app, Rules(None, LOOPBACK.__contains__, (), limits.body), lambda **said: None)
    server = uvicorn.Server(uvicorn.Config(app, http=run.Protocol, ws="none", log_config=None))
    listening = listen("127.0.0.1", 0)
    running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    running.start()

    try:
        yield Here(listening.getsockname())
    finally:
        server.should_exit = True
        running.join()
        listening.close()


@pytest.fixture
def mine() -> Iterator[Model]:
    with load("mini") as model:
        yield model


def wait_for(ask: Here) -> None:
    until = time.monotonic() + 60
    while (said := ask("GET", "/ready"))[0] != 200:
        assert time.monotonic() < until, said
        time.sleep(0.01)


def test_it_answers_503_while_the_model_is_being_loaded(mine: Model) -> None:
    loaded = threading.Event()

    def slowly() -> Model:
        loaded.wait(60)
        return mine

    with here(Limits(), slowly) as ask:
        assert ask("GET", "/health")[0] == ask("GET", "/")[0] == 200
        for method, path in (("GET", "/ready"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions")):
            status, said, headers = ask(method, path, BODY if method == "POST" else b"")
            assert status == 503 and "being loaded" in said["error"]["message"] and headers["retry-after"] == "1"
        loaded.set()
        wait_for(ask)
        assert ask("POST", "/v1/chat/completions", BODY)[1]["choices"][0]["message"]["content"] == "$4.50"


def test_too_many_are_told_to_come_again_and_who_waits_too_long_is_told_so(mine: Model) -> None:
    with here(Limits(waiting=1, seconds=2), lambda: mine) as ask:
        wait_for(ask)
        replies: list[tuple[int, Any, dict[str, str]]] = []
        with mine.turn():  # the model is busy

            def put() -> None:
                replies.append(ask("POST", "/v1/chat/completions", BODY))

            threads = [threading.Thread(target=put) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        statuses = sorted(status for status, _, _ in replies)
        assert set(statuses) == {429, 504}, statuses
        for status, said, headers in replies:
            assert ("retry-after" in headers) == (status == 429)
            assert ("too many questions wait" if status == 429 else "no answer within 2 seconds") in said["error"]["message"]
        assert ask("POST", "/v1/chat/completions", BODY)[0] == 200


def test_a_body_that_does_not_end_is_given_up(mine: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    with here(Limits(), lambda: mine) as ask:
        wait_for(ask)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
        with socket.create_connection(ask.address, timeout=30) as connection:
            connection.sendall(head + BODY[:100])
            assert connection.recv(12) == b"HTTP/1.1 408"


def test_headers_that_do_not_come_end_the_connection(mine: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HEADER_SECONDS", 0.5)
    with here(Limits(), lambda: mine) as ask:
        wait_for(ask)
        for begun in (b"", b"GET /ready HTTP/1.1\r\nHo", b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\nGET /re"):
            with socket.create_connection(ask.address, timeout=30) as connection:
                connection.sendall(begun)
                said = b""
                while piece := connection.recv(1000):  # until it is closed
                    said += piece
                assert said.count(b"200 OK") == begun.count(b"\r\n\r\n")
        with mine.turn():  # a request that waits for its answer longer than that goes on
            replies: list[int] = []
            waiting = threading.Thread(target=lambda: replies.append(ask("POST", "/v1/chat/completions", BODY)[0]))
            waiting.start()
            time.sleep(1)
        waiting.join()
        assert replies == [200]


def test_bodies_have_a_bound_together(mine: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MOST_BYTES", 3 * len(BODY))
    with here(Limits(body=2 * len(BODY)), lambda: mine) as ask:
        wait_for(ask)
        statuses: list[int] = []
        with mine.turn():
            threads = [
                threading.Thread(target=lambda: statuses.append(ask("POST", "/v1/chat/completions", BODY)[0])) for _ in range(6)
            ]
            for thread in threads:
                thread.start()
            while len(statuses) < 3:
                time.sleep(0.01)
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 200, 200, 429, 429, 429]
        assert ask("POST", "/v1/chat/completions", BODY)[0] == 200, "what was sent is not counted for ever"

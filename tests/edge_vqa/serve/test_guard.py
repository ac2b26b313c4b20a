"""Who may ask, from where, and how much; what a server fetches; how it starts and ends."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from tests.conftest import EXAMPLES, Run, one_line, resign
from tests.edge_vqa.serve.conftest import Server, asked, serving

PRICE, QUESTION = EXAMPLES / "price.png", "how much is it?"


def request(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Status, decoded body, headers."""
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=60)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        kind = response.headers.get("content-type", "")
        return response.status, json.loads(content) if "json" in kind else content, dict(response.headers)
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),  # a name that was pointed at this machine
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_may_not_ask(headers: dict[str, str], status: int, server: Server) -> None:
    got, body, _ = request(server, "GET", "/v1/models", **headers)
    assert got == status and body["error"]["type"] == "invalid_request_error"


def test_an_open_server_goes_by_no_name_that_a_stranger_could_point_at_it() -> None:
    """DNS rebinding: a page of evil.example, whose name suddenly means this machine, is of the same origin."""
    names = {
        "evil.example": 421,
        "evil.example:8080": 421,
        "192.168.1.5:8080": 200,
        "[::1]": 200,
        "camera": 200,
        "nas.local": 200,
    }
    with serving("--host", "0.0.0.0", "--open") as server:
        for name, status in names.items():
            assert request(server, "GET", "/v1/models", Host=name, Origin=f"http://{name}")[0] == status, name
    with serving("--host", "0.0.0.0", "--token", "secret") as server:
        said = request(server, "GET", "/v1/models", Host="vqa.example", Authorization="Bearer secret")
        assert said[0] == 200, "behind a proxy"


def test_every_reply_bears_what_keeps_it_safe(server: Server) -> None:
    for path in ("/", "/v1/models", "/nothing"):
        _, _, headers = request(server, "GET", path)
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"] and "set-cookie" not in headers
        assert "access-control-allow-origin" not in headers and "server" not in headers


def test_a_line_of_the_log_is_json_whatever_was_asked_for(server: Server) -> None:
    path = '/%7f%1b[31m"\\%c2%85'
    assert request(server, "GET", path)[0] == 404
    until = time.monotonic() + 10
    while not (found := [line for line in server.lines if "[31m" in line]) and time.monotonic() < until:
        time.sleep(0.01)  # it is written when the reply has been sent
    (line,) = found
    assert json.loads(line)["path"] == '/\x7f\x1b[31m"\\\x85' and line.rstrip("\n").isprintable()


@pytest.mark.parametrize("path", ["/nothing", "/../pyproject.toml", "/page.js/../../run.py", "/%2e%2e/run.py"])
def test_no_file_is_served_but_the_page(path: str, server: Server) -> None:
    status, body, _ = request(server, "GET", path)
    assert status == 404 and body["error"]["message"].startswith("there is nothing here")


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    with serving("--token", "secret", "--max-body", "1", "--allow-origin", "http://mine.example") as started:
        yield started


def test_a_token_is_needed_for_everything_but_the_page(guarded: Server) -> None:
    with pytest.raises(openai.AuthenticationError, match="a token is needed"):
        guarded.client(api_key="wrong").models.list()
    for path in ("/metrics", "/v1/models"):
        assert request(guarded, "GET", path)[0] == 401
    for path in ("/", "/page.js", "/health", "/ready"):
        assert request(guarded, "GET", path)[0] == 200
    reply = guarded.client(api_key="secret").chat.completions.create(model="mini", messages=asked(PRICE, QUESTION))
    assert reply.choices[0].message.content == "$4.50"


def test_a_page_that_was_named_may_ask(guarded: Server) -> None:
    origin = {"Origin": "http://mine.example"}
    _, _, headers = request(guarded, "GET", "/v1/models", Authorization="Bearer secret", **origin)
    assert headers["access-control-allow-origin"] == "http://mine.example"
    asks = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization"}
    assert request(guarded, "OPTIONS", "/v1/chat/completions", **origin, **asks)[0] == 200


def test_a_request_that_is_too_large_is_refused_before_it_is_read(guarded: Server) -> None:
    bearer = {"Authorization": "Bearer secret"}
    status, body, _ = request(guarded, "POST", "/v1/chat/completions", b"x" * 2**20 + b"x", **bearer)
    assert status == 413 and "--max-body" in body["error"]["message"]
    connection = http.client.HTTPConnection(urlsplit(guarded.address).netloc, timeout=60)
    parts = (b"x" * 2**16 for _ in range(20))  # without a length: it is counted as it comes
    connection.request("POST", "/v1/chat/completions", parts, bearer, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.fixture
def camera() -> Iterator[str]:
    """A host with a picture; it also sends elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", "/still.png")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PRICE.read_bytes() if self.path == "/still.png" else bytes(40 * 2**20))

        def log_message(self, *_: Any) -> None:
            pass

    host = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}"
    host.shutdown()
    host.server_close()


def test_pictures_are_fetched_from_hosts_that_were_named_and_not_from_where_they_send(camera: str) -> None:
    def ask(client: openai.OpenAI, url: str) -> str | None:
        parts = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": url}}]
        reply = client.chat.completions.create(model="mini", messages=[{"role": "user", "content": parts}])  # type: ignore[list-item,misc]
        return reply.choices[0].message.content

    with serving("--allow-urls", "127.0.0.1") as server:
        client = server.client()
        assert ask(client, f"{camera}/still.png") == "$4.50"
        for path, said in (("elsewhere", "no picture came from"), ("endless", "has more than 32 MB")):
            with pytest.raises(openai.APIStatusError, match=said):
                ask(client, f"{camera}/{path}")
        with pytest.raises(openai.BadRequestError, match="--allow-urls localhost"):
            ask(client, camera.replace("127.0.0.1", "localhost"))


HOSTILE = {
    "no JSON": ("/v1/chat/completions", b"{", {}, 400),
    "deep JSON": ("/v1/chat/completions", b"[" * 100_000, {}, 400),
    "no UTF-8": ("/v1/chat/completions", b'{"messages": "\xff"}', {}, 400),
    "a number of a million digits": ("/v1/chat/completions", b'{"n": ' + b"9" * 10**6 + b"}", {}, 400),
    "a list": ("/v1/chat/completions", b"[]", {}, 400),
    "messages of numbers": ("/v1/chat/completions", b'{"messages": [1, null]}', {}, 400),
    "a role that is a list": ("/v1/chat/completions", b'{"messages": [{"role": []}]}', {}, 400),
    "parts of numbers": ("/v1/chat/completions", b'{"messages": [{"role": "user", "content": [1]}]}', {}, 400),
    "half a surrogate pair": (
        "/v1/chat/completions",
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "\\ud800"}]}]}',
        {},
        400,
    ),
    "a form without a boundary": ("/ask", b"x", {"Content_Type": "multipart/form-data"}, 400),
    "a form that is none": ("/ask", b"--x\r\nnothing", {"Content_Type": "multipart/form-data; boundary=x"}, 400),
    "a form of an unknown encoding": (
        "/ask",
        b"--x--\r\n",
        {"Content_Type": "multipart/form-data; boundary=x; charset=no"},
        400,
    ),
    "no form": ("/ask", b"{}", {"Content_Type": "application/json"}, 415),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_are_refused_in_one_line(name: str, server: Server) -> None:
    path, body, headers, expected = HOSTILE[name]
    status, said, _ = request(server, "POST", path, body, **headers)
    assert status == expected, said
    assert isinstance(said, bytes) or said["error"]["message"]
    assert request(server, "GET", "/ready")[0] == 200 and "Traceback" not in "".join(server.lines)


def test_a_client_that_has_gone_away_is_not_answered() -> None:
    with serving("--queue", "500") as server:
        body = json.dumps({"messages": asked(PRICE, QUESTION)}).encode()
        address = (urlsplit(server.address).hostname, urlsplit(server.address).port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for _ in range(50):
            with socket.create_connection(address) as connection:
                connection.sendall(head + body)
        until = time.monotonic() + 60
        while True:
            counts = request(server, "GET", "/metrics")[1].decode().splitlines()
            found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in counts if line[0] != "#"}
            told = sum('"POST"' in line for line in server.lines)
            if (told == 50 and found["edge_vqa_waiting"] == 0) or time.monotonic() > until:
                break
            time.sleep(0.05)
        assert told == 50 and found["edge_vqa_waiting"] == 0
        assert found['edge_vqa_questions_total{outcome="answered"}'] < 50, found
        assert found['edge_vqa_questions_total{outcome="failed"}'] == 0 and "Traceback" not in "".join(server.lines)
        reply = server.client().chat.completions.create(model="mini", messages=asked(PRICE, QUESTION))
        assert reply.choices[0].message.content == "$4.50"


def test_what_is_being_answered_is_answered_before_the_end() -> None:
    with serving() as server:
        replies: list[str | None] = []

        def ask() -> None:
            reply = server.client().chat.completions.create(model="mini", messages=asked(PRICE, QUESTION))
            replies.append(reply.choices[0].message.content)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        while not any('"POST"' in line for line in server.lines):
            time.sleep(0.001)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert server.process.wait(60) == 0 and set(replies) == {"$4.50"}, replies


# -- start ----------------------------------------------------------------------------------------------------------------


def test_the_whole_network_may_not_ask_unless_it_is_said(run: Run) -> None:
    line = one_line(run("edge-vqa", "serve", "--host", "0.0.0.0", "--port", "0"))
    assert "--token" in line and "--open" in line
    assert "the token is empty" in one_line(run("edge-vqa", "serve", "--token", " "))


def test_a_busy_port_is_one_line(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = one_line(run("edge-vqa", "serve", "--port", taken.getsockname()[1], "--model", "mini"))
    assert "cannot be listened on" in line and "--port" in line


def test_a_bundle_that_does_not_load_ends_the_server(copied: Path, run: Run) -> None:
    (copied / "lm.gguf").write_bytes((copied / "lm.gguf").read_bytes()[:5000])
    resign(copied)
    assert "edge-vqa: " in one_line(run("edge-vqa", "serve", "--port", "0", "--model", copied))
    assert "none" in one_line(run("edge-vqa", "serve", "--port", "0", "--model", "none"))


def test_a_missing_extra_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')")
    import os

    line = one_line(run("edge-vqa", "serve", env=os.environ | {"PYTHONPATH": str(tmp_path)}))
    assert 'serving needs uvicorn, which is not installed: pip install "edge-vqa[serve]"' in line

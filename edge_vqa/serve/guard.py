"""What every request passes before it is read: who may ask, from where, and how much."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_vqa.serve.protocol import RefusedError

BODY_SECONDS = 60.0
MOST_BYTES = 256 * 2**20  # of all bodies that are being received or worked on
OPEN = ("/", "/page.js", "/page.css", "/health", "/ready", "/openapi.json")  # without a token: nothing of anybody's is in them
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Rules:
    """token: that requests must bear; named: whether a request may call this server by a name; origins: of pages elsewhere that
    may ask; body: bytes of a request."""

    token: str | None
    named: Callable[[str], bool]
    origins: Collection[str]
    body: int


class Guard:
    """Around the whole app. log: is told of each request, and of what handlers put into `request.state.said`."""

    def __init__(self, app: ASGIApp, rules: Rules, log: Callable[..., None]) -> None:
        self._app, self._rules, self._log = app, rules, log
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
                return
            await self._app(scope, receive, send)
            return

        began, status, said = time.perf_counter(), 0, scope.setdefault("state", {}).setdefault("said", {})

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        body = _Body(self, receive)
        try:
            self._check(scope, Headers(scope=scope))
            await self._app(scope, body.receive, sending)
        except RefusedError as refused:
            await JSONResponse(refused.as_object(), refused.status, refused.headers)(scope, receive, sending)
        except Exception as error:  # the app has answered with status 500, or cannot any more
            said["error"] = f"{type(error).__name__}: {error}"[:300]
        finally:
            self._bytes -= body.size
            client, path = (scope.get("client") or ("",))[0], scope["path"][:200]
            spent = round(1000 * (time.perf_counter() - began), 1)
            self._log(client=client, method=scope["method"], path=path, status=status, ms=spent, **said)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise RefusedError for a request that is none of the server's."""
        rules, host, origin = self._rules, headers.get("host", ""), headers.get("origin")
        if not rules.named(_name(host)):
            raise RefusedError(421, "this server does not go by that name: ask it by its address, or start it with --token")
        if origin is not None and origin not in rules.origins and origin.partition("://")[2] != host:
            raise RefusedError(403, "pages of other sites may not ask here: start the server with --allow-origin")
        preflight = scope["method"] == "OPTIONS" and origin in rules.origins
        if rules.token is not None and scope["path"] not in OPEN and not preflight:
            given = headers.get("authorization", "")
            kind, _, token = given.partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), rules.token.encode()):
                raise RefusedError(
                    401, "a token is needed: send the header Authorization: Bearer TOKEN", code="invalid_api_key"
                )
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > rules.body:
            raise self._too_large()

    def _too_large(self) -> RefusedError:
        return RefusedError(
            413, f"a request may have {self._rules.body >> 20} MB: send a smaller picture, or start with --max-body"
        )

    def take(self, size: int, so_far: int) -> None:
        """More of a body has come. Raises RefusedError for one that is too large, or where there is too much at once."""
        self._bytes += size
        if so_far > self._rules.body:
            raise self._too_large()
        if self._bytes > max(MOST_BYTES, self._rules.body):
            raise RefusedError(429, "too much is being sent at once: send it again in a moment")


class _Body:
    """The body of a request, on its way in."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self._guard, self._receive = guard, receive
        self._until = asyncio.get_running_loop().time() + BODY_SECONDS
        self.size, self._whole = 0, False

    async def receive(self) -> Message:
        """As ASGI's. Raises RefusedError for a body that is too large or does not end."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise RefusedError(408, f"the request did not end within {BODY_SECONDS:g} seconds") from None
        came = len(message.get("body", b""))
        self.size += came
        self._whole = not message.get("more_body", False)
        self._guard.take(came, self.size)
        return message


def is_local(name: str) -> bool:
    """Whether a name is one that no stranger can point at this machine (DNS rebinding): an address, this machine's own, one
    without a dot, or of a zone that the public DNS leaves to local networks (RFC 6762, RFC 8375, ICANN's .internal)."""
    if "." not in name or name.endswith((".local", ".lan", ".home.arpa", ".internal", ".localhost")):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == socket.gethostname().lower()
    return True


def _name(host: str) -> str:
    """Of a Host header, without the port."""
    return host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0].lower()

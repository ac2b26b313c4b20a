"""The server: its addresses, and what each does. A request becomes a `Job` at the `Desk`, and what that tells a reply."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from edge_vqa.answer import Answer, Token, Verdict
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.prompt import clean_question
from edge_vqa.model import Model
from edge_vqa.serve import described
from edge_vqa.serve.desk import WAITING, BrokenError, ClosingError, Desk, FullError, Job, Told
from edge_vqa.serve.figures import Figures
from edge_vqa.serve.protocol import MOST_PICTURES, Chat, RefusedError, Reply, asking_of, chat_of
from edge_vqa.serve.urls import image_of
from edge_vqa.session.plan import Asking
from edge_vqa.work import told

PAGE = Path(__file__).parent / "page"
LARGE = 2**20  # bytes whose decoding is left to a thread
HEARTBEAT = 10.0  # seconds between signs of life in a stream


@dataclass(frozen=True)
class Limits:
    """waiting: questions; seconds: that one may take, waiting included; body: bytes of a request; urls: hosts that pictures may
    be fetched from; origins: of pages elsewhere that may ask; questions: whether the log may have them."""

    waiting: int = WAITING
    seconds: float = 120.0
    body: int = 32 * 2**20
    urls: Sequence[str] = ()
    origins: Sequence[str] = ()
    questions: bool = False


class Service:
    """One model and its desk, once they are there. load: makes the model; failed: is told why it did not."""

    def __init__(
        self, load: Callable[[], Model], limits: Limits, ready: Callable[[Model], None], failed: Callable[[Exception], None]
    ) -> None:
        self._load, self._limits, self._on_ready, self._on_failure = load, limits, ready, failed
        self._model: Model | None = None
        self._desk: Desk | None = None
        self.figures = Figures(lambda: self._desk.waiting if self._desk is not None else 0)
        routes = [
            Route("/", self._page("index.html")),
            Route("/page.js", self._page("page.js")),
            Route("/page.css", self._page("page.css")),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{name}", self._one_model),
            Route("/ask", self._ask, methods=["POST"]),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/openapi.json", self._openapi),
        ]
        cors = Middleware(CORSMiddleware, allow_origins=limits.origins, allow_methods=["GET", "POST"], allow_headers=["*"])
        self.app = Starlette(
            routes=routes,
            middleware=[cors] if limits.origins else [],
            lifespan=self._lifespan,
            exception_handlers={RefusedError: _refuse, HTTPException: _not_there, ClientDisconnect: _left, Exception: _broken},
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(self._start())
        yield
        with suppress(asyncio.CancelledError):
            await loading
        if self._desk is not None:
            await asyncio.to_thread(self._desk.close)
        if self._model is not None:
            await asyncio.to_thread(self._model.close)

    async def _start(self) -> None:
        try:
            model = await asyncio.to_thread(self._load)
        except Exception as error:
            self._on_failure(error)
            return
        self._model = self.figures.model = model
        self._desk = Desk(model, waiting=self._limits.waiting)
        self._on_ready(model)

    # -- questions ----------------------------------------------------------------------------------------------------

    async def _chat(self, request: Request) -> Response:
        model = self._loaded()
        chat, images = await self._read(request, model.bundle.name)
        wanted = chat.stream and (chat.provisional or chat.how["early"])
        asked = _Asked(self, request, images, chat.question, _bounded(chat.how, model), tokens=wanted)
        del images  # the desk's, until they are opened
        first = await asked.next()
        assert first is not None
        if chat.stream:
            events = self._events(chat, asked, first)
            return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        assert isinstance(first, Verdict)
        return JSONResponse(Reply(chat, asked.extra).whole(first.answer))

    async def _read(self, request: Request, name: str) -> tuple[Chat, list[bytes]]:
        """The request, for the model of that name, and its pictures. Nothing else of the body is kept while it waits."""
        body = b"".join([part async for part in request.stream()])
        chat = chat_of(await _maybe_aside(len(body), lambda: _json(body)))
        if chat.model not in (None, name, "default"):
            said = f"the model here is {name!r}: name it, or leave model out"
            raise RefusedError(404, said, param="model", code="model_not_found")
        far = any(not url.startswith("data:") for url in chat.images)

        def images() -> list[bytes]:
            return [image_of(url, self._limits.urls, self._limits.body) for url in chat.images]

        opened = await _maybe_aside(LARGE if far else len(body), images)
        return replace(chat, images=()), opened

    async def _events(self, chat: Chat, asked: _Asked, first: Told) -> AsyncIterator[str]:
        """The chunks of a stream, each an event."""
        reply, said, event = Reply(chat, asked.extra), False, first
        try:
            yield _event(reply.begin())
            while not isinstance(event, Verdict):
                if isinstance(event, Token):
                    text = event.text if said else event.text.lstrip()
                    said = said or bool(text)
                    if text and (chunk := reply.token(text)) is not None:
                        yield _event(chunk)
                while (following := await asked.next(started=True)) is None:
                    yield ": still at it\n\n"
                event = following
            for chunk in reply.end(event.answer, said=said and chat.how["early"]):
                yield _event(chunk)
        except RefusedError as refused:
            yield _event(refused.as_object())
        finally:
            asked.leave()
        yield "data: [DONE]\n\n"

    async def _ask(self, request: Request) -> Response:
        """A form with pictures and a question; the reply is what `edge-vqa ask --json` prints."""
        self._loaded()
        fields, images = await _form(request)
        question = fields.pop("question", "")
        show = _flag(fields, "show_candidate")
        numbers = {"risk": float, "threshold": float, "max_tokens": int}
        for name, kind in numbers.items():
            if name in fields:
                try:
                    fields[name] = kind(fields[name])
                except ValueError:
                    raise RefusedError(400, f"{name} must be a number", param=name) from None
        how = asking_of(fields | {name: _flag(fields, name) for name in ("early", "gate") if name in fields})
        if not images:
            raise RefusedError(400, "no picture came: curl -F image=@photo.jpg -F question='what is this?' ...", param="image")
        asked = _Asked(self, request, images, question, how, tokens=False)
        del images  # the desk's, until they are opened
        verdict = await asked.next()
        assert isinstance(verdict, Verdict)
        answer = verdict.answer
        made = told.as_object(answer, show_candidate=show) | {"verdict": answer.in_words()}
        return JSONResponse(made | {"queue_s": asked.extra["queue_s"]})

    def _loaded(self) -> Model:
        if self._model is None:
            raise RefusedError(503, "the model is being loaded: ask again in a moment")
        return self._model

    # -- about the server ---------------------------------------------------------------------------------------------

    def _page(self, name: str) -> Callable[[Request], Any]:
        async def page(_: Request) -> Response:
            return FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})

        return page

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [described.model(self._loaded())]})

    async def _one_model(self, request: Request) -> Response:
        model = self._loaded()
        if request.path_params["name"] != model.bundle.name:
            raise RefusedError(404, f"the model here is {model.bundle.name!r}", param="model", code="model_not_found")
        return JSONResponse(described.model(model))

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _: Request) -> Response:
        return JSONResponse({"status": "ready", "model": self._loaded().bundle.name})

    async def _metrics(self, _: Request) -> Response:
        return Response(self.figures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(described.openapi())


class _Asked:
    """A question at the desk, seen from the request that brought it."""

    def __init__(
        self, service: Service, request: Request, images: list[bytes], question: str, how: Asking, *, tokens: bool
    ) -> None:
        self._figures, self._request, self._seconds = service.figures, request, service._limits.seconds
        model, desk, loop = service._loaded(), service._desk, asyncio.get_running_loop()
        assert desk is not None
        self._events: asyncio.Queue[Told] = asyncio.Queue()
        self._until = loop.time() + self._seconds
        self._over = False

        def tell(event: Told) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._events.put_nowait, event)

        client = request.client.host if request.client is not None else ""
        said = request.state.said
        if service._limits.questions:
            said["question"] = question[:1000]
        try:
            asked = clean_question(question)
            self._job = Job(client, images, asked, model.plan(**how), tell, tokens=tokens)
            desk.submit(self._job)
        except EdgeVqaError as error:
            self._figures.count("refused")
            raise RefusedError(400, str(error)) from None
        except FullError:
            self._figures.count("full")
            raise RefusedError(429, "too many questions wait: ask again in a moment") from None
        self.extra: dict[str, Any] = {"model": model.bundle.name}

    async def next(self, *, started: bool = False) -> Told | None:
        """A token, if they are wanted, or the verdict. started: the reply is under way, its own sender sees whether anybody is
        there, and gets None where it is time for a sign of life. Raises RefusedError, ClientDisconnect."""
        left = self._until - asyncio.get_running_loop().time()
        event = asyncio.ensure_future(self._events.get())
        gone = asyncio.ensure_future(_gone(self._request)) if not started else None
        try:
            waited = {event} if gone is None else {event, gone}
            timeout = min(left, HEARTBEAT) if started else left
            await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                return self._judged(event.result())
            if gone is not None and gone.done():
                self.leave()
                raise ClientDisconnect
            if timeout < left:
                return None
            self._leave("late")
            raise RefusedError(504, f"there was no answer within {self._seconds:g} seconds: ask again, or start with --timeout")
        except asyncio.CancelledError:
            self.leave()
            raise
        finally:
            event.cancel()
            if gone is not None:
                gone.cancel()

    def _judged(self, event: Told) -> Told:
        if isinstance(event, Token):
            return event
        self._over = True
        said = self._request.state.said
        if isinstance(event, EdgeVqaError):
            broken = isinstance(event, BrokenError)
            self._figures.count("failed" if broken else "refused")
            raise RefusedError(500 if broken else 503 if isinstance(event, ClosingError) else 400, str(event))
        answer: Answer = event.answer
        queue_s = (self._job.begun or time.perf_counter()) - self._job.arrived
        self._figures.answer(answer, queue_s)
        self.extra["queue_s"] = round(queue_s, 6)
        said.update(abstained=answer.abstained, confidence=round(answer.confidence, 4), queue_ms=round(1000 * queue_s, 1))
        return event

    def leave(self) -> None:
        """Nobody waits any more; nothing happens where the verdict is there."""
        self._leave("withdrawn")

    def _leave(self, outcome: str) -> None:
        if not self._over:
            self._over = self._job.gone = True
            self._figures.count(outcome)


def _bounded(how: Asking, model: Model) -> Asking:
    """Programs bound answers at hundreds of tokens out of habit: that is no wish for longer ones than calibration saw."""
    manifest, most = model.bundle.manifest, how["max_tokens"]
    if manifest.operating_points and most is not None and most >= manifest.prompt.max_tokens:
        return {**how, "max_tokens": None}
    return how


async def _gone(request: Request) -> None:
    """Until the client is."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _maybe_aside(size: int, work: Callable[[], Any]) -> Any:
    """What would hold up other requests is done in a thread."""
    return await asyncio.to_thread(work) if size >= LARGE else work()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not JSON") from None


def _no_number(name: str) -> None:
    raise ValueError(name)


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


async def _form(request: Request) -> tuple[dict[str, Any], list[bytes]]:
    """Fields and pictures of a form, all in memory."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RefusedError(415, "send a form: curl -F image=@photo.jpg -F question='what is this?' ...")
    parser = MultiPartParser(request.headers, request.stream(), max_files=MOST_PICTURES, max_fields=32, max_part_size=LARGE)
    parser.spool_max_size = 2**40  # nothing of a picture on the disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, LookupError) as error:
        raise RefusedError(
            400, f"the form cannot be read ({getattr(error, 'message', None) or type(error).__name__})"
        ) from None
    fields: dict[str, Any] = {}
    images = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name == "image":
                images.append(await value.read())
        elif name == "image":
            raise RefusedError(400, "image is text, not a file: write image=@photo.jpg", param="image")
        else:
            fields[name] = value
    return fields, images


def _flag(fields: dict[str, Any], name: str) -> bool:
    value = str(fields.get(name, "false")).lower()
    if value not in ("true", "false", "1", "0"):
        raise RefusedError(400, f"{name} must be true or false", param=name)
    return value in ("true", "1")


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse(error.as_object(), error.status, error.headers)


async def _not_there(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "there is nothing here: see /openapi.json", 405: "another method is needed here: see /openapi.json"}
    return JSONResponse(
        RefusedError(error.status_code, said.get(error.status_code, error.detail)).as_object(), error.status_code, error.headers
    )


async def _left(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the log says it


async def _broken(_: Request, error: Exception) -> Response:
    return JSONResponse(RefusedError(500, f"internal error ({type(error).__name__})").as_object(), 500)

"""The public interface: load a bundle, ask questions about pictures, get answers or abstentions.

A question goes through `Model.stream`: the picture is opened (`pictures`), encoded (`vision`) and prefilled, the question is
decoded behind it (`llm`), the trace of that becomes a confidence, and the gate answers or abstains (`trust`).

A `Model` may be shared between threads: it answers one question at a time, the others wait. Within one thread a stream must
be read to its end (or closed) before the next question.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import AsyncGenerator, Container, Generator, Iterable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

from edge_vqa.answer import Answer, Event, Verdict
from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError, require
from edge_vqa.llm.prompt import clean_question
from edge_vqa.notebook import thumbnail
from edge_vqa.pictures.open import ImageSource, Picture, open_picture
from edge_vqa.session import many
from edge_vqa.session.options import Options
from edge_vqa.session.plan import Asking, Plan, judge, plan
from edge_vqa.session.session import Seen, Session
from edge_vqa.trust.trace import Timings


def load(name: str | Path | None = None, **options: Any) -> Model:
    """Load a bundle by path or name; without one, the embedded model. options: see `Options`, whose fields they are.

    Raises EdgeVqaError for anything missing, damaged or mismatched, TypeError for an option that there is not.
    """
    began = time.perf_counter()
    require((str, os.PathLike), "a path or a name", name=name)
    chosen = Options(**options)
    bundle = store.read(name)
    store.verify(bundle)
    return Model(bundle, chosen, began=began)


# what `help` and editors show: each option by its name
_OPTIONS = [
    parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in inspect.signature(Options).parameters.values()
]
_NAME = inspect.signature(load).parameters["name"]
load.__signature__ = inspect.Signature([_NAME, *_OPTIONS], return_annotation="Model")  # type: ignore[attr-defined]


class Model(Session):
    """A loaded bundle that answers questions. Owns native memory until `close()` or the end of a `with` block."""

    def __init__(self, bundle: Bundle, options: Options | None = None, *, began: float | None = None) -> None:
        self._turn = threading.Lock()
        self._owner: int | None = None
        self._live: Generator[Any] | None = None
        self._closed = False
        super().__init__(bundle, options, began=began)

    def ask(self, image: ImageSource, question: str, **how: Unpack[Asking]) -> Answer:
        """Answer a question about a picture, or abstain.

        image: path, data URI, bytes of an image file, PIL image, or RGB uint8 array [h, w, 3]. how: see `Asking`. The same
        picture again is not encoded again. Raises EdgeVqaError.
        """
        last = None
        for last in self.stream(image, question, **how):  # noqa: B007 - the last event is the verdict
            pass
        assert isinstance(last, Verdict)
        return last.answer

    def stream(self, image: ImageSource, question: str, **how: Unpack[Asking]) -> Generator[Event]:
        """Like `ask`, token by token: provisional `Token`s as they come, then one `Verdict`.

        With an early confidence method there are no tokens before it has decided: they are final. Of several looks, only the
        last one's tokens come before it has decided.
        """
        chosen = self.plan(**how)
        clean_question(question)  # what is wrong with it is said now

        def events() -> Generator[Event]:
            with self.turn():
                self._live = live
                began = time.perf_counter()
                picture = open_picture(image)
                spent = Timings(load_s=self.load_s)
                for look in chosen.looks:
                    last, held = look is chosen.looks[-1], []
                    steps = look.session.look(
                        picture,
                        question,
                        detail=look.detail,
                        gate=chosen.gate,
                        max_tokens=chosen.max_tokens,
                        early=chosen.early,
                    )
                    for step in steps:
                        if isinstance(step, Seen):
                            seen = step
                        elif last:
                            yield step
                        else:
                            held.append(step)
                    spent = spent.plus(seen.timings)
                    if last or seen.answered:
                        yield from held
                        spent = replace(spent, total_s=time.perf_counter() - began)
                        answer = judge(chosen, look, seen.trace, seen.confidence, seen.familiarity, spent)
                        yield Verdict(replace(answer, thumbnail=thumbnail(picture)))
                        return

        live = events()
        return live

    async def aask(self, image: ImageSource, question: str, **how: Unpack[Asking]) -> Answer:
        """`ask` without holding up an asyncio loop. A task that is cancelled ends it between two tokens."""
        last = None
        async for last in self.astream(image, question, **how):  # noqa: B007 - the last event is the verdict
            pass
        assert isinstance(last, Verdict)
        return last.answer

    async def astream(self, image: ImageSource, question: str, **how: Unpack[Asking]) -> AsyncGenerator[Event]:
        """`stream` for `async for`."""
        from edge_vqa.session import aside

        async with aclosing(aside.steps(lambda: self.stream(image, question, **how))) as events:
            async for event in events:
                yield event

    def ask_many(
        self, asked: Iterable[tuple[ImageSource, str]], *, cuts: Container[int] = (), **how: Unpack[Asking]
    ) -> Generator[Answer | EdgeVqaError]:
        """`ask` for many questions, faster: an Answer for each, in order, or the error that it would have raised.

        Up to `Options.sequences` questions are decoded together, neighbours on one picture share it, and the next pictures are
        opened meanwhile. No more of `asked` is taken than is needed for that. Rounding depends on what is decoded together.
        cuts: numbers of questions behind which nothing depends on those before.
        """
        if not isinstance(asked, Iterable):
            raise TypeError(f"asked must be pairs of an image and a question, not {type(asked).__name__}")
        chosen = self.plan(**how)

        def answers() -> Generator[Answer | EdgeVqaError]:
            with self.turn():
                self._live = live
                yield from many.run(self, asked, chosen, cuts)

        live = answers()
        return live

    def turn(self) -> _Turn:
        """For a `with` block in which this thread alone may use the session. Raises EdgeVqaError as `ask` does."""
        return _Turn(self)

    def plan(self, **how: Unpack[Asking]) -> Plan:
        """What `ask` will do with these settings. Raises EdgeVqaError for settings that do not work."""
        return plan(self, **how)

    def open(self, image: ImageSource, *, detail: str | None = None) -> OpenPicture:
        """Encode a picture once for many questions: `with model.open("photo.jpg") as picture: picture.ask("...")`."""
        look = self.plan(detail=detail).looks[0]
        picture = open_picture(image)
        with self.turn():
            self.show(picture, look.detail)
        return OpenPicture(self, picture, detail)

    def speed(self, prompt: int, answer: int) -> tuple[float, float]:
        """See `Engine.speed`."""
        with self.turn():
            return super().speed(prompt, answer)

    def close(self) -> None:
        """Free all native memory; safe to call twice."""
        if self._closed:
            return
        if self._owner == threading.get_ident() and self._live is not None:
            self._live.close()  # an unfinished stream of this thread ends here
        with self._turn:  # a question of another thread is answered first
            self._closed = True
            super().close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class OpenPicture:
    """A picture that stays open for questions. Another picture asked in between only costs decoding this one again."""

    def __init__(self, model: Model, picture: Picture, detail: str | None) -> None:
        self._model, self._picture, self._detail = model, picture, detail

    def ask(self, question: str, **how: Unpack[Asking]) -> Answer:
        """See `Model.ask`; at the detail that the picture was opened with, where no other is given."""
        return self._model.ask(self._picture, question, **self._at_detail(how))

    def stream(self, question: str, **how: Unpack[Asking]) -> Iterator[Event]:
        """See `Model.stream`."""
        return self._model.stream(self._picture, question, **self._at_detail(how))

    def _at_detail(self, how: Asking) -> Asking:
        if how.get("detail") is None:
            how["detail"] = self._detail
        return how

    def close(self) -> None:
        """Nothing native belongs to the picture alone; its place in the KV cache goes to the next one."""

    def __enter__(self) -> OpenPicture:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Turn:
    """One question at a time: waits for other threads, and refuses a second question inside one's own open stream."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __enter__(self) -> None:
        model = self._model
        if model._owner == threading.get_ident():
            raise EdgeVqaError("a stream of this model is still open", "read it to its end or close it first")
        model._turn.acquire()
        if model._closed:
            model._turn.release()
            raise EdgeVqaError("the model is closed", "load it again")
        model._owner = threading.get_ident()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._model._owner = self._model._live = None
        self._model._turn.release()

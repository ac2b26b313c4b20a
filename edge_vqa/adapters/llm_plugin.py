"""Bundles as models of Simon Willison's `llm` (https://llm.datasette.io).

llm -m edge-vqa/base -a photo.jpg "what is this?"
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import llm
from llm.parts import AttachmentPart, TextPart

from edge_vqa.bundles import store
from edge_vqa.errors import EdgeVqaError

if TYPE_CHECKING:
    from edge_vqa.answer import Answer
    from edge_vqa.model import Model

KINDS = {f"image/{kind}" for kind in ("jpeg", "png", "gif", "bmp", "webp", "tiff", "avif", "heic")}


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Every bundle that `edge-vqa models list` lists."""
    for name in store.known():
        register(EdgeVqa(name), AsyncEdgeVqa(name))


@cache
def _loaded(name: str) -> Model:
    from edge_vqa.model import load

    return load(name)


class Options(llm.Options):
    """See `edge_vqa.session.plan.Asking`. verdict: print, behind the answer, how it was judged."""

    risk: float | None = None
    threshold: float | None = None
    gate: bool = True
    detail: str | None = None
    verdict: bool = True


class _Bundle:
    """What both interfaces of `llm` share."""

    attachment_types = KINDS
    Options = Options

    def __init__(self, name: str) -> None:
        self.model_id, self._name = f"edge-vqa/{name}", name

    def _asked(self, prompt: llm.Prompt) -> tuple[list[str | bytes], str, dict[str, Any]]:
        """Pictures, question and settings. A question without a picture is about those of the one before."""
        if prompt.system:
            raise EdgeVqaError(f"{self.model_id} follows no system prompt", "ask a question about a picture")
        said = [message for message in prompt.messages if message.role == "user"]
        with_pictures = (parts for parts in reversed([message.parts for message in said]) if _pictures(parts))
        pictures = _pictures(next(with_pictures, []))
        if not pictures:
            raise EdgeVqaError("there is no picture", "attach one: -a photo.jpg")
        question = "\n".join(part.text for part in said[-1].parts if isinstance(part, TextPart))
        how = prompt.options.model_dump(exclude={"verdict"})
        return [one.path or bytes(one.content_bytes()) for one in pictures], question, how  # type: ignore[no-untyped-call]

    def _told(self, answer: Answer, prompt: llm.Prompt, response: Any) -> str:
        """The text of a response; its JSON, which `llm logs` keeps, is that of `ask --json`."""
        from edge_vqa.work import told

        response.response_json = told.as_object(answer, show_candidate=False)
        lines = [answer.text] if answer.text is not None else []
        assert isinstance(prompt.options, Options)
        if prompt.options.verdict:
            lines.append(answer.in_words())
        return "\n".join(lines)


def _pictures(parts: list[Any]) -> list[llm.Attachment]:
    return [part.attachment for part in parts if isinstance(part, AttachmentPart) and part.attachment]


class EdgeVqa(_Bundle, llm.Model):  # type: ignore[misc]
    """Nothing is streamed: the gate decides when the answer is whole."""

    def execute(self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: Any) -> Iterator[str]:
        try:
            pictures, question, how = self._asked(prompt)
            yield self._told(_loaded(self._name).ask(pictures, question, **how), prompt, response)
        except EdgeVqaError as error:
            raise llm.ModelError(str(error)) from None


class AsyncEdgeVqa(_Bundle, llm.AsyncModel):  # type: ignore[misc]
    """The same for `await`."""

    async def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.AsyncResponse, conversation: Any
    ) -> AsyncGenerator[str]:
        try:
            pictures, question, how = self._asked(prompt)
            model = await asyncio.to_thread(_loaded, self._name)
            yield self._told(await model.aask(pictures, question, **how), prompt, response)
        except EdgeVqaError as error:
            raise llm.ModelError(str(error)) from None

"""OpenAI's chat completions: a request -> a question with pictures; an answer or an abstention -> their objects.

What the format knows is said in its own fields: an answer in `message.content`, an abstention in `message.refusal`. All else is
in one more object, `edge_vqa`, which clients may ignore.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edge_vqa.answer import Answer
from edge_vqa.session.plan import Asking
from edge_vqa.visible import visible
from edge_vqa.work import told

MOST_PICTURES = 16  # of a question
# what a request may say and nothing comes of, because answers are greedy and one question long
_IGNORED: dict[str, tuple[Any, ...]] = {
    **{"temperature": (0, 1, None), "top_p": (1, None), "presence_penalty": (0, None), "frequency_penalty": (0, None)},
    **{"seed": (None,), "stop": (None,), "tools": (None, []), "tool_choice": (None, "none", "auto"), "logit_bias": (None, {})},
    **{"response_format": (None, {"type": "text"}), "reasoning_effort": (None,)},
}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", list: "a list", dict: "an object"}


class RefusedError(Exception):
    """A request that is not served: an HTTP status, and what OpenAI's error object says."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, visible(message, lines=True), param, code
        self.headers = {"Retry-After": "1"} if status in (429, 503) else {}

    def as_object(self) -> dict[str, Any]:
        """The body of the response."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status)
        kind = kind or ("invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Chat:
    """What a request asks. images: data URIs or addresses; ignored: what it says beside and nothing comes of."""

    model: str | None
    question: str
    images: tuple[str, ...]
    how: Asking
    stream: bool
    usage: bool
    logprobs: bool
    provisional: bool
    show_candidate: bool
    ignored: tuple[str, ...]


def field(body: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """A value of a request, of its type; null is like none."""
    value = body.get(name)
    if value is None:
        return default
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise RefusedError(400, f"{name} must be {_KINDS[kind]}", param=name)
    return value


def asking_of(body: Mapping[str, Any]) -> Asking:
    """How to ask: risk, threshold, gate, detail, max_tokens, early."""
    most = field(body, "max_completion_tokens", int, field(body, "max_tokens", int))
    return {
        "risk": field(body, "risk", float),
        "threshold": field(body, "threshold", float),
        "gate": field(body, "gate", bool, True),
        "detail": field(body, "detail", str),
        "max_tokens": most,
        "early": field(body, "early", bool, False),
    }


def chat_of(body: Any) -> Chat:
    """Raises RefusedError for what is not a question about a picture."""
    if not isinstance(body, dict):
        raise RefusedError(400, "the request must be a JSON object")
    if field(body, "n", int, 1) != 1:
        raise RefusedError(400, "there is one answer to a question: leave out n", param="n")
    messages = field(body, "messages", list, [])
    if not messages:
        raise RefusedError(400, "messages are missing: give one with a picture and a question", param="messages")
    ignored = [key for key, without in _IGNORED.items() if key in body and body[key] not in without]
    users = [number for number, message in enumerate(messages) if _role(message, number) == "user"]
    if not users:
        raise RefusedError(400, "no message has the role user", param="messages")
    texts, images = _parts(messages[users[-1]].get("content"), users[-1])
    for number in reversed(users[:-1]):  # a further question on the picture of an earlier turn
        if not images:
            images = _parts(messages[number].get("content"), number)[1]
    if len(messages) > 1:
        ignored.append("messages but the last question and the last pictures")
    if not images:
        raise RefusedError(400, "no message has a picture: give it as a part of type image_url", param="messages")
    if len(images) > MOST_PICTURES:
        raise RefusedError(400, f"{len(images)} pictures are too many: give at most {MOST_PICTURES}", param="messages")
    options = field(body, "stream_options", dict, {})
    field(body, "top_logprobs", int)
    return Chat(
        model=field(body, "model", str),
        question="\n".join(texts),
        images=tuple(images),
        how=asking_of(body),
        stream=field(body, "stream", bool, False),
        usage=field(options, "include_usage", bool, False),
        logprobs=field(body, "logprobs", bool, False),
        provisional=field(body, "provisional", bool, False),
        show_candidate=field(body, "show_candidate", bool, False),
        ignored=tuple(ignored),
    )


def _role(message: Any, number: int) -> str:
    if not isinstance(message, dict):
        raise RefusedError(400, f"messages[{number}] must be an object", param="messages")
    role: str = field(message, "role", str, "")
    return role


def _parts(content: Any, number: int) -> tuple[list[str], list[str]]:
    """Texts and pictures of a message."""
    where = f"messages[{number}].content"
    if isinstance(content, str):
        return [content], []
    if not isinstance(content, list):
        raise RefusedError(400, f"{where} must be a string or a list of parts", param="messages")
    texts, images = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
            continue
        image = part.get("image_url") if kind == "image_url" else None
        url = image.get("url") if isinstance(image, dict) else image
        if not isinstance(url, str):
            raise RefusedError(400, f"{where} has a part that is neither text nor image_url with a url", param="messages")
        images.append(url)
    return texts, images


# -- answers --------------------------------------------------------------------------------------------------------------


class Reply:
    """The objects of one reply. extra: what is said beside the verdict."""

    def __init__(self, chat: Chat, extra: Mapping[str, Any]) -> None:
        self._chat, self._extra = chat, extra
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": extra["model"]}

    def whole(self, answer: Answer) -> dict[str, Any]:
        """A `chat.completion`."""
        message = {"role": "assistant", "content": answer.text or "", "refusal": _refusal(answer)}
        choice = {"index": 0, "message": message, "logprobs": self._logprobs(answer), "finish_reason": _reason(answer)}
        made = self._head | {"object": "chat.completion", "choices": [choice], "usage": _usage(answer)}
        return made | {"edge_vqa": self._verdict(answer)}

    def begin(self) -> dict[str, Any]:
        """The first chunk of a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def token(self, text: str) -> dict[str, Any] | None:
        """A token as it comes: content where it is final; where it is not, beside it, for those who asked for it."""
        if self._chat.how["early"]:
            return self._chunk({"content": text})
        return self._chunk({}) | {"edge_vqa": {"provisional": text}} if self._chat.provisional else None

    def end(self, answer: Answer, *, said: bool) -> Iterator[dict[str, Any]]:
        """The last chunks. said: all tokens were content already."""
        if answer.text is None:
            yield self._chunk({"refusal": _refusal(answer)})
        elif not said or self._chat.logprobs:
            yield self._chunk({} if said else {"content": answer.text}, logprobs=self._logprobs(answer))
        yield self._chunk({}, finish=_reason(answer)) | {"edge_vqa": self._verdict(answer)}
        if self._chat.usage:
            yield self._head | {"object": "chat.completion.chunk", "choices": [], "usage": _usage(answer)}

    def _chunk(self, delta: dict[str, Any], *, finish: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}

    def _verdict(self, answer: Answer) -> dict[str, Any]:
        made = told.as_object(answer, show_candidate=self._chat.show_candidate)
        del made["answer"], made["tokens"]
        said = {"verdict": answer.in_words()}
        return made | said | {"ignored": list(self._chat.ignored)} | {k: v for k, v in self._extra.items() if k != "model"}

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        """Of an answer's tokens; of one that was withheld nothing. The alternatives to a token are not kept."""
        if not self._chat.logprobs or answer.text is None:
            return None
        tokens = [
            {"token": token.text, "logprob": token.logprob, "bytes": list(token.text.encode()), "top_logprobs": []}
            for token in answer.trace.tokens
        ]
        return {"content": tokens, "refusal": None}


def _refusal(answer: Answer) -> str | None:
    return answer.in_words() if answer.abstained else None


def _reason(answer: Answer) -> str:
    return "stop" if answer.abstained or answer.trace.ended else "length"


def _usage(answer: Answer) -> dict[str, int]:
    prompt, spent = answer.trace.prompt_tokens, len(answer.trace.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": spent, "total_tokens": prompt + spent}

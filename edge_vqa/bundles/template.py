"""Renders a model's chat template once, when a bundle is made, into the pieces that the runtime puts around a picture.

Needs jinja2, which llama-cpp-python installs; nothing of it is used when questions are answered.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_vqa.border import child, untrusted
from edge_vqa.bundles.manifest import Prompt, Thinking, check_prompt
from edge_vqa.errors import EdgeVqaError

MOST = 2**20  # bytes of a template, and characters of what it writes
SECONDS, MEMORY = 10.0, 512 * 2**20  # that rendering may take
THOUGHT = ("<think>", "</think>")  # what goes around the thought of models that think before they answer
UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # token types of gguf
_QUESTION, _PICTURE = "\x02question\x03", "\x02picture\x03"


@dataclass(frozen=True)
class Vocabulary:
    """What rendering needs of a tokenizer: `tokens` and `types` are lists by id, `special` ids by role (bos, eos, ...).

    starts_with_bos: the tokenizer puts its first token before any text. unicode: normal form that text is put into, or "".
    """

    tokens: list[str]
    types: list[int]
    special: dict[str, int]
    chat_template: str
    starts_with_bos: bool
    unicode: str


def render(
    words: Vocabulary,
    image_token: str | None,
    around: tuple[str, str] = ("", ""),
    *,
    instruction: str,
    max_tokens: int,
    detail: str,
    several: bool = False,
) -> Prompt:
    """One user turn of a picture and a question, up to where the answer begins.

    image_token is what the template writes for a picture, around what the model's processor puts before and behind the picture
    that takes its place; None: llama.cpp writes what goes around a picture itself, and the picture stands right before the
    question, as in its own command line tool. several: whether the model takes more than one picture a question.
    """
    text, content, mark = _written(words, image_token)
    if text.count(mark) != 1 or text.count(_QUESTION) != 1 or text.index(mark) > text.index(_QUESTION):
        raise EdgeVqaError(
            "the chat template does not put one picture before the question", "give another with --chat-template"
        )
    joint = _joint(words, text, mark, around) if several and image_token is not None else None
    before, rest = text.split(mark)
    before, rest = before + around[0], around[1] + rest
    lead, tail = rest.split(_QUESTION)
    if words.starts_with_bos and "bos" in words.special and words.tokens[words.special["bos"]] not in text:
        before = words.tokens[words.special["bos"]] + before
    special = _special(words)
    # The plain text right before and behind the question is tokenised together with it: `between` ends with the last
    # special token before the question, `after` begins with the first one behind it.
    ends = [found.end() for found in special.finditer(lead)]
    found = special.search(tail)
    start, cut = ends[-1] if ends else 0, found.start() if found else len(tail)
    prompt = Prompt(
        before=before,
        between=lead[:start],
        question=f"{lead[start:]}{{question}}{tail[:cut]}",
        after=tail[cut:],
        template_sha256=hashlib.sha256(words.chat_template.encode()).hexdigest(),
        instruction=instruction,
        stop=(words.tokens[words.special["eos"]],) if "eos" in words.special else (),
        max_tokens=max_tokens,
        detail=detail,
        unicode=words.unicode,
        joint=joint,
        thinking=_thinking(words, text, tail[cut:], content),
    )
    try:
        check_prompt(prompt)
    except ValueError as error:
        raise EdgeVqaError(str(error), "choose another value") from None
    return prompt


def _written(words: Vocabulary, image_token: str | None) -> tuple[str, Any, str]:
    """What the template writes for a picture and a question, what it was given, and what stands for the picture."""
    question: list[dict[str, str]] = [{"type": "text", "text": _QUESTION}]
    content: Any
    if image_token is not None:
        content = [{"type": "image"}, *question]
        return _apply(words, content), content, image_token
    content = _PICTURE + _QUESTION
    try:
        text = _apply(words, content)
    except EdgeVqaError:
        text = ""
    if text.count(_PICTURE) != 1:  # a template that takes lists only
        content = [{"type": "text", "text": content}]
        text = _apply(words, content)
    return text, content, _PICTURE


def _special(words: Vocabulary) -> re.Pattern[str]:
    """Control tokens, and marks that a file calls user-defined: llama.cpp takes some of them, as <turn|>, for control too."""
    control = [
        token
        for token, kind in zip(words.tokens, words.types, strict=True)
        if kind == CONTROL or (kind == USER_DEFINED and token[:1] + token[-1:] in ("<>", "[]"))
    ]
    return re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or r"(?!)")


def _thinking(words: Vocabulary, text: str, after: str, content: Any) -> Thinking | None:
    """How a model with the usual tokens thinks. text: what the template writes for `content`, which ends with `after`."""
    begin, end = THOUGHT
    if not {begin, end} <= set(words.tokens):
        return None
    try:
        quiet = _apply(words, content, enable_thinking=False)
    except EdgeVqaError:
        quiet = text
    same = len(text) - len(after)
    skip = quiet[same:] if quiet != text and quiet[:same] == text[:same] else None
    return Thinking(begin, end, after.rfind(begin) > after.rfind(end), skip)


def _joint(words: Vocabulary, text: str, mark: str, around: tuple[str, str]) -> str | None:
    """What stands between two pictures; None where the template writes two in another way than one. text: written for one."""
    try:
        both = _apply(words, [{"type": "image"}, {"type": "image"}, {"type": "text", "text": _QUESTION}])
    except EdgeVqaError:
        return None
    begin, _, end = text.partition(mark)
    if both.count(mark) != 2 or not both.startswith(begin + mark) or not both.endswith(mark + end):
        return None
    return around[1] + both.split(mark)[1] + around[0]


def read(path: Path | None) -> str | None:
    """A chat template that the user gives instead of the model's."""
    try:
        return untrusted.read_text(path, MOST) if path else None
    except (OSError, ValueError) as error:
        raise EdgeVqaError(f"{path} cannot be read ({error})", "give a text file") from None


def _apply(words: Vocabulary, content: Any, **more: Any) -> str:
    """What the template writes for one message. It is a program that somebody else wrote: a child process runs it. more:
    variables of templates that know them."""
    variables = {
        "messages": [{"role": "user", "content": content}],
        "add_generation_prompt": True,
        **{f"{role}_token": words.tokens[number] for role, number in words.special.items()},
        **more,
    }
    request = {"template": words.chat_template, "variables": variables}
    ended = child.run("edge_vqa.bundles.template", request, seconds=SECONDS, memory=MEMORY)
    if not ended.started:
        raise EdgeVqaError(f"{ended.reason} to render the chat template", "allow processes")
    failed = ended.reason or next((line["failed"] for line in ended.lines if "failed" in line), "")
    if failed or not ended.lines:
        raise EdgeVqaError(f"the chat template does not render ({failed or 'it ended'})", "give another with --chat-template")
    return str(ended.lines[0]["text"])


def main(request: dict[str, Any]) -> Iterator[dict[str, str]]:
    """In the child: request of `_apply` -> {"text"} or {"failed"}."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        text = environment.from_string(request["template"]).render(**request["variables"])
    except MemoryError:
        yield {"failed": f"it needs more than {MEMORY >> 20} MB"}
    except RecursionError:
        yield {"failed": "it calls itself without end"}
    except Exception as error:  # whatever a program may raise
        yield {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
    else:
        yield {"text": text} if len(text) <= MOST else {"failed": f"it writes more than {MOST >> 20} MB"}

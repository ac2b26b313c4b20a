"""Renders a model's chat template once, on the workstation, into the pieces that the runtime puts around a picture."""

from __future__ import annotations

import hashlib
import re

from converters.tokenizer import CONTROL, Tokenizer
from edge_vqa.bundle import Prompt
from edge_vqa.errors import EdgeVqaError

_QUESTION = "\x02question\x03"


def render(tokenizer: Tokenizer, image_token: str, *, instruction: str, max_tokens: int, detail: str) -> Prompt:
    """One user turn of a picture and a question, up to where the answer begins."""
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    content = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
    try:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        text = environment.from_string(tokenizer.chat_template).render(
            messages=[{"role": "user", "content": content}],
            add_generation_prompt=True,
            **{f"{role}_token": tokenizer.tokens[number] for role, number in tokenizer.special.items()},
        )
    except TemplateError as error:
        raise EdgeVqaError(f"the chat template does not render ({error})", "use an original checkpoint") from None
    if text.count(image_token) != 1 or text.count(_QUESTION) != 1 or text.index(image_token) > text.index(_QUESTION):
        raise EdgeVqaError("the chat template does not put one picture before the question", "use an original checkpoint")
    before, rest = text.split(image_token)
    lead, tail = rest.split(_QUESTION)
    control = [token for token, kind in zip(tokenizer.tokens, tokenizer.types, strict=True) if kind == CONTROL]
    # the plain text right behind the question is tokenised together with it; `after` begins at the first special token
    found = re.search("|".join(map(re.escape, control)), tail) if control else None
    cut = found.start() if found else len(tail)
    return Prompt(
        before=before,
        question=f"{lead}{{question}}{tail[:cut]}",
        after=tail[cut:],
        template_sha256=hashlib.sha256(tokenizer.chat_template.encode()).hexdigest(),
        instruction=instruction,
        stop=(tokenizer.tokens[tokenizer.special["eos"]],),
        max_tokens=max_tokens,
        detail=detail,
    )

"""Models that think before they answer: where the answer begins, and an end to a thought that takes too long.

What is thought counts for no confidence: nothing of it is in a trace.
"""

from __future__ import annotations

from edge_vqa.bundles.manifest import Thinking
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.llama import Llama


class Tokens:
    """The tokens of an LM around a thought, and how many it may hold. Raises EdgeVqaError for marks that are no tokens."""

    def __init__(self, lm: Llama, thinking: Thinking) -> None:
        marks = [lm.tokenize(mark, special=True) for mark in (thinking.begin, thinking.end)]
        if any(len(mark) != 1 for mark in marks):
            raise EdgeVqaError(f"the LM knows no {thinking.begin}", "convert the bundle again")
        (self.begin,), (self.end,) = marks
        self.begun, self.most = thinking.begun, thinking.most
        self.cut = [self.end, *lm.tokenize("\n\n", special=False)]  # what ends a thought that takes too long


class Thought:
    """Of one answer in the making. most: tokens of the thought."""

    def __init__(self, lm: Llama, tokens: Tokens, most: int) -> None:
        self._lm, self._tokens, self._left = lm, tokens, most
        self._forced: list[int] = []
        self._state = self._within if tokens.begun else self._before

    def after(self, chosen: int) -> int | None:
        """What is decoded next in place of a chosen token, or with it, and is no part of the answer; None: the token is."""
        if self._forced:
            return self._forced.pop(0)
        if self._lm.is_end(chosen):  # it says nothing more
            self._state = self._over
        return self._state(chosen)

    def _before(self, chosen: int) -> int | None:
        self._state = self._within if chosen == self._tokens.begin else self._over
        return self._state(chosen)

    def _within(self, chosen: int) -> int:
        self._left -= 1
        if chosen == self._tokens.end:
            self._state = self._behind
        elif self._left <= 0:
            first, *self._forced = self._tokens.cut
            self._state = self._behind
            return first
        return chosen

    def _behind(self, chosen: int) -> int | None:
        """White space is no part of the answer."""
        if not self._lm.piece(chosen).strip():
            return chosen
        self._state = self._over
        return None

    def _over(self, chosen: int) -> None:
        return None

"""Packs all questions of a picture behind one image prefix: token ids, positions, segments and targets of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from recipes.mini.model import SHIPPED
from recipes.mini.questions import Question

IGNORE = -100
PREFIX = (
    "<|im_start|>User:<fake_token_around_image><global-img>" + "<image>" * SHIPPED.image_tokens + "<fake_token_around_image>"
)


@dataclass(frozen=True)
class Packed:
    """A batch of b pictures, t tokens each (padded). Targets are shifted: targets[i] is what token i should predict."""

    ids: Tensor  # int64 [b, t]
    positions: Tensor  # int64 [b, t], each question restarts behind the prefix
    segments: Tensor  # int64 [b, t]: 0 prefix, 1.. questions, -1 padding
    targets: Tensor  # int64 [b, t]: the answer's tokens, IGNORE elsewhere
    weights: Tensor  # float [b, t]: of the targets; an answer of n tokens weighs sqrt(n), so that "yes" still counts


class Packer:
    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.prefix = tokenizer.encode(PREFIX, add_special_tokens=False)
        self.encode = lru_cache(maxsize=200_000)(self._encode)

    def _encode(self, question: str, answer: str, spelled: bool) -> tuple[list[int], int]:
        """Ids of one question with its answer, and how many of them are the answer (end token included)."""
        asked = self._ids(f"{question}<end_of_utterance>\nAssistant:")
        parts = [f" {answer[0]}", *answer[1:]] if spelled else [f" {answer}"]
        answered = [token for part in (*parts, "<end_of_utterance>") for token in self._ids(part)]
        return asked + answered, len(answered)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def __call__(self, batch: list[list[Question]], limit: int = 1000) -> Packed:
        """batch: for each picture its questions; those beyond `limit` tokens are left out. What is read is answered letter by
        letter, so that no word is new."""
        rows = []
        for questions in batch:
            ids, positions = list(self.prefix), list(range(len(self.prefix)))
            segments, targets, weights = [0] * len(ids), [IGNORE] * len(ids), [0.0] * len(ids)
            for number, (kind, question, answer) in enumerate(questions, 1):
                tokens, answered = self.encode(question, answer, kind.startswith("read"))
                if len(ids) + len(tokens) > limit:
                    break
                ids += tokens
                positions += range(len(self.prefix), len(self.prefix) + len(tokens))
                segments += [number] * len(tokens)
                targets += [IGNORE] * (len(tokens) - answered - 1) + tokens[-answered:] + [IGNORE]
                weights += [answered**-0.5] * len(tokens)
            rows.append((ids, positions, segments, targets, weights))
        longest = max(len(row[0]) for row in rows)
        fill = (self.tokenizer.pad_token_id, 0, -1, IGNORE, 0.0)
        columns = [torch.tensor([row[i] + [fill[i]] * (longest - len(row[i])) for row in rows]) for i in range(len(fill))]
        return Packed(*columns)

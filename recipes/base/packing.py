"""Packs the questions of a picture behind its image tokens: each sees the picture and itself, none sees another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

IGNORE = -100
BEFORE, AFTER, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"


@dataclass(frozen=True)
class Packed:
    """b pictures, t places each. Targets are shifted: targets[i] is what place i should predict."""

    ids: Tensor  # int64 [b, t]; where an image token stands, any
    image: Tensor  # bool [b, t]
    positions: Tensor  # int64 [b, t]; each question begins behind the picture
    mask: Tensor  # float [b, 1, t, t], added to the attention's logits
    targets: Tensor  # int64 [b, t]: the answers' tokens, IGNORE elsewhere
    weights: Tensor  # float [b, t]: an answer of n tokens weighs sqrt(n), so that "yes" still counts


class Packer:
    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_tokens: int) -> None:
        self._tokenizer, self._image_tokens = tokenizer, image_tokens
        self.before = self._ids(BEFORE)
        self.encode = lru_cache(maxsize=200_000)(self._encode)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _encode(self, question: str, answer: str, spelled: bool) -> tuple[list[int], int]:
        """Ids of a question with its answer, and how many of them are the answer's, its end included. What is read is answered
        letter by letter, so that no word is new."""
        answered = [token for part in (*(answer if spelled else (answer,)), END) for token in self._ids(part)]
        return [*self._ids(question), *self._ids(AFTER), *answered], len(answered)

    def __call__(self, batch: Sequence[Sequence[tuple[str, str, str]]]) -> Packed:
        """batch: of each picture its (kind, question, answer)."""
        rows = []
        prefix = len(self.before) + self._image_tokens
        for asked in batch:
            ids, image = [*self.before, *[0] * self._image_tokens], [False] * len(self.before) + [True] * self._image_tokens
            positions, segments = list(range(prefix)), [0] * prefix
            targets, weights = [IGNORE] * prefix, [0.0] * prefix
            for number, (kind, question, answer) in enumerate(asked, 1):
                tokens, answered = self.encode(question, answer, kind.startswith("read"))
                ids += tokens
                image += [False] * len(tokens)
                positions += range(prefix, prefix + len(tokens))
                segments += [number] * len(tokens)
                targets += [IGNORE] * (len(tokens) - answered - 1) + tokens[-answered:] + [IGNORE]
                weights += [answered**-0.5] * len(tokens)
            rows.append((ids, image, positions, segments, targets, weights))
        longest = max(len(row[0]) for row in rows)
        fill = (0, False, 0, -1, IGNORE, 0.0)
        ids_, image_, positions_, segments_, targets_, weights_ = (
            torch.tensor([row[i] + [fill[i]] * (longest - len(row[i])) for row in rows]) for i in range(len(fill))
        )
        same = (segments_[:, :, None] == segments_[:, None, :]) | (segments_[:, None, :] == 0)
        seen = same & torch.ones(longest, longest).tril().bool()
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        return Packed(ids_, image_, positions_, mask, targets_, weights_)

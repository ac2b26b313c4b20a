"""What recovery learns from: pictures with questions, and what the teacher answers. No labels are needed.

All questions about a picture stand in one row behind it: each sees the picture and itself, none sees another, so that a picture
is worked out once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from converters.calibration import positions_of
from edge_vqa.bundles.manifest import Preprocessing, Prompt
from edge_vqa.errors import EdgeVqaError
from edge_vqa.llm.engine import Engine, cells_of, room_for
from edge_vqa.llm.prompt import picture_pieces, question_pieces
from edge_vqa.pictures.open import open_picture
from edge_vqa.vision.tokens import ImageTokens, Part
from edge_vqa.work.questions import Question

TOGETHER = 8  # questions that the teacher answers at once
LEAST = 100  # questions, on a quarter as many pictures
IMAGE = -1  # in place of a token's id


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture and its questions: a row of n tokens.

    tokens: int64 [n], IMAGE where an embedding of `image`, float16 [m, hidden], stands. positions: float32 [4, n].
    segment: int64 [n], 0 for the picture and what comes before it, then the number of the question. places: int64 [a], whose
    logits predict the answers' tokens `said`, int64 [a]; question: int64 [a], from 0 on.
    """

    tokens: Tensor
    image: Tensor
    positions: Tensor
    segment: Tensor
    places: Tensor
    said: Tensor
    question: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def seen(self) -> Tensor:
        """Which token sees which, bool [n, n]."""
        same = (self.segment[:, None] == self.segment) | (self.segment == 0)
        return same & torch.ones(len(self), len(self), dtype=torch.bool).tril()


def grouped(questions: Sequence[Question]) -> dict[Path, list[Question]]:
    """By picture, in order. Raises EdgeVqaError where there are too few."""
    groups: dict[Path, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.image, []).append(question)
    if len(questions) < LEAST or len(groups) < LEAST // 4:
        raise EdgeVqaError(
            f"{len(questions)} questions on {len(groups)} pictures are too few to recover on",
            f"give {LEAST} or more, on {LEAST // 4} or more pictures; answers are not needed",
        )
    return groups


def collect(
    teacher: Path,
    tower: Path,
    backend: str,
    preprocessing: Preprocessing,
    prompt: Prompt,
    questions: Sequence[Question],
    threads: int,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Shown]:
    """Ask the teacher everything. teacher: its gguf; tower, backend: what makes image tokens of pictures."""
    engine = Engine(
        teacher, tower, preprocessing, backend=backend, context=2 * room_for(preprocessing), threads=threads, sequences=TOGETHER
    )
    try:
        made, done = [], 0
        for path, group in grouped(questions).items():
            pieces = picture_pieces(open_picture(path), prompt.detail, prompt, preprocessing)
            parts = list(engine.embed(pieces))
            room = engine.lm.n_ctx - sum(map(cells_of, parts)) - 1
            asked = [question_pieces(question.question, prompt) for question in group]
            tokens = [engine.tokens(pieces) for pieces in asked]
            answered: list[tuple[list[int], list[int]]] = []
            while (first := len(answered)) < len(asked):
                last = first + _fitting([len(one) + prompt.max_tokens for one in tokens[first:]], room)
                traces = engine.answer_together([parts], [(0, one) for one in asked[first:last]], prompt.max_tokens)
                answered += zip(tokens[first:last], ([step.id for step in trace.tokens] for trace in traces), strict=True)
            made.append(row(parts, answered))
            done += len(group)
            progress(done)
        return made
    finally:
        engine.close()


def _fitting(cells: Sequence[int], room: int) -> int:
    """How many questions of so many cells, answers included, fit into the context together: one at least."""
    return max(1, sum(taken <= room for taken in accumulate(cells[:TOGETHER])))


def row(parts: Sequence[Part], answered: Sequence[tuple[list[int], list[int]]]) -> Shown:
    """parts: the prompt up to and including the picture. answered: token ids of questions, and of their answers."""
    tokens: list[int] = []
    images, positions, place = [], [], 0
    for part in parts:
        own, place = positions_of(part, place)
        positions.append(own)
        if isinstance(part, ImageTokens):
            images.append(part.embeddings)
        tokens += [IMAGE] * cells_of(part) if isinstance(part, ImageTokens) else part
    segment = [0] * len(tokens)
    places: list[int] = []
    said: list[int] = []
    question: list[int] = []
    for number, (asked, answer) in enumerate(answered):
        first = len(tokens) + len(asked) - 1
        following = [*asked, *answer[:-1]]
        places += range(first, first + len(answer))
        said += answer
        question += [number] * len(answer)
        tokens += following
        segment += [number + 1] * len(following)
        positions.append(positions_of(following, place)[0])
    return Shown(
        torch.tensor(tokens),
        torch.from_numpy(np.concatenate(images)).half(),
        torch.from_numpy(np.concatenate(positions, 1).astype(np.float32)),
        torch.tensor(segment),
        torch.tensor(places),
        torch.tensor(said),
        torch.tensor(question),
    )


def batches(rows: Sequence[Shown], tokens: int, order: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of rows, of about so many tokens together."""
    some: list[int] = []
    for number in order:
        some.append(number)
        if sum(len(rows[one]) for one in some) >= tokens:
            yield some
            some = []
    if some:
        yield some

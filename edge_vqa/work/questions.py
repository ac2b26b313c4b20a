"""Reads questions files: JSON lines of `{"question_id", "image", "question", "answers"}`, images relative to the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edge_vqa.border import untrusted
from edge_vqa.errors import EdgeVqaError

T = TypeVar("T")
PART, LEAST = 128, 96


@dataclass(frozen=True)
class Question:
    """One line: `answers` holds one reference answer or the ten of VQAv2, and is empty when there are none."""

    question_id: str
    image: Path
    question: str
    answers: tuple[str, ...]


def read(path: Path, *, labelled: bool = False) -> list[Question]:
    """Read a questions file. With `labelled`, every line needs answers. Raises EdgeVqaError naming the line at fault."""
    try:
        lines = untrusted.read_text(path).split("\n")
    except (OSError, ValueError) as error:
        raise EdgeVqaError(f"{path} cannot be read ({error})", "give a file of JSON lines") from None
    questions: list[Question] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = _parse(json.loads(line), path.parent)
            if labelled and not question.answers:
                raise ValueError("no answers")
            if question.question_id in seen:
                raise ValueError(f"question_id {question.question_id!r} comes twice")
        except (ValueError, RecursionError) as error:
            raise EdgeVqaError(
                f"{path}, line {number}: {error}",
                'write {"question_id", "image", "question", "answers": [...]} on each line',
            ) from None
        seen.add(question.question_id)
        questions.append(question)
    if not questions:
        raise EdgeVqaError(f"{path} holds no questions", "give a file of JSON lines")
    return questions


def split_missing(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """Questions whose picture is a file, and those whose picture is not."""
    files: dict[Path, bool] = {}
    there: list[Question] = []
    missing: list[Question] = []
    for question in questions:
        (there if files.setdefault(question.image, question.image.is_file()) else missing).append(question)
    return there, missing


def present(questions: Sequence[Question], path: Path, *, skip_missing: bool) -> tuple[list[Question], list[Question]]:
    """Questions of a file to ask, and those left out because their picture is missing. Raises EdgeVqaError when one is and
    `skip_missing` is not set, or when none is left."""
    there, missing = split_missing(questions)
    if missing and not skip_missing:
        raise are_missing([str(question.image) for question in missing[:3]], len(missing), len(questions))
    if not there:
        raise EdgeVqaError(f"no picture of {path} is there", "pictures are looked for beside the file")
    return there, missing


def are_missing(some: Sequence[str], missing: int, count: int) -> EdgeVqaError:
    """some: the first of the missing pictures."""
    named = ", ".join(some) + (", ..." if missing > len(some) else "")
    return EdgeVqaError(f"{missing} of {count} pictures are missing ({named})", "--skip-missing leaves them out")


def parts(asked: Iterable[T], picture: Callable[[T], object]) -> Iterator[list[T]]:
    """Neighbours that are asked as one part: at most `PART`, cut where the picture changes if it does behind the first `LEAST`.
    What comes of a question depends on no other part: however many machines ask, and whichever of them."""
    held: list[T] = []
    for question in asked:
        held.append(question)
        if len(held) > PART:
            changes = (n for n in range(PART, LEAST - 1, -1) if picture(held[n]) != picture(held[n - 1]))
            cut = next(changes, PART)
            yield held[:cut]
            held = held[cut:]
    if held:
        yield held


def checked(entry: object) -> dict[str, Any]:
    """A line's content. Raises ValueError."""
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    for key in ("question_id", "image", "question"):
        if key not in entry:
            raise ValueError(f"{key} is missing")
    answers = entry.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ValueError("answers must be a list of strings")
    if not isinstance(entry["image"], str) or not isinstance(entry["question"], str):
        raise ValueError("image and question must be strings")
    return entry


def _parse(entry: object, folder: Path) -> Question:
    line = checked(entry)
    if line["image"].startswith(("http://", "https://", "data:")):
        raise ValueError("image must be a file: download it, and give its path")
    return Question(str(line["question_id"]), folder / line["image"], line["question"], tuple(line.get("answers", ())))

"""Asks every question of a file and appends each answer to another, so that nothing is lost or doubled when it is killed.

The answers file is JSON lines, one a question, in the order of the questions. A line is handed to the system as soon as it is
known. Who starts again with the same questions and settings goes on behind the last whole line; a torn one is cut off first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from edge_vqa.answer import Answer
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import Model
from edge_vqa.questions import Question

_BEGIN = b'{"question_id": '  # of every line
SYNC_S = 2.0  # a power cut costs at most the answers of so many seconds


@dataclass(frozen=True)
class Settings:
    """How questions are asked; see `Model.ask`. `show_candidate`: abstentions say what they withheld."""

    risk: float | None = None
    threshold: float | None = None
    gate: bool = True
    detail: str | None = None
    max_tokens: int | None = None
    show_candidate: bool = False


@dataclass(frozen=True)
class Outcome:
    """How many lines the answers file holds: answered, abstained, and failed (a picture or question that cannot be read)."""

    answered: int = 0
    abstained: int = 0
    failed: int = 0
    first_failure: str = ""

    def with_line(self, line: dict[str, Any]) -> Outcome:
        answered, abstained, failed, first = self.answered, self.abstained, self.failed, self.first_failure
        if "error" in line:
            return Outcome(answered, abstained, failed + 1, first or f"{line['question_id']}: {line['error']}")
        return Outcome(answered + (not line["abstained"]), abstained + line["abstained"], failed, first)

    def __len__(self) -> int:
        return self.answered + self.abstained + self.failed


def run(
    model: Model,
    questions: Sequence[Question],
    output: Path,
    settings: Settings = Settings(),
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Ask all questions that `output` does not answer yet. Raises EdgeVqaError when it belongs to other questions or settings.

    A picture or question that cannot be used gets a line with `error`, and the rest goes on.
    """
    gate = model.plan(  # what is wrong with the settings is said once, not on every line
        risk=settings.risk,
        threshold=settings.threshold,
        gate=settings.gate,
        detail=settings.detail,
        max_tokens=settings.max_tokens,
    ).gate
    stored = "".join(file.sha256 for _, file in sorted(model.bundle.manifest.files.items()))  # the Selector among them
    settled = {
        "model": model.bundle.name,
        "bundle": hashlib.sha256(stored.encode()).hexdigest()[:16],
        "confidence_method": model.confidence.name,
        "threshold": gate.threshold,
        "asked": _described(settings),
    }
    with _locked(output) as stream:
        outcome = Outcome()
        for number, line in enumerate(_resumed(stream, output)):
            if number >= len(questions) or line.get("question_id") != questions[number].question_id:
                raise EdgeVqaError(f"{output} answers other questions", "choose another output, or delete it")
            if {key: line.get(key) for key in settled} != settled:
                raise EdgeVqaError(f"{output} was written with another model or other settings", "choose another output")
            outcome = outcome.with_line(line)
        progress(outcome)
        synced = time.monotonic()
        rest = questions[len(outcome) :]
        answers = model.ask_many(
            ((question.image, question.question) for question in rest),
            risk=settings.risk,
            threshold=settings.threshold,
            gate=settings.gate,
            detail=settings.detail,
            max_tokens=settings.max_tokens,
        )
        for question, answer in zip(rest, answers, strict=True):
            line = {"question_id": question.question_id} | _line(answer, settings.show_candidate) | settled
            stream.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            stream.flush()
            if time.monotonic() - synced > SYNC_S:
                os.fsync(stream.fileno())
                synced = time.monotonic()
            outcome = outcome.with_line(line)
            progress(outcome)
        os.fsync(stream.fileno())
    return outcome


def _described(settings: Settings) -> dict[str, Any]:
    """The settings that differ from the defaults."""
    default = Settings()
    return {key: value for key, value in vars(settings).items() if value != getattr(default, key)}


def _line(answer: Answer | EdgeVqaError, show_candidate: bool) -> dict[str, Any]:
    if isinstance(answer, EdgeVqaError):
        return {"error": answer.what}
    return {
        "answer": answer.text,
        "candidate": answer.candidate if show_candidate or not answer.abstained else None,
        "abstained": answer.abstained,
        "confidence": answer.confidence,
        "threshold": answer.threshold,
        "risk_target": answer.risk_target,
        "calibrated": answer.calibrated,
        "maxprob": answer.maxprob,
        "total_s": round(answer.timings.total_s, 6),
    }


@contextmanager
def _locked(output: Path) -> Iterator[BinaryIO]:
    """The file, made if need be, for one process at a time."""
    try:
        with output.open("ab+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EdgeVqaError(f"another process writes {output}", "wait for it, or choose another output") from None
            yield stream
    except OSError as error:
        raise EdgeVqaError(
            f"{output} cannot be written ({error.strerror})", "make room or choose another place, and start again"
        ) from None


def _resumed(stream: BinaryIO, output: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of an answers file; a torn last one is cut off."""
    stream.seek(0)
    end = 0
    for raw in stream:
        if not raw.endswith(b"\n") and raw.startswith(_BEGIN[: len(raw)]):
            break
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            line = None
        if not isinstance(line, dict) or not ("error" in line or isinstance(line.get("abstained"), bool)):
            raise EdgeVqaError(f"{output} holds something else than answers", "choose another output")
        end += len(raw)
        yield line
    stream.truncate(end)

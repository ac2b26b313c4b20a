"""Asks every question of a file and appends each answer to another, so that nothing is lost or doubled when it is killed.

The answers file is JSON lines, one a question, in the order of the questions. A line is handed to the system as soon as it is
known. Who starts again with the same settings goes on with the questions that have no whole line yet; a torn one is cut off
first. A line belongs to the content of its question and picture: where one was changed since, it is asked again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from edge_vqa.answer import Answer
from edge_vqa.border import untrusted
from edge_vqa.border.whole import write_whole
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import Model
from edge_vqa.pictures.open import MAX_BYTES
from edge_vqa.session.plan import Asking
from edge_vqa.visible import as_json
from edge_vqa.work.questions import Question, parts
from edge_vqa.work.told import judgement

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
    early: bool = False
    show_candidate: bool = False

    @property
    def how(self) -> Asking:
        return {name: getattr(self, name) for name in Asking.__annotations__}  # type: ignore[return-value]


@dataclass(frozen=True)
class Outcome:
    """How many lines the answers file holds: answered, abstained, and failed (a picture or question that cannot be read).
    again: how many of them were asked again, because the question or its picture was changed."""

    answered: int = 0
    abstained: int = 0
    failed: int = 0
    first_failure: str = ""
    again: int = 0

    def with_line(self, line: dict[str, Any]) -> Outcome:
        if "error" in line:
            first = self.first_failure or f"{line['question_id']}: {line['error']}"
            return replace(self, failed=self.failed + 1, first_failure=first)
        return replace(self, answered=self.answered + (not line["abstained"]), abstained=self.abstained + line["abstained"])

    def plus(self, other: Outcome) -> Outcome:
        return Outcome(
            self.answered + other.answered,
            self.abstained + other.abstained,
            self.failed + other.failed,
            self.first_failure or other.first_failure,
            self.again + other.again,
        )

    def __len__(self) -> int:
        return self.answered + self.abstained + self.failed


def run(
    model: Model,
    questions: Sequence[Question],
    output: Path,
    settings: Settings = Settings(),
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Ask all questions that `output` does not answer yet, as they are now. Raises EdgeVqaError when it belongs to other
    questions or settings.

    A picture or question that cannot be used gets a line with `error`, and the rest goes on.
    """
    gate = model.plan(**settings.how).gate  # what is wrong with the settings is said once, not on every line
    stored = "".join(file.sha256 for _, file in sorted(model.bundle.manifest.files.items()))  # the Selector among them
    settled = {
        "model": model.bundle.name,
        "bundle": hashlib.sha256(stored.encode()).hexdigest()[:16],
        "confidence_method": model.confidence.name,
        "threshold": gate.threshold,
        "asked": _described(settings),
    }
    by_id = {question.question_id: question for question in questions}
    with _locked(output) as stream:
        places, stale = _kept(stream, output, by_id, settled)
        outcome = Outcome(again=len(stale - places.keys()))
        for start, _ in places.values():
            stream.seek(start)
            outcome = outcome.with_line(json.loads(stream.readline()))
        progress(outcome)
        synced = time.monotonic()
        rest = [question for question in questions if question.question_id not in places]
        contents: list[str] = []  # of `rest`, as far as it was asked

        def asked() -> Iterator[tuple[Path, str]]:
            for question, content in zip(rest, _contents(rest), strict=True):
                contents.append(content)
                yield question.image, question.question

        firsts = {part[0].question_id for part in parts(questions, lambda question: question.image)}
        cuts = {number for number, question in enumerate(rest) if question.question_id in firsts}
        answers = model.ask_many(asked(), cuts=cuts, **settings.how)
        end = stream.seek(0, os.SEEK_END)
        with closing(answers):
            for number, (question, answer) in enumerate(zip(rest, answers, strict=True)):
                line = {"question_id": question.question_id} | _line(answer, settings.show_candidate)
                line |= settled | {"of": contents[number]}
                raw = as_json(line).encode() + b"\n"
                stream.write(raw)
                stream.flush()
                places[question.question_id], end = (end, len(raw)), end + len(raw)
                if time.monotonic() - synced > SYNC_S:
                    os.fsync(stream.fileno())
                    synced = time.monotonic()
                outcome = outcome.with_line(line)
                progress(outcome)
        os.fsync(stream.fileno())
        if stale or list(places) != list(by_id):
            _put_in_order(stream, output, [places[name] for name in by_id])
    return outcome


def _kept(
    stream: BinaryIO, output: Path, by_id: dict[str, Question], settled: dict[str, Any]
) -> tuple[dict[str, tuple[int, int]], set[str]]:
    """Where the lines of an answers file lie (start, length), by question_id, that answer a question as it is now; and the
    question_ids of those that answer what it was before."""
    lines: dict[str, list[tuple[tuple[int, int], object]]] = {}
    for place, line in _resumed(stream, output):
        name = line.get("question_id")
        if name not in by_id:
            raise EdgeVqaError(f"{output} answers other questions", "choose another output, or delete it")
        if {key: line.get(key) for key in settled} != settled:
            raise EdgeVqaError(f"{output} was written with another model or other settings", "choose another output")
        lines.setdefault(name, []).append((place, line.get("of")))
    places: dict[str, tuple[int, int]] = {}
    stale = set()
    present = [question for name, question in by_id.items() if name in lines]
    for question, content in zip(present, _contents(present), strict=True):
        for place, of in lines[question.question_id]:
            if of == content:
                places[question.question_id] = place
            else:
                stale.add(question.question_id)
    return dict(sorted(places.items(), key=lambda item: item[1])), stale


def _contents(questions: Iterable[Question]) -> Iterator[str]:
    """A checksum of each question and of its picture's file."""
    last: tuple[object, bytes] = (None, b"")
    for question in questions:
        try:
            state = question.image.stat()
            stamp = (question.image, state.st_mtime_ns, state.st_size, state.st_ino)
            if last[0] != stamp:
                last = stamp, hashlib.sha256(untrusted.read_bytes(question.image, MAX_BYTES)).digest()
            picture = last[1]
        except (OSError, ValueError):
            picture = b""  # which is an answer's error, until it can be read
        yield hashlib.sha256(picture + question.question.encode(errors="surrogatepass")).hexdigest()[:16]


def _put_in_order(stream: BinaryIO, output: Path, places: Sequence[tuple[int, int]]) -> None:
    """Leave these lines in the answers file, and no others, in this order."""

    def copy(to: BinaryIO) -> None:
        for start, length in places:
            stream.seek(start)
            to.write(stream.read(length))

    write_whole(output.resolve(), copy)


def _described(settings: Settings) -> dict[str, Any]:
    """The settings that differ from the defaults."""
    default = Settings()
    return {key: value for key, value in vars(settings).items() if value != getattr(default, key)}


def _line(answer: Answer | EdgeVqaError, show_candidate: bool) -> dict[str, Any]:
    if isinstance(answer, EdgeVqaError):
        return {"error": answer.what}
    made = judgement(answer, show_candidate=show_candidate)
    del made["confidence_method"]  # the same in every line: the head of the file says it
    return made | {"total_s": round(answer.timings.total_s, 6)}


@contextmanager
def _locked(output: Path) -> Iterator[BinaryIO]:
    """The file, made if need be, for one process at a time."""
    try:
        if output.exists() and not output.is_file():
            raise EdgeVqaError(f"{output} is not a file", "choose another output")
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


def _resumed(stream: BinaryIO, output: Path) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """The whole lines of an answers file, each with its place (start, length); a torn last one is cut off."""
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
        yield (end, len(raw)), line
        end += len(raw)
    stream.truncate(end)

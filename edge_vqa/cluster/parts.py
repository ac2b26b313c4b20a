"""A run in a place of its own: what is asked, cut into parts, and the parts that are answered.

    _asked.jsonl                all questions, in order; a part is some of its lines
    part-000042-5f0c….jsonl     the answers of a part: there is one when it is whole
    _manifest.json              settings, and when all is done the parts in order

A part's name holds a checksum of what it answers: the lines of its questions, and size and time of their pictures. So what is
there is known to be an answer to what is asked now; a part that is not there, or not whole, is asked again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_vqa.cluster.listing import Listed
from edge_vqa.cluster.places import WORK, Place, said
from edge_vqa.errors import EdgeVqaError
from edge_vqa.work import questions

ASKED, MANIFEST = "_asked.jsonl", "_manifest.json"  # readers of Parquet pass over what begins so
ATTEMPT = ".attempt-"  # and the number of a part: a worker has begun it
OURS = (ATTEMPT, WORK)


@dataclass(frozen=True, slots=True)
class Part:
    """Lines of _asked.jsonl, from one byte to another. key: of what they ask."""

    number: int
    start: int
    end: int
    count: int
    key: str

    def name(self, suffix: str) -> str:
        return f"part-{self.number:06}-{self.key}{suffix}"


@dataclass
class Plan:
    """missing: questions that are left out, because their picture is; `some` of their pictures."""

    parts: list[Part] = field(default_factory=list)
    missing: int = 0
    some: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(part.count for part in self.parts)


def write_plan(
    listed: Iterable[Listed], folder: Place, progress: Callable[[int], None] = lambda done: None, *, skip_missing: bool = False
) -> Plan:
    """Cut questions into parts, and write them down in `folder`. Raises EdgeVqaError, before anything is written, for questions
    of one id, and for missing pictures that are not to be skipped."""
    plan, ids = Plan(), array("Q")

    def there() -> Iterator[Listed]:
        for question in listed:
            name = question.question_id.encode(errors="surrogatepass")
            ids.append(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()))
            if question.stamp is not None:
                yield question
                continue
            plan.missing += 1
            if len(plan.some) < 3:
                plan.some.append(question.image)

    with tempfile.TemporaryDirectory() as scratch:
        made, end = Path(scratch) / ASKED, 0
        with made.open("wb") as stream:
            for number, part in enumerate(questions.parts(there(), lambda question: question.image)):
                raw = "".join(question.line() for question in part).encode()
                stream.write(raw)
                plan.parts.append(Part(number, end, end + len(raw), len(part), hashlib.sha256(raw).hexdigest()[:16]))
                end += len(raw)
                progress(len(ids))
        if plan.missing and not skip_missing:
            raise questions.are_missing(plan.some, plan.missing, len(ids))
        if not plan.parts:
            raise EdgeVqaError("there is nothing to ask", "give questions whose pictures are there")
        _check_twice(np.frombuffer(ids, np.uint64))
        folder.make()
        folder.child(ASKED).put(made)
    return plan


def _check_twice(ids: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
    order = np.argsort(ids, kind="stable")
    same = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(same):
        first, second = sorted(int(order[same[0] + step]) + 1 for step in (0, 1))
        raise EdgeVqaError(f"questions {first} and {second} have one question_id", "give each its own")


Held = list[tuple[str, int]]  # parts in the file they were joined in: name and bytes


def settle(folder: Place, settled: dict[str, Any], joined: Place | None) -> Held:
    """Say how the questions of this folder are asked. Returns the parts that were joined in a file, as it says. Raises
    EdgeVqaError where it was begun otherwise, or holds other things."""
    names, where = folder.names(), joined or folder
    other = EdgeVqaError(f"{where} holds something else than answers", "choose another output")
    answered = any(name.startswith("part-") for name in names) or (joined is not None and joined.exists())
    if MANIFEST not in names:
        if answered or any(not name.startswith(".") for name in names):
            raise other
        folder.make()
        write_json(folder.child(MANIFEST), {"settled": settled})
        return []
    try:
        before = json.loads(folder.child(MANIFEST).read())
        listed = [(str(part["file"]), int(part["bytes"])) for part in before.get("parts", [])]
        differs = before["settled"] != settled
    except (ValueError, KeyError, TypeError, AttributeError):
        raise other from None
    if differs and answered:
        raise EdgeVqaError(f"{where} was written with another model or other settings", "choose another output")
    if differs:
        write_json(folder.child(MANIFEST), {"settled": settled})
    return listed if joined is not None and before.get("joined") and joined.exists() else []


def read_joined(joined: Place, held: Held) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the parts in a file."""
    with said(joined), joined.fs.open(joined.path, "rb") as stream:
        for name, size in held:
            yield name, stream.read(size)


def take_apart(joined: Place, held: Held, folder: Place) -> None:
    """Get parts back out of the file they were joined in."""
    names = set(folder.names())
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "part"
        for name, raw in read_joined(joined, held):
            if name not in names:
                made.write_bytes(raw)
                folder.child(name).put(made)


def finish(folder: Place, settled: dict[str, Any], plan: Plan, suffix: str, joined: Place | None) -> None:
    """All parts are there: say which, join them where that is wanted, and remove what is of no use any more."""
    files = [part.name(suffix) for part in plan.parts]
    listed = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "joined"
        with whole.open("wb") as stream:
            for file, part in zip(files, plan.parts, strict=True):
                if joined is not None:
                    stream.write(folder.child(file).read())
                size = folder.child(file).size()
                listed.append({"file": file, "questions": part.count, "bytes": size})
        if joined is not None:
            joined.put(whole)
    told = {"settled": settled, "joined": joined is not None, "complete": True, "questions": plan.count, "parts": listed}
    write_json(folder.child(MANIFEST), told)
    tidy(folder, {MANIFEST} if joined is not None else {MANIFEST, ASKED, *files})


def tidy(folder: Place, kept: set[str]) -> None:
    """Remove what is ours and of no use any more."""
    for name in set(folder.names()) - kept:
        if name == ASKED or name.startswith(("part-", *OURS)):
            folder.child(name).remove()


def write_json(to: Place, value: object) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "made"
        made.write_text(json.dumps(value, indent=1) + "\n")
        to.put(made)


def older(names: Sequence[str], part: Part, suffix: str) -> str | None:
    """A file that answers this part as it was asked before, if there is one."""
    mine = (name for name in names if name.startswith(f"part-{part.number:06}-") and name != part.name(suffix))
    return next(mine, None)


@contextmanager
def locked(folder: Place) -> Iterator[None]:
    """For one run at a time; only where the place has locks."""
    if not folder.local:
        yield
        return
    folder.make()
    descriptor = os.open(folder.path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EdgeVqaError(f"another run writes {folder}", "wait for it, or choose another output") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)

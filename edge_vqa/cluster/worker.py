"""A worker: a process on some node that holds a model, and answers one part after the other.

Whatever goes wrong is told as a line of a reply, with the node's name: nothing is raised through Ray but what Ray mends, the
death of a process or of a node.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import llama_cpp_version
from edge_vqa.cluster.parts import ASKED, ATTEMPT
from edge_vqa.cluster.places import Place, place
from edge_vqa.device.profile import cores
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import Model, load
from edge_vqa.work.batch import Outcome
from edge_vqa.work.questions import Question

SAME = "install the same on all nodes"
ATTEMPTS = 4  # of a part; it has ended its process each time


@dataclass(frozen=True)
class Versions:
    """What must be the same on all nodes."""

    edge_vqa: str
    llama_cpp_python: str
    bundle: str

    @staticmethod
    def here(bundle: str | None) -> Versions:
        """Of this node. Raises EdgeVqaError where it has no such bundle."""
        found = store.read(bundle)
        whole = store.sha256(found.folder / "bundle.json")[:12]
        return Versions(importlib.metadata.version("edge-vqa"), llama_cpp_version(), f"{found.name} {whole}")

    def difference(self, other: Mapping[str, str]) -> str:
        """Of another node's, as a dictionary, in words; empty where there is none."""
        return ", ".join(
            f"{name} is {other.get(name)}, not {value}" for name, value in asdict(self).items() if other.get(name) != value
        )


class Work(Protocol):
    """What is done with a part. It is sent to the workers: a frozen dataclass of plain values.

    bundle, options: what is loaded, see `load`. suffix: of the files that are made.
    """

    @property
    def bundle(self) -> str | None: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def suffix(self) -> str: ...

    def answer(self, model: Model, asked: Sequence[Question], images: Mapping[str, str], old: Path | None, to: Path) -> None:
        """Make the file of a part. images: names of pictures that were fetched, by their path here. old: a file that answers
        some of the questions, or answered them before they were changed."""

    def tally(self, raw: bytes) -> Outcome | None:
        """What such a file holds; None where it is not whole."""


def whole(work: Work, raw: bytes, count: int) -> Outcome | None:
    """What a part's file holds, if that is so many answers."""
    tally = work.tally(raw)
    return tally if tally is not None and len(tally) == count else None


class Worker:
    """As Ray Data takes it: made once in its process, then called with one row after the other."""

    def __init__(self, work: Work, folder: str, versions: Versions, threads: int, cwd: str) -> None:
        """cwd: what paths of the driver are relative to."""
        with suppress(OSError):  # there is no such folder here: then whoever misses a file says so
            os.chdir(cwd)
        self._work, self._folder, self._node = work, place(folder), socket.gethostname()
        self._model: Model | None = None
        self._fault = EdgeVqaError("", "")
        _pin(threads)
        try:
            other = versions.difference(asdict(Versions.here(work.bundle)))
            if other:
                raise EdgeVqaError(other, SAME)
            self._model = load(work.bundle, threads=threads, **work.options)
        except EdgeVqaError as error:
            self._fault = error

    def __call__(self, rows: dict[str, Any]) -> dict[str, list[Any]]:
        """rows: as `drive` lists them, of one part each. Returns tallies, as JSON, and what went wrong, or nothing,
        and what to do about it."""
        tallies, faults, todos = [], [], []
        for n in range(len(rows["number"])):
            try:
                made = self._part(*(rows[name][n] for name in ("number", "start", "end", "count", "name", "old")))
                tallies.append(json.dumps(asdict(made)))
                faults.append("")
                todos.append("")
            except EdgeVqaError as error:
                tallies.append("{}")
                faults.append(f"node {self._node}: {error.what}")
                todos.append(error.todo)
        return {"tally": tallies, "fault": faults, "todo": todos}

    def _part(self, number: int, start: int, end: int, count: int, name: str, old: str) -> Outcome:
        """Answer a part, unless it is."""
        if self._model is None:
            raise self._fault
        made = self._folder.child(name)
        if made.exists():  # by a worker that was thought dead, or torn
            tally = whole(self._work, made.read(), count)
            if tally is not None:
                return tally
        marks = [self._folder.child(f"{ATTEMPT}{number:06}-{n}") for n in range(ATTEMPTS)]
        before = list(takewhile(Place.exists, marks))
        if len(before) == ATTEMPTS:
            said = f"part {number} has ended its process {ATTEMPTS} times"
            raise EdgeVqaError(said, f"look at its questions in {self._folder}: start again without the one at fault")
        with tempfile.TemporaryDirectory(prefix="edge-vqa-") as scratch:
            _leave(marks[len(before)], Path(scratch))
            tally = self._answer(self._model, Path(scratch), int(start), int(end), name, old)
        for mark in marks[: len(before) + 1]:
            mark.remove()
        return tally

    def _answer(self, model: Model, scratch: Path, start: int, end: int, name: str, old: str) -> Outcome:
        lines = [json.loads(line) for line in self._folder.child(ASKED).read(start, end).splitlines()]
        paths = _pictures(lines, scratch)
        asked = [
            Question(line["question_id"], path, line["question"], tuple(line["answers"]))
            for line, path in zip(lines, paths, strict=True)
        ]
        images = {str(path): line["image"] for line, path in zip(lines, paths, strict=True) if str(path) != line["image"]}
        if gone := [path for path in dict.fromkeys(paths) if not path.is_file() and str(path) not in images]:
            said = f"{len(gone)} pictures are missing there that are seen where the run was started ({gone[0]})"
            raise EdgeVqaError(said, "mount the same folder on every node, and start again: it goes on")
        made, before = scratch / name, None
        if old:
            before = scratch / f"old{self._work.suffix}"
            before.write_bytes(self._folder.child(old).read())
        self._work.answer(model, asked, images, before, made)
        tally = self._work.tally(made.read_bytes())
        assert tally is not None and len(tally) == len(asked)
        self._folder.child(name).put(made)
        return tally


def _pictures(lines: Sequence[Mapping[str, Any]], scratch: Path) -> list[Path]:
    """Where the pictures are on this machine; those that are elsewhere, or in an archive, are fetched."""
    found: dict[str, Path] = {}
    for line in lines:
        image = line["image"]
        if image in found:
            continue
        if "at" not in line and "://" not in image:
            found[image] = Path(image)
            continue
        found[image] = scratch / f"{len(found)}{Path(image).suffix}"
        try:
            if "at" in line:
                offset, size = line["at"]
                raw = place(image[: image.lower().rfind(".tar/") + 4]).read(offset, offset + size)
            else:
                raw = place(image).read()
        except EdgeVqaError:
            continue  # an answer's error
        found[image].write_bytes(raw)
    return [found[line["image"]] for line in lines]


def _leave(mark: Place, scratch: Path) -> None:
    made = scratch / "mark"
    made.touch()
    mark.put(made)


_pinned: list[int] = []  # locks that are held as long as the process lives


def _pin(threads: int) -> None:
    """Keep to cores of this machine that no other worker keeps to; where there are too few, to none."""
    if not hasattr(os, "sched_setaffinity") or threads >= cores():
        return
    locks: dict[int, int] = {}  # by core
    for core in sorted(os.sched_getaffinity(0)):
        path = Path(tempfile.gettempdir()) / f"edge-vqa-core-{os.getuid()}-{core}"
        try:
            lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            break
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks[core] = lock
        except OSError:
            os.close(lock)
        if len(locks) == threads:
            _pinned.extend(locks.values())
            for thread in Path("/proc/self/task").iterdir():
                with suppress(OSError):  # it has ended
                    os.sched_setaffinity(int(thread.name), locks)
            return
    for lock in locks.values():
        os.close(lock)

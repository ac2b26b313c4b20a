"""Reads questions wherever they lie: JSON lines, Parquet, or WebDataset's tar shards.

A picture is a path on this machine, an address, or a member of a tar archive (`shards/07.tar/000123.jpg`); it is not opened
here. A million questions are listed in a minute, one after the other: no list of them is held.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_vqa.cluster.places import Place, place, said
from edge_vqa.errors import EdgeVqaError
from edge_vqa.work.questions import Question, checked

KINDS = (".jsonl", ".json", ".parquet", ".tar")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic")
MOST_LINE = 2**20  # bytes of a sample's JSON


@dataclass(frozen=True, slots=True)
class Listed:
    """A question. image: path, address, or ARCHIVE.tar/MEMBER; at: of a member, offset and bytes in the archive. stamp: another
    one when the picture's file is; empty of pictures elsewhere, None where there is no such file."""

    question_id: str
    image: str
    question: str
    answers: tuple[str, ...]
    stamp: str | None = ""
    at: tuple[int, int] | None = None

    def line(self) -> str:
        """As JSON, with a newline."""
        made: dict[str, Any] = {"question_id": self.question_id, "image": self.image, "question": self.question}
        made["answers"] = self.answers
        if self.stamp:
            made["stamp"] = self.stamp
        if self.at is not None:
            made["at"] = self.at
        return json.dumps(made) + "\n"


def read(source: str, *, labelled: bool = False) -> Iterator[Listed]:
    """All questions of a file, of a folder of files, or of those that fit a pattern (`shards/*.tar`), in order of their names.
    labelled: every one needs answers. Raises EdgeVqaError that names what is at fault."""
    for file in _files(place(source)):
        suffix = Path(file.path).suffix.lower()
        by_kind = {".parquet": _parquet, ".tar": _shard}.get(suffix, _lines)
        for where, entry, image in by_kind(file):
            try:
                checked(entry)
                answers = tuple(entry.get("answers", ()))
                if labelled and not answers:
                    raise ValueError("no answers")
                found = image or _image(entry["image"], file)
            except ValueError as error:
                raise EdgeVqaError(f"{file}, {where}: {error}", "see docs/scale.md for what files of questions hold") from None
            yield Listed(str(entry["question_id"]), found[0], entry["question"], answers, found[1], found[2])


def of(question: Question) -> Listed:
    """A question whose picture is a file of this machine."""
    image, stamp, at = _there(str(question.image))
    return Listed(question.question_id, image, question.question, question.answers, stamp, at)


def _files(source: Place) -> list[Place]:
    with said(source):
        if any(sign in source.path for sign in "*?["):
            found = sorted(source.fs.glob(source.path))
        elif source.fs.isdir(source.path):
            found = [source.child(name).path for name in source.names() if Path(name).suffix.lower() in KINDS]
        else:
            found = [source.path]
    if not found:
        raise EdgeVqaError(f"{source} holds no questions", f"give a file, or a folder with some of {' '.join(KINDS)}")
    return [Place(source.fs, path) for path in found]


Image = tuple[str, str | None, tuple[int, int] | None]  # see `Listed`: image, stamp, at
Entry = tuple[str, Any, Image | None]  # where it stands, what stands there, and its picture where that comes with it


def _lines(file: Place) -> Iterator[Entry]:
    with said(file), file.fs.open(file.path, "rb") as stream:
        for number, raw in enumerate(stream, 1):
            if not raw.strip():
                continue
            try:
                entry = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise EdgeVqaError(f"{file}, line {number}: {error}", "write a JSON object on each line") from None
            yield f"line {number}", entry, None


def _parquet(file: Place) -> Iterator[Entry]:
    import pyarrow
    from pyarrow import parquet

    wanted = ("question_id", "image", "question", "answers")
    with said(file), file.fs.open(file.path, "rb") as stream:
        try:
            table = parquet.ParquetFile(stream)
            columns = [name for name in wanted if name in table.schema_arrow.names]
            number = 0
            for batch in table.iter_batches(1024, columns=columns):
                for entry in batch.to_pylist():
                    number += 1
                    yield f"row {number}", {key: value for key, value in entry.items() if value is not None}, None
        except pyarrow.ArrowInvalid as error:
            raise EdgeVqaError(f"{file} is no Parquet file ({error})", "write it again") from None


def _shard(file: Place) -> Iterator[Entry]:
    """WebDataset: members of one name but for what follows its first dot are a sample; its .json holds a question, or
    `questions`, a list of them."""
    for key, members in _samples(file):
        image = next(((name, at) for name, at in members.items() if name.lower().endswith(PICTURES)), None)
        told = next((at for name, at in members.items() if name.lower().endswith(".json")), None)
        if image is None or told is None:
            missing = "picture" if image is None else ".json"
            raise EdgeVqaError(f"{file}, sample {key}: no {missing}", "a sample is a picture and a .json")
        if told[1] > MOST_LINE:
            raise EdgeVqaError(f"{file}, sample {key}: {told[1]:,} bytes of JSON", "write what is asked, and no more")
        try:
            held = json.loads(file.read(told[0], sum(told)))
            asked = held.get("questions", [held])
            several = len(asked) > 1
        except (ValueError, RecursionError, AttributeError, TypeError):
            raise EdgeVqaError(f"{file}, sample {key}: its .json cannot be read", "write a JSON object") from None
        for number, entry in enumerate(asked):
            if isinstance(entry, dict):
                entry = {"question_id": f"{key}-{number}" if several else key, "image": image[0]} | entry
            yield f"sample {key}", entry, (f"{file}/{image[0]}", "", image[1])


def _samples(file: Place) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    last, held = "", dict[str, tuple[int, int]]()
    for name, at in _members(file):
        folder, _, base = name.rpartition("/")
        key = f"{folder}/{base.partition('.')[0]}" if folder else base.partition(".")[0]
        if held and key != last:
            yield last, held
            held = {}
        last = key
        held[name] = at
    if held:
        yield last, held


def _members(file: Place) -> Iterator[tuple[str, tuple[int, int]]]:
    """Files of an archive: name, offset and bytes."""
    with said(file), file.fs.open(file.path, "rb") as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                    if member.isreg():
                        yield member.name, (member.offset_data, member.size)
        except tarfile.TarError as error:
            raise EdgeVqaError(f"{file} is no tar archive ({error})", "write it again, not compressed") from None


def _image(named: str, beside: Place) -> Image:
    """What a question calls its picture: an address, or a path from the questions' folder, perhaps into an archive."""
    if "://" in named:
        return _there(named)
    folder, _, _ = beside.path.rpartition("/")
    found = Place(beside.fs, named if named.startswith("/") or not folder else f"{folder}/{named}")
    if beside.local:
        found = Place(beside.fs, str(Path(beside.path).parent / named))
    return _there(str(found))


@lru_cache(4096)
def _there(image: str) -> Image:
    inside = image.lower().rfind(".tar/")
    if inside >= 0:
        archive, member = image[: inside + 4], image[inside + 5 :]
        at = _index(archive).get(member)
        return image, "" if at else None, at
    if "://" in image:
        return image, "", None  # asked for when it is needed
    try:
        state = Path(image).stat()
    except (OSError, ValueError):
        return image, None, None
    return image, f"{state.st_size}-{state.st_mtime_ns}", None


@lru_cache(4)
def _index(archive: str) -> dict[str, tuple[int, int]]:
    return dict(_members(place(archive)))

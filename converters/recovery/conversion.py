"""Recovery as a step of a conversion: asks the teacher, trains, and hands back tensors that are as they will be stored."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from converters.files import writer
from converters.files.parts import Half
from converters.files.writer import Entry
from converters.method import lm_entries, parse_quant
from converters.options import Options, Progress
from converters.recovery import asked, closed_form, training
from converters.recovery.asked import Shown
from converters.recovery.student import Student
from converters.recovery.training import Recovered, Teacher, Training
from converters.source import Model, opened
from edge_vqa.bundles import store
from edge_vqa.errors import EdgeVqaError
from edge_vqa.work import questions as files


def apply(
    model: Model,
    lm: Half,
    entries: Sequence[Entry],
    tower: Path,
    backend: str,
    output: Path,
    options: Options,
    progress: Progress,
    notice: Callable[[str], None],
) -> tuple[list[Entry], Recovered]:
    """lm, entries: as they would be written without recovery. tower, backend: what the bundle sees with. Whoever is interrupted
    goes on from a folder beside `output`, or from that which was chosen."""
    chosen = options.recover
    assert chosen is not None
    questions = files.read(chosen.questions)
    asked.grouped(questions)
    folder = chosen.state or output.parent / f".{output.name}.recovery"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeVqaError(f"{folder} cannot be made ({error.strerror})", "choose another folder") from None
    with _teacher(model, lm, options) as (master, name):
        key = repr(
            (name, store.sha256(chosen.questions), store.sha256(tower), asdict(model.prompt), asdict(model.preprocessing))
        )
        kept = folder / f"asked-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
        if not kept.is_file():
            with TemporaryDirectory(dir=folder) as work:
                gguf = Path(work) / "teacher.gguf"
                writer.write(
                    gguf, master.metadata, lm_entries(master, parse_quant("bf16"), options.threads, {}), lambda done: None
                )
                rows = asked.collect(
                    gguf, tower, backend, model.preprocessing, model.prompt, questions, options.threads,
                    lambda done: progress("asking the teacher", done, len(questions)),
                )  # fmt: skip
            training.save([vars(row) for row in rows], kept)
        rows = [Shown(**row) for row in training.load(kept)]
        torch.set_num_threads(options.threads)
        types, coders = {entry.name: entry.type for entry in entries}, {entry.name: entry.coder for entry in entries}
        if chosen.by == "closed-form":
            student, recovered = closed_form.recover(Student(lm, types, coders, held=True), Teacher(master), rows, progress)
        else:
            key = repr((key, options.quant, chosen.by, chosen.minutes, list(types.values())))
            student, recovered = Training(
                lm, master, types, coders, rows, way=chosen.by, minutes=chosen.minutes, folder=folder, key=key
            ).run(progress, notice)
    stored = dict(student.stored())
    if chosen.state is None:
        shutil.rmtree(folder)
    return [_as_stored(entry, stored.get(entry.name)) for entry in entries], recovered


def _as_stored(entry: Entry, data: np.ndarray[Any, Any] | None) -> Entry:
    """data: blocks of a matrix, float32 of a vector; None leaves the entry as it is."""
    if data is None:
        return entry
    if data.dtype == np.float32:
        return replace(entry, read=lambda: data)
    return replace(entry, coder=lambda values: data)


@contextmanager
def _teacher(model: Model, lm: Half, options: Options) -> Iterator[tuple[Half, str]]:
    """The float LM that teaches, and what tells it from others."""
    assert options.recover is not None
    if options.recover.teacher is None:
        yield model.lm, model.key
        return
    with opened(options.recover.teacher, replace(options, mmproj=None)) as other:
        for what in ("general.architecture", "tokenizer.ggml.tokens"):
            if other.lm.value(what) != lm.value(what):
                raise EdgeVqaError(
                    f"the teacher has another {'vocabulary' if 'tokens' in what else 'architecture'} than the student",
                    "give the model that the student was made from",
                )
        if other.lm.number("embedding_length") != lm.number("embedding_length"):
            raise EdgeVqaError("the teacher has image tokens of another width than the student", "give one of the same width")
        yield other.lm, other.key

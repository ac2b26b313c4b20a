"""Runs a bundle over a questions file and writes its traces: features, MaxProb and the VQA accuracy of every answer."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edge_vqa.answer import Answer
from edge_vqa.border.whole import write_whole
from edge_vqa.bundles.manifest import llama_cpp_version
from edge_vqa.errors import EdgeVqaError
from edge_vqa.metrics import vqa_accuracy
from edge_vqa.model import Model
from edge_vqa.trust import trace
from edge_vqa.work import questions as files
from edge_vqa.work.questions import Question

Array = npt.NDArray[np.float32]
_COLUMNS = ("maxprob", "accuracy", "picture", "question_id", "candidate")


@dataclass(frozen=True)
class Origin:
    """What the traces are of: they fit a bundle of the same files, and a Selector of the same schema."""

    model: str
    lm_sha256: str
    vision_sha256: str
    schema: int
    llama_cpp_python: str
    data: str
    detail: str = ""  # other than the bundle's

    @property
    def fingerprint(self) -> tuple[str, str]:
        """See `Bundle.fingerprint`."""
        return self.lm_sha256, self.vision_sha256


@dataclass(frozen=True, eq=False)
class Traces:
    """Traces of n questions: named features [n, d], and one value a question of everything else."""

    origin: Origin
    features: dict[str, Array]
    maxprob: Array
    accuracy: Array
    picture: npt.NDArray[np.str_]
    question_id: npt.NDArray[np.str_]
    candidate: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.accuracy)


def collect(
    model: Model,
    questions: Sequence[Question],
    data: str,
    progress: Callable[[int], None] = lambda done: None,
    *,
    detail: str | None = None,
    keep: Path | None = None,
) -> Traces:
    """Ask every question, always answering; together, where the model was loaded for that. Questions on one picture, when
    neighbours, encode it once.

    keep: a folder that gets what is done, part by part, see `questions.parts`: after an interruption the same call goes on
    behind the last part. Parts of another bundle or of other questions are thrown away.
    """
    origin = origin_of(model, data, detail)
    parts = _kept(keep, origin, questions) if keep else []
    kept, done = len(parts), sum(map(len, parts))
    progress(done)
    for part in islice(files.parts(questions, lambda question: question.image), kept, None):
        parts.append(ask(model, part, origin, lambda n, before=done: progress(before + n)))  # type: ignore[misc]
        if keep:
            save(parts[-1], keep / f"{len(parts) - 1:06}.npz")
        done += len(part)
    return join(parts)


def collect_into(
    path: Path,
    model: Model,
    questions: Sequence[Question],
    data: str,
    progress: Callable[[int], None] = lambda done: None,
    *,
    detail: str | None = None,
) -> Traces:
    """`collect`, then `save`; what an interruption leaves is beside the file until that is whole."""
    parts = path.with_name(f".{path.name}.parts")
    traces = collect(model, questions, data, progress, detail=detail, keep=parts)
    save(traces, path)
    shutil.rmtree(parts, ignore_errors=True)
    return traces


def origin_of(model: Model, data: str, detail: str | None) -> Origin:
    other = "" if detail in (None, model.bundle.manifest.prompt.detail) else str(detail)
    return Origin(model.bundle.name, *model.fingerprint, trace.SCHEMA, llama_cpp_version(), data, other)


def ask(
    model: Model, questions: Sequence[Question], origin: Origin, progress: Callable[[int], None] = lambda done: None
) -> Traces:
    """A part. Raises EdgeVqaError for a question that cannot be asked."""
    answers: list[Answer] = []
    if model.sequences > 1:
        asked = ((question.image, question.question) for question in questions)
        told = model.ask_many(asked, gate=False, detail=origin.detail or None)
    else:
        told = (model.ask(q.image, q.question, gate=False, detail=origin.detail or None) for q in questions)
    for answer in told:
        if isinstance(answer, EdgeVqaError):
            raise answer
        answers.append(answer)
        progress(len(answers))
    return traces_of(origin, questions, answers)


def traces_of(origin: Origin, questions: Sequence[Question], answers: Sequence[Answer]) -> Traces:
    """What the answers to these questions left behind, judged."""
    rows = [trace.features(answer.trace) for answer in answers]
    return Traces(
        origin=origin,
        features={name: np.concatenate([row[name] for row in rows]) for name in rows[0]},
        maxprob=np.array([answer.maxprob for answer in answers], np.float32),
        accuracy=np.array([vqa_accuracy(a.candidate, q.answers) for a, q in zip(answers, questions, strict=True)], np.float32),
        picture=np.array([str(question.image) for question in questions]),
        question_id=np.array([question.question_id for question in questions]),
        candidate=np.array([answer.candidate for answer in answers]),
    )


def _kept(folder: Path, origin: Origin, questions: Sequence[Question]) -> list[Traces]:
    """Parts that an interrupted run over the same questions left."""
    asked = [[q.question_id, str(q.image), q.question, q.answers] for q in questions]
    key, of = hashlib.sha256(json.dumps([asdict(origin), asked]).encode()).hexdigest(), folder / "of"
    parts: list[Traces] = []
    if of.is_file() and of.read_text() == key:
        while (path := folder / f"{len(parts):06}.npz").is_file():
            parts.append(load(path))
        return parts
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        of.write_text(key)
    except OSError as error:
        raise EdgeVqaError(f"{folder} cannot be written ({error.strerror})", "choose another place") from None
    return parts


def join(parts: Sequence[Traces]) -> Traces:
    """Traces of one bundle, one after the other; the first names the data."""
    first = parts[0]
    if any(part.origin.fingerprint != first.origin.fingerprint for part in parts):
        raise EdgeVqaError("these traces are of several bundles", "collect all of them with one bundle")
    if len(parts) == 1:
        return first
    return Traces(
        origin=first.origin,
        features={name: np.concatenate([part.features[name] for part in parts]) for name in first.features},
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS},
    )


def take(traces: Traces, rows: npt.NDArray[Any]) -> Traces:
    """Some of the traces, by mask or by number."""
    return Traces(
        origin=traces.origin,
        features={name: values[rows] for name, values in traces.features.items()},
        **{name: getattr(traces, name)[rows] for name in _COLUMNS},
    )


def save(traces: Traces, path: Path) -> None:
    """Write an .npz under a temporary name, then rename it."""
    arrays = {name: getattr(traces, name) for name in _COLUMNS}
    arrays |= {f"feature_{name}": values for name, values in traces.features.items()}
    arrays["origin"] = np.array(json.dumps(asdict(traces.origin)))
    write_whole(path, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def load(path: Path | BinaryIO) -> Traces:
    """Read traces written by `save`; nothing in the file is executed."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = [name for name in stored.files if name.startswith("feature_")]
            return Traces(
                origin=Origin(**json.loads(str(stored["origin"]))),
                features={name.removeprefix("feature_"): stored[name] for name in names},
                **{key: stored[key] for key in _COLUMNS},
            )
    except FileNotFoundError:
        raise EdgeVqaError(f"{path} does not exist", "make it with edge-vqa-selector collect") from None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        raise EdgeVqaError(f"{path} holds no traces", "make it with edge-vqa-selector collect") from None

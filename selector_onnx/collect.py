"""Runs a bundle over a questions file and writes its traces: features, MaxProb and the VQA accuracy of every answer."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_vqa import native, trace
from edge_vqa.bundle import write_whole
from edge_vqa.errors import EdgeVqaError
from edge_vqa.metrics import vqa_accuracy
from edge_vqa.model import Model
from edge_vqa.questions import Question

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
    model: Model, questions: Sequence[Question], data: str, progress: Callable[[int], None] = lambda done: None
) -> Traces:
    """Ask every question, always answering. Questions on one picture, when neighbours, encode it once."""
    origin = Origin(model.bundle.name, *model.bundle.fingerprint, trace.SCHEMA, native.version(), data)
    rows: list[dict[str, Array]] = []
    maxprob, accuracy, candidates = [], [], []
    for number, question in enumerate(questions, 1):
        answer = model.ask(question.image, question.question, gate=False)
        rows.append(trace.features(answer.trace))
        maxprob.append(answer.maxprob)
        accuracy.append(vqa_accuracy(answer.candidate, question.answers))
        candidates.append(answer.candidate)
        progress(number)
    return Traces(
        origin=origin,
        features={name: np.stack([row[name] for row in rows]) for name in rows[0]},
        maxprob=np.array(maxprob, np.float32),
        accuracy=np.array(accuracy, np.float32),
        picture=np.array([str(question.image) for question in questions]),
        question_id=np.array([question.question_id for question in questions]),
        candidate=np.array(candidates),
    )


def save(traces: Traces, path: Path) -> None:
    """Write an .npz under a temporary name, then rename it."""
    arrays = {name: getattr(traces, name) for name in _COLUMNS}
    arrays |= {f"feature_{name}": values for name, values in traces.features.items()}
    arrays["origin"] = np.array(json.dumps(asdict(traces.origin)))
    write_whole(path, lambda stream: np.savez(stream, allow_pickle=False, **arrays))


def load(path: Path) -> Traces:
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

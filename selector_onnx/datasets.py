"""Official annotation files -> questions files: VQAv2 (Goyal et al., CVPR 2017), AdVQA (Sheng et al., NeurIPS 2021), VizWiz
(Gurari et al., CVPR 2018).

Splits are those of Whitehead et al. (ECCV 2022, section 4) where their files are given, else drawn by picture with a seed, in
their shares: 40 % dev, which trains a Selector, 10 % val, 50 % test.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edge_vqa.border import untrusted
from edge_vqa.border.whole import write_bytes
from edge_vqa.errors import EdgeVqaError
from edge_vqa.work.questions import Question

MOST_BYTES = 2**30  # of an annotation file; those of VQAv2 have 370 MB
SHARES = {"dev": 0.4, "val": 0.1, "test": 0.5}
COCO_NAMES = ("COCO_{subtype}_{id:012}.jpg", "{id:012}.jpg")  # of 2014 and of 2017


def vqav2(questions: Path, annotations: Path, images: Path) -> list[Question]:
    """VQAv2's pair of files, and AdVQA's, which has the same form. Pictures of COCO 2014 or 2017, in the folder `images`."""
    asked, answered = _json(questions), _json(annotations)
    subtype = str(asked.get("data_subtype", "val2014")) if isinstance(asked, dict) else ""
    try:
        answers = {entry["question_id"]: _answers(entry["answers"]) for entry in answered["annotations"]}
        entries = [(entry["question_id"], int(entry["image_id"]), str(entry["question"])) for entry in asked["questions"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EdgeVqaError(
            f"{questions} and {annotations} do not have the form of VQAv2 ({error!r})", "give the official files"
        ) from None
    without = [number for number, _, _ in entries if number not in answers]
    if without:
        raise EdgeVqaError(f"{len(without)} questions have no annotation (first: {without[0]})", "give the files of one split")
    name = _coco_name(images, subtype, [image for _, image, _ in entries])
    return [Question(str(q), images / name.format(subtype=subtype, id=image), text, answers[q]) for q, image, text in entries]


def vizwiz(annotations: Path, images: Path) -> list[Question]:
    """VizWiz's file of one split, such as val.json; the test split has no answers."""
    entries = _json(annotations)
    try:
        return [
            Question(
                Path(entry["image"]).stem, images / Path(entry["image"]).name, entry["question"], _answers(entry["answers"])
            )
            for entry in entries
        ]
    except (KeyError, TypeError) as error:
        raise EdgeVqaError(
            f"{annotations} does not have the form of VizWiz ({error!r})", "give train.json or val.json"
        ) from None


def split_by_picture(questions: Iterable[Question], shares: Mapping[str, float], seed: int) -> dict[str, list[Question]]:
    """Questions by split; all questions on one picture in one."""
    questions = list(questions)
    pictures = np.random.default_rng(seed).permutation(sorted({str(q.image) for q in questions}))
    bounds = np.round(np.cumsum(list(shares.values())) / sum(shares.values()) * len(pictures)).astype(int)
    of: dict[str, str] = {}
    begin = 0
    for name, end in zip(shares, bounds, strict=True):
        of |= {str(picture): name for picture in pictures[begin:end]}
        begin = end
    made: dict[str, list[Question]] = {name: [] for name in shares}
    for question in questions:
        made[of[str(question.image)]].append(question)
    return made


def split_by_files(questions: Iterable[Question], split_files: Mapping[str, Path]) -> dict[str, list[Question]]:
    """Questions by split, as files list their ids: the .npy of Whitehead et al., or JSON or text with an id each line."""
    by_id = {question.question_id: question for question in questions}
    made: dict[str, list[Question]] = {}
    for name, path in split_files.items():
        ids = _ids(path)
        missing = [number for number in ids if number not in by_id]
        if missing:
            raise EdgeVqaError(
                f"{len(missing)} of {len(ids)} questions of {path} are not in the annotations (first: {missing[0]})",
                "give the annotations that the split was made of",
            )
        made[name] = [by_id[number] for number in ids]
    return made


def write(questions: Iterable[Question], path: Path) -> None:
    """A questions file; pictures relative to it."""
    lines = [
        json.dumps(
            {
                "question_id": question.question_id,
                "image": os.path.relpath(question.image, path.parent),
                "question": question.question,
                "answers": list(question.answers),
            },
            ensure_ascii=False,
        )
        for question in questions
    ]
    write_bytes(path, "".join(line + "\n" for line in lines).encode())


def _json(path: Path) -> Any:
    try:
        return json.loads(untrusted.read_text(path, MOST_BYTES))
    except FileNotFoundError:
        raise EdgeVqaError(f"{path} does not exist", "download and unpack the official files") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EdgeVqaError(f"{path} cannot be read ({error})", "download it again") from None


def _answers(entries: Any) -> tuple[str, ...]:
    return tuple(str(entry["answer"]) for entry in entries)


def _coco_name(images: Path, subtype: str, numbers: list[int]) -> str:
    """Which of `COCO_NAMES` the pictures in the folder have; the first when none is there."""
    for name in COCO_NAMES:
        if any((images / name.format(subtype=subtype, id=number)).is_file() for number in numbers[:1000]):
            return name
    return COCO_NAMES[0]


def _ids(path: Path) -> list[str]:
    if path.suffix == ".npy":
        try:
            return [str(record["question_id"]) for record in _records(path) if "image_id" in record]
        except (OSError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            raise EdgeVqaError(f"{path} is not a split of Whitehead et al. ({error})", "download it again") from None
    if path.suffix == ".json":
        return [str(number) for number in _json(path)]
    try:
        return [line.strip() for line in untrusted.read_text(path).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise EdgeVqaError(f"{path} cannot be read ({error})", "give a file of question ids") from None


def _records(path: Path) -> list[Any]:
    """The records of an .npy of objects. Only numpy's own array classes are unpickled: nothing in the file can run."""
    with path.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        reader: Callable[[BinaryIO], tuple[Any, bool, Any]] = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        reader(stream)
        records = _Plain(stream).load()
    return list(np.asarray(records, object).reshape(-1))


class _Plain(pickle.Unpickler):
    """Unpickles plain values and numpy arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name in ("_reconstruct", "scalar"):
            return super().find_class("numpy._core.multiarray", name)
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not data")

"""Traces of several data sets at once: a picture that more than one of them asks about is encoded once."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing import parent_process
from pathlib import Path

import numpy as np

from edge_vqa.bundles import store
from edge_vqa.model import load
from edge_vqa.work import questions as files
from edge_vqa.work.questions import Question
from selector_onnx import collect as collecting
from selector_onnx.collect import Traces

LOADED = {"confidence": "maxprob", "sequences": 12}  # questions that are answered at once


def together(sets: Mapping[str, Path]) -> list[tuple[str, Question]]:
    """Questions of all files, picture by picture, each with the name of its set; which its id begins with too."""
    asked = [(name, question) for name, path in sets.items() for question in files.read(path, labelled=True)]
    asked.sort(key=lambda one: str(one[1].image))
    return [(name, replace(question, question_id=f"{name} {question.question_id}")) for name, question in asked]


def apart(traces: Traces, asked: Sequence[tuple[str, Question]], paths: Mapping[str, Path]) -> None:
    """Write the traces of each set to its own file."""
    belongs = np.array([name for name, _ in asked])
    for name, path in paths.items():
        own = collecting.take(traces, belongs == name)
        ids = np.array([question_id.removeprefix(f"{name} ") for question_id in own.question_id.tolist()])
        collecting.save(replace(own, origin=replace(own.origin, data=name), question_id=ids), path)


def collect(bundle: Path, sets: Mapping[str, Path], paths: Mapping[str, Path]) -> None:
    """Files of questions, and of their traces, by the names of the sets. What an interruption leaves is beside the traces."""
    asked = together(sets)
    parts = next(iter(paths.values())).with_name(f".{bundle.name}.parts")
    with load(bundle, vision=store.read(bundle).backend, threads=1, **LOADED) as model:
        traces = collecting.collect(model, [question for _, question in asked], "", keep=parts)
    apart(traces, asked, paths)
    shutil.rmtree(parts, ignore_errors=True)


def end_with_parent() -> None:
    """In a process of a pool: end when whoever started it has ended, however it did. What was collected is kept."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Bundles as a model of lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval), the standard harness:

lmms-eval --model edge_vqa --model_args pretrained=base,confidences=confidences.jsonl --tasks vqav2_val,vizwiz_vqa_val
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm

from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import load
from edge_vqa.pictures.open import ImageSource
from edge_vqa.visible import as_json
from edge_vqa.work import told

MANIFEST = ModelManifest("edge_vqa", simple_class_path=f"{__name__}.EdgeVqa")  # entry point group `lmms_eval.models`
QUESTION = ("task", "plain")
FOR_OTHERS = ("device", "max_batch_size")  # the harness says them to every model


class EdgeVqa(lmms):  # type: ignore[misc]
    """Answers every question, whatever its confidence: the harness measures accuracy.

    pretrained: bundle, by name or folder. question: `task`, as the harness words it, with its instruction; or `plain`, the
    document's `question` alone, as `edge-vqa eval` asks it. confidences: a file that gets a JSON line for each answer: task,
    split, doc_id, and what `edge-vqa batch` says of an answer. batch_size: questions that are answered together, `--together`
    of `edge-vqa eval`. detail, vision, threads: see `edge_vqa.load` and `ask`.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        confidences: str | None = None,
        question: str = "task",
        detail: str | None = None,
        vision: str | None = None,
        threads: int | None = None,
        batch_size: int | str = 1,
        **other: Any,
    ) -> None:
        super().__init__()
        other = {name: value for name, value in other.items() if value is not None and name not in FOR_OTHERS}
        if other or question not in QUESTION:
            wrong = ", ".join(other) or f"question={question}"
            raise EdgeVqaError(f"edge_vqa takes no {wrong}", "see docs/tools.md for its model_args")
        self._model = load(pretrained, vision=vision, threads=threads, sequences=int(batch_size))
        self._confidences = None if confidences is None else Path(confidences)
        self._question, self._detail = question, detail
        if self._confidences is not None:
            self._confidences.write_text("")

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The candidate of each request; an empty string where its picture or question cannot be asked."""

        def asked() -> Iterator[tuple[ImageSource, str]]:
            for request in requests:
                context, _, doc_to_visual, doc_id, task, split = request.args
                document = self.task_dict[task][split][doc_id]
                words = str(document["question"]) if self._question == "plain" else context
                yield doc_to_visual(document), words

        candidates: list[str] = []
        told_of = zip(requests, self._model.ask_many(asked(), gate=False, detail=self._detail), strict=True)
        for request, answer in tqdm(told_of, total=len(requests), desc="edge-vqa"):
            _, _, _, doc_id, task, split = request.args
            line: dict[str, Any] = {"task": task, "split": split, "doc_id": doc_id}
            if isinstance(answer, EdgeVqaError):
                line["error"] = str(answer)
                candidates.append("")
            else:
                line |= told.judgement(answer, show_candidate=True)
                candidates.append(answer.candidate)
            if self._confidences is not None:
                with self._confidences.open("a", encoding="utf-8") as stream:
                    stream.write(as_json(line) + "\n")
        return candidates

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise EdgeVqaError("edge-vqa answers questions, and scores no given answers", "choose tasks that generate")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise EdgeVqaError("edge-vqa remembers no earlier questions", "choose tasks of one round")

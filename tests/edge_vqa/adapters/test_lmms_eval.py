"""The real lmms-eval runs a task of our own data on a bundle; its figures are those of `edge-vqa eval`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Asked, written

# lmms-eval's own scoring for VQAv2, and its own wording of the question, on a file of ours
TASK = """
task: ours
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.vqav2_doc_to_text
doc_to_target: "answers"
process_results: !function utils.process_results
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
generation_kwargs:
  max_new_tokens: 16
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: "\\nAnswer the question using a single word or phrase."
metadata:
  - version: 0.0
"""
UTILS = """
from lmms_eval.tasks.vqav2.utils import vqav2_doc_to_text, vqav2_process_results_val
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def process_results(doc, result):
    people = [{"answer": answer, "answer_id": number} for number, answer in enumerate(doc["answers"])]
    return vqav2_process_results_val(doc | {"answers": people}, result)
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory, easy_questions: list[Asked]) -> Path:
    """A folder with the task and its questions; some of the ten people who answered disagree."""
    folder = tmp_path_factory.mktemp("task")
    lines = []
    for number, (_, picture, question, answer) in enumerate(easy_questions[:60]):
        others = number % 4
        said = ["something else"] * (10 - others) + [answer] * others if number % 3 == 0 else [answer] * 10
        lines.append({"question_id": f"q{number}", "image": str(picture), "question": question, "answers": said})
    (folder / "ours.yaml").write_text(TASK.format(questions=written(folder / "q.jsonl", lines)))
    (folder / "utils.py").write_text(UTILS)
    return folder


def harness(task: Path, output: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lmms_eval", "--model", "edge_vqa", "--model_args", arguments]
    command += ["--include_path", str(task), "--tasks", "ours", "--output_path", str(output), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(output / "hf")}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | offline, check=False)


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.rglob(pattern)
    return found


def test_a_task_of_our_own_has_the_accuracy_of_eval_and_its_confidences(task: Path, tmp_path: Path, run: Any) -> None:
    confidences = tmp_path / "confidences.jsonl"
    done = harness(task, tmp_path, f"pretrained=mini,question=plain,confidences={confidences}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    theirs = json.loads(only(tmp_path, "*_results.json").read_text())["results"]["ours"]["exact_match,none"]
    ours = run("edge-vqa", "eval", task / "q.jsonl", "-o", tmp_path / "report", "--model", "mini", "--together", "1", "--json")
    assert ours.returncode == 0, ours.stderr
    measured = json.loads(ours.stdout)["accuracy"]["value"]
    assert theirs == pytest.approx(measured, abs=1e-12) and 0.3 < theirs < 0.95
    told = [json.loads(line) for line in confidences.read_text().splitlines()]
    answers = [json.loads(line) for line in (tmp_path / "report" / "answers.jsonl").read_text().splitlines()]
    assert [line["doc_id"] for line in told] == list(range(60)) and {line["task"] for line in told} == {"ours"}
    for one, other in zip(told, answers, strict=True):
        assert (one["candidate"], one["confidence"], one["familiarity"]) == (
            other["candidate"],
            other["confidence"],
            other["familiarity"],
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("pretrained=nothing", "no bundle 'nothing'"),
        ("pretrained=mini,colour=red", "edge_vqa takes no colour"),
        ("pretrained=mini,question=mine", "edge_vqa takes no question=mine"),
    ],
)
def test_what_is_wrong_is_said(arguments: str, said: str) -> None:
    from lmms_eval.models import get_model

    from edge_vqa.errors import EdgeVqaError

    with pytest.raises(EdgeVqaError, match=said):
        get_model("edge_vqa").create_from_arg_string(arguments, {"batch_size": 1, "max_batch_size": None, "device": "cpu"})


def test_the_wording_of_the_task_and_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    from lmms_eval.api.instance import Instance
    from lmms_eval.models import get_model

    from edge_vqa.model import load
    from tests.conftest import EXAMPLES

    told = tmp_path / "c.jsonl"
    model = get_model("edge_vqa").create_from_arg_string(f"pretrained=mini,confidences={told}", {"batch_size": 2})
    documents = [{"question": "never asked", "image": EXAMPLES / name} for name in ("price.png", "questions.jsonl", "cat.jpg")]
    model.task_dict["ours"] = {"test": documents}
    asked = "How much is it?\nAnswer the question using a single word or phrase."

    def picture(document: dict[str, Any]) -> list[str]:
        return [str(document["image"])]

    requests = [
        Instance("generate_until", (asked, {}, picture, n, "ours", "test"), 0, {"task": "ours", "doc_id": n, "repeats": 1})
        for n in range(3)
    ]
    found = model.generate_until(requests)
    with load("mini") as alone:
        assert found[0] == alone.ask(EXAMPLES / "price.png", asked, gate=False).candidate
    assert found[1] == "" and "not a picture" in json.loads(told.read_text().splitlines()[1])["error"] and found[2]
    with pytest.raises(Exception, match="choose tasks that generate"):
        model.loglikelihood(requests)

"""Official annotation files become questions files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edge_vqa.work.questions import read
from tests.conftest import Run, one_line


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """Files in the official forms: 20 questions on 10 pictures of VQAv2, 3 of VizWiz."""
    asked = [{"image_id": 42 + n // 2, "question": f"What is number {n}?", "question_id": 42000 + n} for n in range(20)]
    answers = [{"answer": "net" if i < 7 else "netting", "answer_confidence": "maybe", "answer_id": i + 1} for i in range(10)]
    annotated = [
        {"question_id": q["question_id"], "image_id": q["image_id"], "answers": answers, "multiple_choice_answer": "net"}
        for q in asked
    ]
    (tmp_path / "q.json").write_text(json.dumps({"data_subtype": "val2014", "questions": asked}))
    (tmp_path / "a.json").write_text(json.dumps({"annotations": annotated}))
    (tmp_path / "images").mkdir()
    for n in range(9):
        (tmp_path / "images" / f"COCO_val2014_{42 + n:012}.jpg").touch()
    lines = [
        {"image": f"VizWiz_val_{n:08}.jpg", "question": "What is this? Thank you.", "answers": answers, "answerable": 1}
        for n in range(3)
    ]
    (tmp_path / "val.json").write_text(json.dumps(lines))
    return tmp_path


def vqav2(run: Run, official: Path, *more: object) -> subprocess.CompletedProcess[str]:
    files = ("--questions", official / "q.json", "--annotations", official / "a.json", "--images", official / "images")
    return run("edge-vqa-selector", "import", "vqav2", *files, "-o", official / "out", *more)


def test_vqav2_is_split_by_picture_with_a_seed(run: Run, official: Path) -> None:
    result = vqav2(run, official)
    assert result.returncode == 0, result.stderr
    assert "2 questions have no picture yet" in result.stderr
    parts = {name: read(official / "out" / f"{name}.jsonl", labelled=True) for name in ("dev", "val", "test")}
    assert [len(part) for part in parts.values()] == [8, 2, 10]
    pictures = [{q.image.name for q in part} for part in parts.values()]
    assert not pictures[0] & pictures[1] and not pictures[0] & pictures[2] and len(set.union(*pictures)) == 10
    question = parts["dev"][0]
    assert len(question.answers) == 10 and question.answers.count("net") == 7
    assert question.image.resolve().parent == official / "images"
    before = (official / "out" / "dev.jsonl").read_text()
    vqav2(run, official)
    assert (official / "out" / "dev.jsonl").read_text() == before


def test_the_splits_of_whitehead_et_al_are_followed(run: Run, official: Path) -> None:
    records = [{"dataset_name": "vqa2"}, *({"question_id": 42000 + n, "image_id": 42 + n // 2} for n in (4, 5, 9))]
    np.save(official / "imdb_val2014-dev.npy", np.array(records, dtype=object))
    (official / "test.json").write_text("[42000, 42001]")
    result = vqav2(
        run, official, "--split", f"dev={official / 'imdb_val2014-dev.npy'}", "--split", f"test={official / 'test.json'}"
    )
    assert result.returncode == 0, result.stderr
    assert [q.question_id for q in read(official / "out" / "dev.jsonl")] == ["42004", "42005", "42009"]
    assert [q.question_id for q in read(official / "out" / "test.jsonl")] == ["42000", "42001"]


def test_nothing_in_a_split_file_runs(run: Run, official: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(official / "harmed"), "w"))

    np.save(official / "bad.npy", np.array([Harmful()], dtype=object), allow_pickle=True)
    (official / "harmed").unlink(missing_ok=True)
    line = one_line(vqav2(run, official, "--split", f"dev={official / 'bad.npy'}"))
    assert "is not a split" in line and "is not data" in line
    assert not (official / "harmed").exists()


def test_vizwiz_and_advqa(run: Run, official: Path) -> None:
    result = run(
        *("edge-vqa-selector", "import", "vizwiz", "--annotations", official / "val.json", "--images", official / "images"),
        *("-o", official / "vizwiz"),
    )
    assert result.returncode == 0, result.stderr
    lines = "".join((official / "vizwiz" / f"{name}.jsonl").read_text() for name in ("dev", "val", "test")).splitlines()
    assert sorted(json.loads(line)["question_id"] for line in lines) == [f"VizWiz_val_{n:08}" for n in range(3)]
    (official / "coco17").mkdir()
    (official / "coco17" / f"{42:012}.jpg").touch()
    result = run(
        *("edge-vqa-selector", "import", "advqa", "--questions", official / "q.json", "--annotations", official / "a.json"),
        *("--images", official / "coco17", "-o", official / "advqa"),
    )
    assert result.returncode == 0, result.stderr
    images = [json.loads(line)["image"] for line in (official / "advqa" / "test.jsonl").read_text().splitlines()]
    assert all(Path(image).name.startswith("0000") for image in images), images[0]


def test_bad_annotations_cost_one_line(run: Run, official: Path) -> None:
    good = (official / "a.json").read_text()
    (official / "a.json").write_text(json.dumps({"annotations": json.loads(good)["annotations"][:5]}))
    assert "15 questions have no annotation" in one_line(vqav2(run, official))
    (official / "a.json").write_text("[]")
    assert "do not have the form of VQAv2" in one_line(vqav2(run, official))
    (official / "a.json").write_text("{")
    assert "cannot be read" in one_line(vqav2(run, official))
    (official / "a.json").unlink()
    assert "does not exist" in one_line(vqav2(run, official))
    (official / "a.json").write_text(good)
    (official / "ids.txt").write_text("1\n2\n")
    line = one_line(vqav2(run, official, "--split", f"dev={official / 'ids.txt'}"))
    assert "2 of 2 questions" in line
    assert vqav2(run, official, "--split", "dev").returncode == 2

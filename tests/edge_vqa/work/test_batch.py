"""Large files of questions: resumed after a kill, never lost or doubled, with what cannot be read on a line of its own."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import Model, load
from edge_vqa.work import batch
from edge_vqa.work.batch import Settings
from edge_vqa.work.questions import Question
from tests.conftest import EXAMPLES, Run, edit_manifest, without_time, written

PICTURES = sorted([*EXAMPLES.glob("*.png"), *EXAMPLES.glob("*.jpg")])
ASKED = ("what is this?", "how many things are there?", "is there a dog?", "what does the sign say?")


def some(n: int) -> list[Question]:
    return [Question(f"q{i}", PICTURES[i // len(ASKED) % len(PICTURES)], ASKED[i % len(ASKED)], ()) for i in range(n)]


def asking(path: Path, questions: list[Question]) -> Path:
    return written(path, [{"question_id": q.question_id, "image": str(q.image), "question": q.question} for q in questions])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_those_of_ask(model: Model, tmp_path: Path) -> None:
    questions, output = some(12), tmp_path / "answers.jsonl"
    outcome = batch.run(model, questions, output)
    for question, line in zip(questions, lines(output), strict=True):
        answer = model.ask(question.image, question.question)
        assert (line["question_id"], line["answer"]) == (question.question_id, answer.text)
        assert line["confidence"] == pytest.approx(answer.confidence, abs=1e-4)
        assert line["abstained"] == answer.abstained and (line["candidate"] is None) == answer.abstained
    assert (len(outcome), outcome.failed) == (12, 0)
    assert outcome.abstained == sum(line["abstained"] for line in lines(output))


def test_goes_on_after_kill_9_with_no_answer_lost_or_doubled(model: Model, tmp_path: Path) -> None:
    questions = some(1500)
    asked, output = asking(tmp_path / "questions.jsonl", questions), tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "edge_vqa", "batch", str(asked), "-o", str(output)]
    kills = 0
    while kills < 3:
        had = output.stat().st_size if output.exists() else 0
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while not output.exists() or output.stat().st_size < had + 30_000:
            assert process.poll() is None, "was through before it was killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    before = output.read_bytes()
    with output.open("ab") as stream:
        stream.write(b'{"question_id": "q9')  # a line torn by a power cut
    outcome = batch.run(model, questions, output)
    assert output.read_bytes().startswith(before), "answers that were there have changed"
    assert [line["question_id"] for line in lines(output)] == [q.question_id for q in questions]
    assert len(outcome) == 1500
    again = tmp_path / "again.jsonl"
    batch.run(model, questions[:80], again)
    for one, other in zip(without_time(output), without_time(again), strict=False):
        for key in ("confidence", "maxprob"):
            # decoded together with other questions, rounding differs
            assert one.pop(key) == pytest.approx(other.pop(key), abs=0.05)
        assert one == other


def test_a_finished_file_stays_as_it_is(model: Model, tmp_path: Path) -> None:
    questions, output = some(4), tmp_path / "answers.jsonl"
    first = batch.run(model, questions, output)
    before = output.read_bytes()
    assert batch.run(model, questions, output) == first
    assert output.read_bytes() == before


def test_other_questions_or_settings_are_refused_and_nothing_is_touched(model: Model, tmp_path: Path) -> None:
    questions, output = some(4), tmp_path / "answers.jsonl"
    batch.run(model, questions, output)
    before = output.read_bytes()
    for other, settings, said in (
        (questions[1:], Settings(), "other questions"),
        (questions[:2], Settings(), "other questions"),
        (questions, Settings(risk=0.1), "other settings"),
        (questions, Settings(show_candidate=True), "other settings"),
    ):
        with pytest.raises(EdgeVqaError, match=said):
            batch.run(model, other, output, settings)
        assert output.read_bytes() == before


def test_answers_of_the_same_bundle_with_another_selector_are_not_gone_on_with(
    model: Model, copied: Path, tmp_path: Path
) -> None:
    questions, output = some(4), tmp_path / "answers.jsonl"
    batch.run(model, questions[:2], output)
    edit_manifest(copied, lambda manifest: manifest.update(selector=None, operating_points=[]))
    edit_manifest(copied, lambda manifest: manifest["files"].pop("selector"))
    with load(copied) as other, pytest.raises(EdgeVqaError, match="another model"):
        batch.run(other, questions, output)


@pytest.mark.parametrize("content", [b"my diary", b"my diary\n", b'{"question_id": "q0"}\n', b"[1]\n", b"\xff\x00"])
def test_a_file_of_something_else_is_not_touched(model: Model, tmp_path: Path, content: bytes) -> None:
    output = tmp_path / "diary.txt"
    output.write_bytes(content)
    with pytest.raises(EdgeVqaError, match="something else than answers"):
        batch.run(model, some(2), output)
    assert output.read_bytes() == content


def test_a_wrong_setting_is_said_once_and_writes_nothing(model: Model, tmp_path: Path) -> None:
    with pytest.raises(EdgeVqaError, match="threshold 7"):
        batch.run(model, some(2), tmp_path / "answers.jsonl", Settings(threshold=7))
    assert not (tmp_path / "answers.jsonl").exists()


def test_what_was_changed_since_is_asked_again_and_nothing_else(model: Model, tmp_path: Path, run: Run) -> None:
    """A line belongs to the content of its question and picture, whatever they are called and wherever they stand."""
    picture, output = tmp_path / "a.png", tmp_path / "answers.jsonl"
    picture.write_bytes((EXAMPLES / "fruit.png").read_bytes())
    questions = [*some(4), Question("own", picture, "what is this?", ()), Question("gone", tmp_path / "b.png", "what?", ())]
    outcome = batch.run(model, questions, output)
    assert (len(outcome), outcome.failed, outcome.again) == (6, 1, 0)
    first = lines(output)
    touched = picture.stat().st_mtime_ns
    picture.write_bytes((EXAMPLES / "price.png").read_bytes())
    os.utime(picture, ns=(touched, touched))
    (tmp_path / "b.png").write_bytes((EXAMPLES / "shape.png").read_bytes())
    changed = [questions[3], replace(questions[0], question="how much is it?"), *questions[1:3], *questions[4:]]
    outcome = batch.run(model, changed, output)
    assert (len(outcome), outcome.failed, outcome.again) == (6, 0, 3)
    second = lines(output)
    assert [line["question_id"] for line in second] == [question.question_id for question in changed]
    kept = [line for line in second if line in first]
    assert [line["question_id"] for line in kept] == ["q3", "q1", "q2"], "with the time they took then"
    for question, line in zip(changed, second, strict=True):
        assert line["confidence"] == pytest.approx(model.ask(question.image, question.question).confidence, abs=1e-4)
    before = output.read_bytes()
    assert batch.run(model, changed, output).again == 0 and output.read_bytes() == before
    asked = asking(tmp_path / "questions.jsonl", [replace(changed[0], question="is it red?"), *changed[1:]])
    said = run("edge-vqa", "batch", asked, "-o", output).stderr
    assert said.count("\n") == 1 and "; 1 asked again, whose question or picture was changed" in said


def test_an_interrupted_second_asking_loses_neither(model: Model, tmp_path: Path) -> None:
    """What was asked again lies behind, until all is asked: then the file is put in order, in one step."""
    questions, output = some(6), tmp_path / "answers.jsonl"
    batch.run(model, questions, output)
    changed = [replace(question, question="is it red?") for question in questions[:3]] + questions[3:]

    def stop(outcome: batch.Outcome) -> None:
        if len(outcome) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch.run(model, changed, output, progress=stop)
    assert len(lines(output)) == 8
    outcome = batch.run(model, changed, output)
    assert (len(outcome), outcome.again) == (6, 1)
    assert [line["question_id"] for line in lines(output)] == [question.question_id for question in changed]


def test_only_one_process_writes(model: Model, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    with output.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(EdgeVqaError, match="another process"):
            batch.run(model, some(2), output)


def test_a_broken_picture_gets_a_line_and_the_rest_goes_on(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG, or not")
    questions = some(3)
    questions[1] = Question("q1", broken, "what is this?", ())
    asked, output = asking(tmp_path / "questions.jsonl", questions), tmp_path / "answers.jsonl"
    done = run("edge-vqa", "batch", str(asked), "-o", str(output))
    assert done.returncode == 1 and "1 failed" in done.stderr and "first failure: q1" in done.stderr
    assert ["error" in line for line in lines(output)] == [False, True, False]


def test_missing_pictures_are_counted_before_anything_is_asked(run: Run, tmp_path: Path) -> None:
    questions = some(3)
    questions[0] = Question("q0", tmp_path / "gone.png", "what is this?", ())
    asked, output = asking(tmp_path / "questions.jsonl", questions), tmp_path / "answers.jsonl"
    done = run("edge-vqa", "batch", str(asked), "-o", str(output))
    assert done.returncode == 1 and "1 of 3 pictures are missing" in done.stderr and "gone.png" in done.stderr
    assert not output.exists()
    done = run("edge-vqa", "batch", str(asked), "-o", str(output), "--skip-missing")
    assert done.returncode == 0 and "1 left out" in done.stderr
    assert [line["question_id"] for line in lines(output)] == ["q1", "q2"]


def test_a_place_that_cannot_be_written_is_one_line(run: Run, tmp_path: Path) -> None:
    asked = asking(tmp_path / "questions.jsonl", some(1))
    done = run("edge-vqa", "batch", str(asked), "-o", str(tmp_path / "nowhere" / "answers.jsonl"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "cannot be written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]

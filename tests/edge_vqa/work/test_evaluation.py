"""Every figure of `edge-vqa eval`, and its report."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_vqa import metrics
from edge_vqa.bundles.manifest import OperatingPoint
from edge_vqa.work import evaluation, report
from edge_vqa.work.evaluation import Case, Judged
from edge_vqa.work.questions import Question
from tests.conftest import EXAMPLES, Run

POINT = OperatingPoint(risk=0.1, delta=0.05, threshold=0.55, method="ltt", n=100, data="d", coverage=0.5, confidence="selector")


def judged(n: int = 400, per_picture: int = 1, seed: int = 0) -> Judged:
    """Answers of a confidence that means what it says, and of one that says nothing."""
    rng = np.random.default_rng(seed)
    confidence = rng.random(n // per_picture).repeat(per_picture)
    accuracy = (rng.random(n // per_picture).repeat(per_picture) < confidence) * 1.0
    pictures = [str(i // per_picture) for i in range(n)]
    return Judged(accuracy, pictures, {"selector": confidence, "maxprob": rng.random(n)})


def test_figures_are_those_of_the_metrics_and_lie_in_their_intervals() -> None:
    of = judged()
    found = evaluation.evaluate(of, [POINT])
    for method, confidence in of.confidence.items():
        figures = found.methods[method]
        assert figures["aurc"].value == metrics.aurc(confidence, of.accuracy)
        assert figures["coverage_at_0.05"].value == metrics.coverage_at_risk(confidence, of.accuracy, 0.05)[0]
        assert figures["auroc"].low < figures["auroc"].value < figures["auroc"].high
    (point,) = found.points
    answered = of.confidence["selector"] >= 0.55
    assert point.coverage.value == answered.mean()
    assert point.risk.value == pytest.approx(1 - of.accuracy[answered].mean())
    assert found.better["aurc"].high < 0, "a confidence that means what it says beats noise"


def test_intervals_are_as_wide_as_the_theory_says() -> None:
    found = evaluation.evaluate(judged(2000))
    p = found.accuracy.value
    expected = 2 * 1.96 * math.sqrt(p * (1 - p) / 2000)
    assert found.accuracy.high - found.accuracy.low == pytest.approx(expected, rel=0.1)


def test_questions_on_one_picture_count_as_one_draw() -> None:
    apart, together = (evaluation.evaluate(judged(2000, per_picture=k)).accuracy for k in (1, 10))
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert 2.5 < ratio < 4.0, f"ten equal answers a picture widen the interval {ratio:.2f} times, not by the square root of 10"


def test_phi_takes_its_threshold_from_other_pictures() -> None:
    noise = judged(600, seed=3)
    in_sample = max(
        metrics.effective_reliability(noise.confidence["maxprob"], noise.accuracy, 10, t)
        for t in [*noise.confidence["maxprob"], 2.0]
    )
    found = evaluation.evaluate(noise).methods["maxprob"]["phi_10"].value
    assert in_sample >= 0 and found < in_sample, "a threshold chosen on its own questions would look better than it is"


def test_best_threshold_is_the_optimum_and_abstains_where_nothing_gains() -> None:
    of = judged(300, seed=5)
    confidence = of.confidence["selector"].round(1)  # ties
    for cost in (1, 10, 100):
        chosen = metrics.best_threshold(confidence, of.accuracy, cost)
        best = max(metrics.effective_reliability(confidence, of.accuracy, cost, t) for t in [*set(confidence), 2.0])
        assert metrics.effective_reliability(confidence, of.accuracy, cost, chosen) == pytest.approx(best)
    assert metrics.best_threshold([0.5, 0.9], [0, 0], 1) == math.inf


def test_no_confidence_beats_the_best_possible() -> None:
    of = judged()
    found = evaluation.evaluate(of)
    share = of.accuracy.mean()
    assert found.best["coverage_at_0.1"] == pytest.approx(share / 0.9, abs=1 / 400)  # all right ones, and a tenth wrong
    for figures in found.methods.values():
        assert figures["aurc"].value >= found.best["aurc"]
        assert figures["phi_10"].value <= found.best["phi_10"]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_or_all_wrong_still_gives_a_report(value: float, tmp_path: Path) -> None:
    of = Judged(np.full(5, value), list("abcde"), {"maxprob": np.linspace(0, 1, 5)})
    found = evaluation.evaluate(of, [POINT])
    assert math.isnan(found.methods["maxprob"]["auroc"].value) and not found.points and not found.better
    report.write(tmp_path, report.Subject("m", "d"), found, of, [])
    assert json.loads((tmp_path / "metrics.json").read_text())["methods"]["maxprob"]["auroc"]["value"] is None


def test_a_million_answers_are_measured_in_two_seconds() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(10**6).astype(np.float32)
    accuracy = rng.integers(0, 11, 10**6) / 10
    began = time.process_time()  # other work on the machine does not count
    evaluation.figures(confidence, accuracy)
    for cost in evaluation.COSTS:
        metrics.effective_reliability(confidence, accuracy, cost, metrics.best_threshold(confidence, accuracy, cost))
    seconds = time.process_time() - began
    assert seconds < 2, f"{seconds:.2f} s"


def test_the_report_escapes_what_it_was_given_and_shows_confident_mistakes_first() -> None:
    cases = [
        Case(Question(f"q{i}", EXAMPLES / name, "<script>?", ("a&b",)), "<img>", confidence, accuracy)
        for i, (name, confidence, accuracy) in enumerate(
            [
                ("cat.jpg", 0.4, 0.0),
                ("face.png", 0.9, 0.0),
                ("face.png", 0.8, 0.0),
                ("clock.png", 0.95, 1.0),
                ("gone", 0.1, 0.0),
            ]
        )
    ]
    mistakes = report.worst(cases)
    assert [case.question.question_id for case in mistakes] == ["q1", "q0", "q4"]
    page = report.as_html(report.Subject("<b>", "d"), evaluation.evaluate(judged(50)), {}, mistakes)
    assert "<script>" not in page and "&lt;script&gt;?" in page and "a&amp;b" in page and "<img>" not in page
    assert page.count("data:image/png") == 2 and "(no picture)" in page


def test_eval_writes_a_report_and_goes_on_where_it_stopped(run: Run, tmp_path: Path) -> None:
    rows = [
        {"question_id": str(i), "image": name, "question": "what is this?", "answers": [answer]}
        for i, (name, answer) in enumerate([("face.png", "face"), ("cat.jpg", "cat"), ("shape.png", "star"), ("gone.png", "x")])
    ]
    for row in rows[:3]:
        shutil.copy(EXAMPLES / row["image"], tmp_path)
    questions, folder = tmp_path / "mine.jsonl", tmp_path / "report"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = run("edge-vqa", "eval", questions, "-o", folder)
    assert refused.returncode == 1 and "1 of 4 pictures are missing" in refused.stderr and not folder.exists()
    done = run("edge-vqa", "eval", questions, "-o", folder, "--skip-missing", "--json")
    assert done.returncode == 0, done.stderr
    names = {"answers.jsonl", "metrics.json", "report.html", "risk_coverage.png", "reliability.png", "confidence.png"}
    assert {path.name for path in folder.iterdir()} == names
    found = json.loads(done.stdout)
    assert found == json.loads((folder / "metrics.json").read_text())
    assert (found["questions"], found["missing"], found["data"]) == (3, 1, "mine")
    before = (folder / "answers.jsonl").read_bytes()
    again = run("edge-vqa", "eval", questions, "-o", folder, "--skip-missing")
    assert again.returncode == 0 and "accuracy" in again.stdout
    assert (folder / "answers.jsonl").read_bytes() == before


def test_foreign_sets_are_reported_apart(run: Run, tmp_path: Path) -> None:
    def lines(name: str, rows: list[tuple[Path, str, str]]) -> Path:
        path = tmp_path / name
        listed = ({"question_id": f"{i}", "image": str(p), "question": q, "answers": [a]} for i, (p, q, a) in enumerate(rows))
        path.write_text("".join(json.dumps(line) + "\n" for line in listed))
        return path

    strange = []
    for seed in range(3):
        path = tmp_path / f"{seed}.png"
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
        strange.append((path, "is there a banana?", "unanswerable"))
    known = [(EXAMPLES / name, "what is this?", right) for name, right in (("face.png", "face"), ("shape.png", "star"))]
    own, noise = lines("own.jsonl", known), lines("<noise>.jsonl", strange)
    done = run("edge-vqa", "eval", own, "-o", tmp_path / "report", "--model", "mini", "--foreign", noise)
    assert done.returncode == 0, done.stderr
    assert "foreign: <noise>: answered 0.0 [0.0, 0.0] %, wrong per 100 asked 0.0" in done.stdout
    assert "told apart AUROC 1.000" in done.stdout
    (found,) = json.loads((tmp_path / "report" / "metrics.json").read_text())["foreign"]
    assert (found["name"], found["questions"], found["wrong"]["value"], found["fpr95"]["value"]) == ("<noise>", 3, 0.0, 0.0)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Foreign pictures" in page and "&lt;noise&gt;" in page and "<noise>" not in page
    twice = run("edge-vqa", "eval", own, "-o", tmp_path / "other", "--foreign", noise, "--foreign", noise)
    assert twice.returncode == 2 and "different ones" in " ".join(twice.stderr.split())


def test_foreign_figures_are_direct_calculation() -> None:
    point = OperatingPoint(0.05, 0.1, 0.5, "m", 10, "d", 0.5, familiarity=0.1)
    known = Judged(np.ones(4), list("abcd"), {"selector": np.full(4, 0.9)}, np.array([0.9, 0.5, 0.3, 0.05]))
    other = Judged(
        np.array([0, 1, 0, 0.0]), list("efgh"), {"selector": np.array([0.9, 0.9, 0.4, 0.9])}, np.array([0.2, 0.2, 0.2, 0])
    )
    found = evaluation.foreign("x", other, known, point)
    assert (found.answered.value, found.wrong.value) == (0.5, 0.25)
    assert found.auroc.value == pytest.approx((3 * 3 + 3 * 0 + 4) / 16)
    bare = evaluation.foreign(
        "x", dataclasses.replace(other, familiarity=None), dataclasses.replace(known, familiarity=None), None
    )
    assert bare.answered.value == 1.0 and bare.wrong.value == 0.75 and math.isnan(bare.auroc.value)


def test_questions_without_answers_cannot_be_evaluated(run: Run, tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"question_id": "1", "image": str(EXAMPLES / "cat.jpg"), "question": "what?"}))
    done = run("edge-vqa", "eval", questions, "-o", tmp_path / "report")
    assert done.returncode == 1 and "line 1: no answers" in done.stderr

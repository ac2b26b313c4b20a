"""Collect, train, export, threshold: the whole chain on the real bundle, in small."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from edge_vqa import bundle as bundles
from edge_vqa.bundle import Bundle
from edge_vqa.confidence import Selector
from edge_vqa.model import load
from edge_vqa.trace import features
from selector_onnx import collect, train
from tests.conftest import EXAMPLES, Asked, Run, one_line


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory, easy_questions: list[Asked]) -> Path:
    """Questions that the model gets right, and some whose reference answer it never gives."""
    path = tmp_path_factory.mktemp("questions") / "mixed.jsonl"
    lines, pictures = [], set()
    for number, picture, question, answer in easy_questions:
        if picture in pictures:
            continue
        pictures.add(picture)
        if len(pictures) % 3 == 0:
            question, answer = "what time is it?", "unanswerable"
        lines.append({"question_id": number, "image": str(picture), "question": question, "answers": [answer]})
        if len(lines) == 240:
            break
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_commands_make_a_bundle_that_gates_with_its_own_selector(run: Run, questions: Path, copied: Path) -> None:
    traces, selector = questions.with_name("traces.npz"), questions.with_name("selector.npz")
    result = run("edge-vqa-selector", "collect", copied, questions, "-o", traces)
    assert result.returncode == 0 and "240 traces, accuracy 0.6" in result.stdout, result.stderr
    result = run("edge-vqa-selector", "train", traces, "-o", selector)
    assert result.returncode == 0 and "AURC Selector" in result.stdout, result.stderr
    again = selector.with_name("again.npz")
    run("edge-vqa-selector", "train", traces, "-o", again)
    first, second = train.load(selector), train.load(again)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first.layers, second.layers, strict=True)), "not reproducible"
    result = run("edge-vqa-selector", "export", selector, copied)
    assert result.returncode == 0, result.stderr
    found = bundles.read(copied)
    assert found.manifest.operating_points == () and found.manifest.files["selector"].bytes <= 1_000_000
    result = run("edge-vqa-selector", "threshold", copied, traces, "--risk", "0.1", "--risk", "0.01")
    assert result.returncode == 0 and "risk 0.1: threshold" in result.stdout, result.stdout + result.stderr
    points = bundles.read(copied).manifest.operating_points
    assert [point.risk for point in points] == [0.01, 0.1] and points[1].default
    assert points[1].data == "mixed" and points[1].n == 240 and 0.3 < points[1].coverage < 0.75
    asked = json.loads(run("edge-vqa", "ask", EXAMPLES / "shape.png", "what time is it?", "--model", copied, "--json").stdout)
    assert asked["abstained"] and asked["calibrated"] and asked["confidence_method"] == "selector"


def test_the_graph_agrees_with_plain_numpy_and_with_the_runtime(copied: Path, questions: Path) -> None:
    from edge_vqa.questions import read
    from selector_onnx.export import export

    with load(copied) as model:
        traces = collect.collect(model, read(questions, labelled=True)[:90], "some")
    trained = train.train(traces, epochs=5)
    export(trained, bundles.read(copied))
    graph = Selector(bundles.read(copied))
    assert np.abs(graph.score_features(traces.features) - trained.score(traces.features)).max() < 1e-5
    with load(copied) as model:
        answer = model.ask(traces.picture[0], read(questions)[0].question)
    assert answer.confidence == pytest.approx(trained.score(traces.features)[0], abs=1e-3)


def test_the_gate_costs_at_most_a_millisecond(mini: Bundle) -> None:
    with load("mini") as model:
        trace = model.ask(EXAMPLES / "price.png", "how much is it?").trace
    selector, times = Selector(mini), []
    assert set(features(trace)) == set(mini.manifest.selector.dimensions)  # type: ignore[union-attr]
    for _ in range(200):
        began = time.perf_counter()
        selector.score(trace)
        times.append(time.perf_counter() - began)
    assert np.median(times) <= 1e-3, f"{np.median(times) * 1e3:.2f} ms"


def test_validation_shares_no_picture_with_training() -> None:
    pictures = np.repeat([f"p{i}" for i in range(100)], 5)
    held = train.split_by_picture(pictures, 0.2, 0)
    assert not set(pictures[held]) & set(pictures[~held])
    assert len(set(pictures[held])) == 20


def test_bad_input_costs_one_line(run: Run, tmp_path: Path, copied: Path, questions: Path, f32_bundle: Bundle) -> None:
    bad = tmp_path / "bad.jsonl"
    first = json.loads(questions.read_text().splitlines()[0])
    for lines, words in (
        (["{"], "line 1"),
        ([json.dumps({"question": "?"})], "question_id is missing"),
        ([json.dumps(first | {"answers": "yes"})], "answers must be a list"),
        ([json.dumps(first | {"answers": []})], "no answers"),
        ([json.dumps(first), json.dumps(first)], "comes twice"),
        ([], "holds no questions"),
        ([json.dumps(first | {"image": "none.png"})], "does not exist"),
    ):
        bad.write_text("\n".join(lines))
        assert words in one_line(run("edge-vqa-selector", "collect", copied, bad, "-o", tmp_path / "t.npz"))
    assert not (tmp_path / "t.npz").exists()
    assert "holds no traces" in one_line(run("edge-vqa-selector", "train", bad, "-o", tmp_path / "s.npz"))
    assert "does not exist" in one_line(run("edge-vqa-selector", "train", tmp_path / "no.npz", "-o", tmp_path / "s.npz"))
    assert "holds no trained Selector" in one_line(run("edge-vqa-selector", "export", bad, copied))
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(questions.read_text().splitlines()[:20]))
    assert run("edge-vqa-selector", "collect", copied, few, "-o", tmp_path / "t.npz").returncode == 0
    assert "too few" in one_line(run("edge-vqa-selector", "train", tmp_path / "t.npz", "-o", tmp_path / "s.npz"))
    foreign = run("edge-vqa-selector", "threshold", f32_bundle.folder, tmp_path / "t.npz")
    assert "are of another bundle" in one_line(foreign)
    double = tmp_path / "double.jsonl"
    double.write_text(json.dumps(first) + "\n" + json.dumps(first | {"question_id": "other"}))
    assert run("edge-vqa-selector", "collect", copied, double, "-o", tmp_path / "d.npz").returncode == 0
    assert "not independent" in one_line(run("edge-vqa-selector", "threshold", copied, tmp_path / "d.npz"))

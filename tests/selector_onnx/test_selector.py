"""Collect, train, export, threshold: the whole chain on the real bundle, in small."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converters.convert import convert
from converters.options import Options
from edge_vqa import metrics
from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.model import load
from edge_vqa.trust.confidence import Selector
from edge_vqa.trust.familiarity import Familiarity
from edge_vqa.trust.trace import SELECTED, features
from selector_onnx import collect, export, train
from tests.conftest import CHECKPOINT, EXAMPLES, Asked, Run, edit_manifest, one_line


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
    assert result.returncode == 0 and "<- taken" in result.stdout and "AURC out of fold" in result.stdout, result.stderr
    again = selector.with_name("again.npz")
    run("edge-vqa-selector", "train", traces, "-o", again)
    first, second = train.load(selector), train.load(again)
    for one, other in zip(first.members, second.members, strict=True):
        assert all(np.array_equal(a[0], b[0]) for a, b in zip(one, other, strict=True)), "not reproducible"
    result = run("edge-vqa-selector", "export", selector, copied)
    assert result.returncode == 0, result.stderr
    found = store.read(copied)
    points = found.manifest.operating_points
    assert all(point.confidence == "selector-early" for point in points), "points of the old Selector are gone"
    assert found.manifest.files["selector"].bytes <= 1_000_000
    result = run("edge-vqa-selector", "threshold", copied, traces, "--risk", "0.1", "--risk", "0.01")
    assert result.returncode == 0 and "risk 0.1: threshold" in result.stdout, result.stdout + result.stderr
    points = tuple(p for p in store.read(copied).manifest.operating_points if p.confidence == "selector")
    assert [point.risk for point in points] == [0.01, 0.1] and points[1].default
    assert points[1].data == "mixed" and points[1].n == 240 and 0.3 < points[1].coverage < 0.75
    asked = json.loads(run("edge-vqa", "ask", EXAMPLES / "shape.png", "what time is it?", "--model", copied, "--json").stdout)
    assert asked["abstained"] and asked["calibrated"] and asked["confidence_method"] == "selector"


@pytest.fixture(scope="module")
def traces(questions: Path) -> collect.Traces:
    from edge_vqa.work.questions import read

    with load("mini") as model:
        return collect.collect(model, read(questions, labelled=True), "some")


SMALL = (train.Candidate("logistic", 4, (), 0.01), train.Candidate("MLP", 8, (16, 8), 0.05))


@pytest.mark.parametrize("candidate", SMALL, ids=lambda c: c.name)
def test_the_graph_agrees_with_plain_numpy_and_with_the_runtime(
    copied: Path, questions: Path, traces: collect.Traces, candidate: train.Candidate
) -> None:
    from edge_vqa.work.questions import read

    trained = train.train(traces, candidates=[candidate]).trained
    export.export(trained, store.read(copied))
    graph = Selector(store.read(copied))
    assert np.abs(graph.score_features(traces.features) - trained.score_features(traces.features)).max() < 1e-5
    with load(copied) as model:
        answer = model.ask(traces.picture[0], read(questions)[0].question)
    assert answer.confidence == pytest.approx(trained.score_features(traces.features)[0], abs=1e-3)


def test_in_8_bits_the_graph_says_nearly_the_same_and_is_smaller(copied: Path, traces: collect.Traces) -> None:
    trained = train.train(traces, candidates=SMALL[1:]).trained
    whole = export.export(trained, store.read(copied))
    small = export.export(trained, store.read(copied), int8=True)
    difference = np.abs(Selector(store.read(copied)).score_features(traces.features) - trained.score_features(traces.features))
    assert small < 0.5 * whole and difference.max() < 0.05, (small, whole, difference.max())


def test_a_new_selector_replaces_the_old_one_as_a_whole(
    copied: Path, traces: collect.Traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any file operation, `export` leaves a bundle that verifies and answers with one of the two."""
    trained = train.train(traces, candidates=SMALL[1:]).trained

    def counted(real: Callable[..., object], left: list[int]) -> Callable[..., object]:
        def call(*arguments: object, **how: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
            return real(*arguments, **how)

        return call

    statuses = [9]
    while statuses[-1]:
        operations = len(statuses) - 1
        process = os.fork()
        if not process:
            left = [operations]
            for name in ("replace", "unlink", "open"):
                monkeypatch.setattr(Path, name, counted(getattr(Path, name), left))
            export.export(trained, store.read(copied))
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
        store.verify(store.read(copied), thorough=True)
    assert statuses[1] == 9 and len(statuses) > 4 and set(statuses[1:-1]) == {9}, statuses
    assert len(list(copied.glob("selector*.onnx"))) <= 3, "at most a file that nobody names is left"
    with load(copied) as model:
        assert model.ask(EXAMPLES / "shape.png", "what is this?").confidence_method == "selector"


@pytest.mark.parametrize("int8", [False, True])
def test_a_wide_model_gets_a_graph_of_less_than_a_megabyte(traces: collect.Traces, int8: bool) -> None:
    """Hidden states of 4,096: the projection is inside the graph."""
    from selector_onnx.export import MAX_BYTES, graph

    rng = np.random.default_rng(0)
    turn = rng.normal(0, 1 / 16, (256, 4096)).astype(np.float32)
    wide = {n: v @ turn if v.shape[1] == len(turn) else v for n, v in traces.features.items()}
    fitted = train.train(dataclasses.replace(traces, features=wide), candidates=[train.Candidate("MLP", 64, (96, 48), 0.05)])
    assert {weight.shape[1] for weight, _ in fitted.trained.projections.values()} == {4096, 4, 8}
    size = len(graph(fitted.trained, int8=int8))
    assert size <= MAX_BYTES, f"{size:,} bytes"


def test_a_member_never_saw_the_questions_it_scores_out_of_fold(traces: collect.Traces) -> None:
    """Labels at random cannot be learned: out of fold the Selector knows nothing, in sample it would."""
    rng = np.random.default_rng(1)
    noise = dataclasses.replace(traces, accuracy=rng.integers(0, 2, len(traces)).astype(np.float32))
    fitted = train.train(noise, candidates=[train.Candidate("logistic", 32, (), 1e-4)])
    out = metrics.auroc(fitted.confidence, noise.accuracy)
    seen = metrics.auroc(fitted.trained.score_features(noise.features), noise.accuracy)
    assert abs(out - 0.5) < 0.15 and seen > 0.75, (out, seen)
    assert not fitted.selector_pays


def test_folds_share_no_picture() -> None:
    pictures = np.repeat([f"p{i}" for i in range(100)], 5)
    folds = train.fold_of(pictures, 5, 0)
    for picture in np.unique(pictures):
        assert len(set(folds[pictures == picture])) == 1
    assert [int((folds == i).sum()) for i in range(5)] == [100] * 5


def test_values_that_are_no_numbers_are_left_out(traces: collect.Traces) -> None:
    broken = {name: values.copy() for name, values in traces.features.items()}
    broken["image"][3] = np.nan
    kept = train.usable(dataclasses.replace(traces, features=broken))
    assert len(kept) == len(traces) - 1 and traces.question_id[3] not in kept.question_id
    broken["image"][:] = np.inf
    with pytest.raises(EdgeVqaError, match="no numbers"):
        train.usable(dataclasses.replace(traces, features=broken))
    for accuracy in (0.0, 1.0):
        with pytest.raises(EdgeVqaError, match="all right, or all wrong"):
            train.usable(dataclasses.replace(traces, accuracy=np.full(len(traces), accuracy, np.float32)))


def test_temperature_scaling_recovers_a_known_distortion() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 20_000)
    right = (rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * z + 1)))).astype(np.float32)
    statistics = np.zeros((20_000, 8), np.float32)
    statistics[:, 0] = -np.log1p(np.exp(-z))
    one = np.zeros((20_000, 1), np.float32)
    made = collect.Traces(
        origin=collect.Origin("", "", "", 2, "", ""),
        features={"statistics": statistics},
        maxprob=one[:, 0],
        accuracy=right,
        picture=np.arange(20_000).astype(str),
        question_id=np.arange(20_000).astype(str),
        candidate=np.array([""] * 20_000),
    )
    found = train.fit_temperature(made)
    assert found.scale == pytest.approx(0.5, abs=0.03) and found.bias == pytest.approx(1.0, abs=0.06), found


def test_collect_goes_on_behind_what_was_kept(questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_vqa.work import questions as files

    asked = files.read(questions, labelled=True)[:25]
    monkeypatch.setattr(files, "PART", 10)
    monkeypatch.setattr(files, "LEAST", 10)
    with load("mini") as model:
        whole = collect.collect(model, asked, "some")

        def interrupted(done: int) -> None:
            if done == 17:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            collect.collect(model, asked, "some", interrupted, keep=tmp_path / "parts")
        counted: list[int] = []
        again = collect.collect(model, asked, "some", counted.append, keep=tmp_path / "parts")
        assert counted[:2] == [10, 11], "the first ten are not asked again"
        assert again.question_id.tolist() == whole.question_id.tolist() and np.array_equal(again.maxprob, whole.maxprob)
        collect.collect(model, asked[:5], "some", counted.append, keep=tmp_path / "parts")
        assert counted[-6:] == [0, 1, 2, 3, 4, 5], "parts of other questions are not used"


@pytest.mark.alone
def test_the_gate_costs_at_most_a_millisecond(mini: Bundle) -> None:
    with load("mini") as model:
        trace = model.ask(EXAMPLES / "price.png", "how much is it?").trace
    selector, familiar, times = Selector(mini), Familiarity(mini), []
    assert set(SELECTED) == set(mini.manifest.estimators["selector"].dimensions) <= set(features(trace))
    for _ in range(200):
        began = time.perf_counter()
        selector.score(trace)
        familiar.score_features(features(trace))
        times.append(time.perf_counter() - began)
    assert np.median(times) <= 1e-3, f"{np.median(times) * 1e3:.2f} ms"


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
        ([json.dumps(first | {"image": "none.png"})], "1 of 1 pictures are missing"),
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


def test_thresholds_of_two_looks_are_chosen_and_used(run: Run, questions: Path, copied: Path) -> None:
    low, high, asked = (questions.with_name(name) for name in ("low.npz", "high.npz", "asked.jsonl"))
    asked.write_text("".join(questions.read_text().splitlines(keepends=True)[:100]))
    for path, detail in ((low, "low"), (high, "high")):
        assert run("edge-vqa-selector", "collect", copied, asked, "-o", path, "--detail", detail).returncode == 0
    assert not np.array_equal(collect.load(low).maxprob, collect.load(high).maxprob)
    result = run("edge-vqa-selector", "threshold", copied, low, "--then", high, "--risk", "0.3", "--delta", "0.2")
    assert result.returncode == 0 and "risk 0.3: threshold" in result.stdout, result.stdout + result.stderr
    manifest = store.read(copied).manifest
    (cascade,) = manifest.cascades
    assert cascade.detail == "high" and manifest.default_point("selector") is not None, "the points of one look stay"
    with load(copied) as model:
        answer = model.ask(EXAMPLES / "price.png", "how much is it?", detail="auto")
        assert (answer.calibrated, answer.threshold, answer.risk_target) == (True, cascade.operating_points[0].threshold, 0.3)
    same = run("edge-vqa-selector", "threshold", copied, low, "--then", low)
    assert "both looks are the same" in one_line(same)
    other = questions.with_name("other.jsonl")
    other.write_text("".join(questions.read_text().splitlines(keepends=True)[:20]))
    fewer = questions.with_name("fewer.npz")
    assert run("edge-vqa-selector", "collect", copied, other, "-o", fewer, "--detail", "high").returncode == 0
    assert "not of the same questions" in one_line(run("edge-vqa-selector", "threshold", copied, low, "--then", fewer))
    (copied / "selector.onnx").unlink()  # another gate: what was chosen for the pair no longer holds
    edit_manifest(copied, lambda stored: (stored["files"].pop("selector"), stored.update(selector=None, operating_points=[])))
    with load(copied) as model:
        assert not model.ask(EXAMPLES / "price.png", "how much is it?", detail="auto").calibrated


def test_traces_of_the_other_vision_tower_move_the_bundle_to_it(run: Run, questions: Path, tmp_path: Path) -> None:
    folder, traces = tmp_path / "both", questions.with_name("onnx.npz")
    convert(CHECKPOINT, folder, Options(vision_backend="both", max_tokens=12))
    assert run("edge-vqa-selector", "collect", folder, questions, "-o", traces, "--vision", "onnx").returncode == 0
    result = run("edge-vqa-selector", "threshold", folder, traces, "--risk", "0.3", "--delta", "0.2")
    assert result.returncode == 0, result.stderr
    manifest = store.read(folder).manifest
    assert manifest.runtime.tower == "vision_onnx" and manifest.points("maxprob")
    for backend, warnings in (("onnx", 0), ("mtmd", 1)):
        with load(folder, vision=backend) as model:
            assert len(model.warnings) == warnings

"""`fit`: labelled questions and a bundle in, a bundle with a fitted gate out; the real model, ONNX and llama.cpp."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import ESTIMATORS
from edge_vqa.model import load
from edge_vqa.work import questions as files
from selector_onnx import exposure, fit
from tests.conftest import EXAMPLES, Asked, Run, edit_manifest, one_line


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, easy_questions: list[Asked]) -> Path:
    """500 questions, one a picture: easy ones that the model gets right, and a third that it cannot answer."""
    path, rng = tmp_path_factory.mktemp("fit") / "questions.jsonl", Random(3)
    lines, pictures = [], set()
    for number, picture, question, answer in easy_questions:
        if picture in pictures or len(lines) == 500:
            continue
        pictures.add(picture)
        if rng.random() < 0.3:
            question, answer = rng.choice(("what time is it?", "welche form ist das?", "how old is it?")), "unanswerable"
        lines.append({"question_id": number, "image": str(picture), "question": question, "answers": [answer]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def bare(copied: Path) -> Path:
    """The embedded bundle without a Selector, as the converter makes it."""

    def without_selectors(manifest: dict[str, Any]) -> None:
        for role in ESTIMATORS:
            manifest["files"].pop(role)
            manifest[role] = None
        manifest |= {"operating_points": [], "calibration": []}

    edit_manifest(copied, without_selectors)
    return copied


def first(labelled: Path, n: int, path: Path) -> Path:
    path.write_text("".join(labelled.read_text().splitlines(keepends=True)[:n]))
    return path


@pytest.mark.alone
def test_500_questions_make_a_fitted_bundle_in_two_minutes(run: Run, bare: Path, labelled: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    result = run(
        *("edge-vqa-selector", "fit", bare, "--data", labelled, "--risk", "0.1", "--risk", "0.05", "--delta", "0.1"),
        *("-o", tmp_path / "mine"),
        cwd=tmp_path,
    )
    took = time.monotonic() - began
    assert result.returncode == 0, result.stderr
    assert took <= 120, f"{took:.0f} s"
    assert "250 questions trained; 250, one a picture, chose thresholds" in result.stdout and "Selector" in result.stdout
    assert "familiarity: learned from 250 pictures and 400 foreign ones" in result.stdout
    found = store.read(tmp_path / "mine")
    points = [p for p in found.manifest.operating_points if p.confidence == "selector"]
    assert [(p.risk, p.delta, p.n, p.default) for p in points] == [(0.1, 0.1, 250, True), (0.05, 0.1, 250, False)]
    assert all(p.threshold is not None and p.coverage > 0.5 for p in points), result.stdout
    assert found.manifest.name == "mine" and {"selector", "selector_early"} <= set(found.manifest.files)
    asked = run("edge-vqa", "ask", EXAMPLES / "shape.png", "what time is it?", "--model", "mine", "--json", cwd=tmp_path)
    assert json.loads(asked.stdout)["abstained"] and json.loads(asked.stdout)["calibrated"], asked.stdout + asked.stderr
    early = run("edge-vqa", "ask", EXAMPLES / "shape.png", "what time is it?", "--model", "mine", "--early", cwd=tmp_path)
    assert early.returncode == 3 and "10% risk" in early.stderr
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(noise)
    strange = run("edge-vqa", "ask", noise, "is there a circle?", "--model", "mine", "--json", cwd=tmp_path)
    assert json.loads(strange.stdout)["reason"] == "unfamiliar", strange.stdout
    for name in ("report.html", "metrics.json", "risk_coverage.png"):
        assert (tmp_path / "mine.fit" / name).stat().st_size > 1000
    assert "exists already" in one_line(run("edge-vqa-selector", "fit", "mini", "--data", labelled, "-o", tmp_path / "mine"))


def test_100_questions_still_make_something_valid(run: Run, labelled: Path, tmp_path: Path) -> None:
    few = first(labelled, 100, tmp_path / "few.jsonl")
    result = run("edge-vqa-selector", "fit", "mini", "--data", few, "--risk", "0.05", "--risk", "0.2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "labelled questions would do" in result.stdout, "50 calibration questions cannot show 5 %"
    with load(tmp_path / "mini-fitted") as model:
        answer = model.ask(EXAMPLES / "shape.png", "what shape is it?")
        assert answer.abstained and answer.calibrated and answer.threshold is None, "no threshold: abstains always"
        assert not model.ask(EXAMPLES / "shape.png", "what shape is it?", threshold=0.3).abstained


def test_foreign_pictures_of_ones_own_are_told_apart(run: Run, labelled: Path, tmp_path: Path) -> None:
    """Photographs in the folder: others like them are refused, by a gate that is fitted to drawn shapes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("lemon.jpg", "apples.jpg", "skirt.jpg"):
        photo = Image.open(EXAMPLES / name).convert("RGB")
        for number in range(8):
            at = number * photo.width // 20
            photo.crop((at, at // 2, at + photo.width // 2, at // 2 + photo.height // 2)).save(folder / f"{number}{name}")
    few = first(labelled, 240, tmp_path / "few.jsonl")
    command = ("edge-vqa-selector", "fit", "mini", "--data", few, "--risk", "0.2", "-o", tmp_path / "mine")
    (folder / "broken.png").write_bytes(b"no picture")
    assert "broken.png is not a picture that can be read" in one_line(run(*command, "--foreign", folder))
    (folder / "broken.png").unlink()
    result = run(*command, "--foreign", folder)
    assert result.returncode == 0 and "familiarity: learned from 120 pictures and 424 foreign ones" in result.stdout, (
        result.stderr
    )
    with load(tmp_path / "mine") as model:
        answer = model.ask(EXAMPLES / "coffee.jpg", "what is this?")
        assert answer.reason == "unfamiliar" and answer.abstained
    assert "holds no pictures" in one_line(run(*command, "--force", "--foreign", tmp_path / "mine.fit" / "calibration"))


def test_too_few_pictures_are_told_how_many_would_do(labelled: Path, tmp_path: Path) -> None:
    asked = files.read(labelled)[:110]
    fitted = fit.fit(store.read("mini"), asked, tmp_path / "mine", fit.Options(risks=(0.3,)))
    assert "55 pictures are too few" in fitted.familiarity and "100 would do" in fitted.familiarity
    assert "familiarity" not in fitted.bundle.manifest.estimators
    assert all(point.familiarity is None for point in fitted.bundle.manifest.operating_points)


def test_a_selector_that_is_there_stays_unless_the_new_one_is_better(easy_questions: list[Asked], tmp_path: Path) -> None:
    """That of the embedded bundle has seen twenty thousand questions; 60 of one's own, on poor pictures, cannot beat it."""
    one_each = {picture: files.Question(n, picture, q, (a,)) for n, picture, q, a in easy_questions}
    poor = [copy for copy, _ in exposure.corrupted(list(one_each.values())[:120], 1.0, tmp_path / "poor", 0)]
    fitted = fit.fit(store.read("mini"), poor, tmp_path / "mine", fit.Options(risks=(0.1,)))
    assert fitted.method == "selector" and fitted.why.startswith("the bundle's own Selector"), fitted.why
    kept, original = fitted.bundle.manifest, store.read("mini").manifest
    assert kept.files["selector"].sha256 == original.files["selector"].sha256
    assert kept.files["selector_early"].sha256 == original.files["selector_early"].sha256
    assert {point.n for point in kept.operating_points} == {60}, "its thresholds are new"


def test_falls_back_to_calibrated_maxprob_and_says_so(bare: Path, tmp_path: Path, labelled: Path) -> None:
    """Labels at random: nothing that the Selector could learn."""
    rng, made = Random(1), []
    with load("mini") as model:
        for asked in files.read(labelled)[:190]:
            said = model.ask(asked.image, asked.question, gate=False).candidate
            made.append(dataclasses.replace(asked, answers=(said if rng.random() < 0.5 else "unanswerable",)))
    fitted = fit.fit(store.read(bare), made, tmp_path / "mine", fit.Options(risks=(0.9,)))
    assert fitted.method == "temperature" and "not significantly better" in fitted.why
    with load(tmp_path / "mine") as model:
        assert model.ask(EXAMPLES / "shape.png", "what shape is it?").confidence_method == "temperature"


@pytest.mark.parametrize("right", [True, False])
def test_answers_all_right_or_all_wrong_leave_plain_maxprob(
    tmp_path: Path, bare: Path, easy_questions: list[Asked], right: bool
) -> None:
    made = [files.Question(n, p, q, (a if right else "unanswerable",)) for n, p, q, a in easy_questions[:150]]
    with load("mini") as model:
        made = [q for q in made if (model.ask(q.image, q.question, gate=False).candidate == q.answers[0]) == right]
    fitted = fit.fit(store.read(bare), made, tmp_path / "mine", fit.Options(risks=(0.1,)))
    assert fitted.method == "maxprob" and ("right" if right else "wrong") in fitted.why
    (point,) = fitted.points
    assert (point.threshold is not None) == right
    assert right or fitted.would_do == {0.1: None}, "more wrong answers would not do"
    kept = fit.fit(store.read("mini"), made, tmp_path / "kept", fit.Options(risks=(0.1,)))
    assert kept.method == "selector" and kept.why.startswith(fit.KEPT), "a Selector that is there stays"


def test_split_keeps_pictures_apart_and_takes_one_calibration_question_of_each() -> None:
    made = [files.Question(f"{p}-{n}", Path(f"{p}.png"), "?", ("a",)) for p in range(60) for n in range(3)]
    training, calibration = fit.split(made, 0.5, 0)
    assert not {q.image for q in training} & {q.image for q in calibration}
    assert len(training) == 90 and len({q.image for q in calibration}) == len(calibration) == 30
    assert (training, calibration) == fit.split(made, 0.5, 0) != fit.split(made, 0.5, 1)


def test_exposure_adds_corrupted_pictures_and_swapped_ones(tmp_path: Path, labelled: Path) -> None:
    asked = files.read(labelled)[:40]
    worse = exposure.corrupted(asked, 0.5, tmp_path / "worse", 0)
    assert len(worse) == 20 and all(copy.image.is_file() and copy.answers == original.answers for copy, original in worse)
    again = exposure.corrupted(asked, 0.5, tmp_path / "again", 0)
    for (one, _), (other, _) in zip(worse, again, strict=True):
        assert one.image.read_bytes() == other.image.read_bytes(), "the same seed, the same pictures"
    swapped = exposure.swapped(asked, 0.25, 0)
    originals = {q.question: q.image for q in asked}
    assert len(swapped) == 10 and all(q.answers == ("unanswerable",) for q in swapped)
    assert all(q.image != originals[q.question] or q.question.startswith(("what", "how", "wel")) for q in swapped)
    fitted = fit.fit(
        *(
            store.read("mini"),
            files.read(labelled)[:190],
            tmp_path / "mine",
            fit.Options(risks=(0.2,), corrupt=0.5, swap=0.2),
        ),
        extra=[files.Question("x", asked[0].image, "und was ist das?", ("unanswerable",))],
    )
    assert fitted.training == 95 and 66 <= fitted.exposed <= 67, fitted


@pytest.mark.parametrize("kind", exposure.KINDS)
def test_every_corruption_changes_the_picture(kind: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.uint8)
    worse = exposure.corrupt(rgb, kind, 3, 1)
    assert worse.shape == rgb.shape and worse.dtype == np.uint8 and (worse != rgb).mean() > 0.05
    assert np.array_equal(worse, exposure.corrupt(rgb, kind, 3, 1)), "deterministic"


def test_bad_input_costs_one_line_and_leaves_nothing(run: Run, labelled: Path, tmp_path: Path) -> None:
    few = first(labelled, 60, tmp_path / "few.jsonl")
    line = one_line(run("edge-vqa-selector", "fit", "mini", "--data", few, cwd=tmp_path))
    assert "60 questions are too few" in line and "label 100 or more" in line
    broken = tmp_path / "broken.jsonl"
    broken.write_text(labelled.read_text() + '{"question_id": 1}\n')
    assert "line 501" in one_line(run("edge-vqa-selector", "fit", "mini", "--data", broken, cwd=tmp_path))
    gone = json.loads(labelled.read_text().splitlines()[0]) | {"question_id": "gone", "image": "gone.png"}
    broken.write_text(labelled.read_text() + json.dumps(gone) + "\n")
    assert "1 of 501 pictures are missing" in one_line(run("edge-vqa-selector", "fit", "mini", "--data", broken, cwd=tmp_path))
    for wrong in (["--risk", "2"], ["--corrupt", "3"], ["--calibration", "1"]):
        assert run("edge-vqa-selector", "fit", "mini", "--data", labelled, *wrong, cwd=tmp_path).returncode == 2
    assert not (tmp_path / "mini-fitted").exists()

"""Familiarity on the device: what the gate makes of pictures that the bundle was not made for."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge_vqa
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import OperatingPoint
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.pictures.statistics import NAMES, pixel_statistics
from edge_vqa.trust import familiarity
from edge_vqa.trust.gate import CONFIDENCE, UNFAMILIAR, Gate, choose
from edge_vqa.vision.tokens import ImageTokens, with_pixels
from edge_vqa.work.told import as_object

EXAMPLES = Path("examples")


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (200, 260, 3), dtype=np.uint8))


def strangers() -> dict[str, Image.Image]:
    photo = Image.open(EXAMPLES / "price.png").convert("RGB")
    nothing = photo.convert("RGBA")
    nothing.putalpha(0)
    return {
        "noise": noise(),
        "plain": Image.new("RGB", (200, 150), (200, 30, 60)),
        "stripes": Image.fromarray(np.tile(np.array([[[255, 0, 0]] * 8 + [[0, 0, 255]] * 8], np.uint8), (160, 12, 1))),
        "one bit": photo.convert("1"),
        "transparent": nothing,
        "tiny": photo.resize((7, 7)),
        "strip": photo.crop((0, 60, photo.width, 68)),
    }


@pytest.mark.parametrize("name", strangers())
@pytest.mark.parametrize("question", ["what is this?", "is there a banana?"])
def test_a_picture_of_nothing_known_is_not_answered_about(model: edge_vqa.Model, name: str, question: str) -> None:
    answer = model.ask(strangers()[name], question)
    assert answer.abstained and answer.text is None
    assert answer.reason == UNFAMILIAR and answer.familiarity is not None and answer.familiarity < 0.02
    assert answer.in_words() == "not answered: this picture is unlike those that the confidence was calibrated on"
    said = as_object(answer, show_candidate=False)
    assert said["reason"] == "unfamiliar" and said["familiarity"] == answer.familiarity and said["answer"] is None


def test_a_familiar_picture_is_answered_about_or_told_unsure(model: edge_vqa.Model) -> None:
    answer = model.ask(EXAMPLES / "price.png", "how much is it?")
    assert answer.text == "$4.50" and answer.reason is None
    assert answer.familiarity is not None and answer.familiarity > 0.02
    unsure = model.ask(EXAMPLES / "price.png", "how much is it?", threshold=1.0)
    assert unsure.reason == CONFIDENCE and unsure.in_words().startswith("not answered: confidence ")


def test_together_and_from_the_cache_it_is_the_same(mini: Bundle, tmp_path: Path) -> None:
    asked = [(EXAMPLES / "price.png", "how much is it?"), (EXAMPLES / "coffee.jpg", "what is this?")]
    with edge_vqa.load(mini.folder, cache_dir=tmp_path) as first:
        alone = [first.ask(*one).familiarity for one in asked]
        together = [answer.familiarity for answer in first.ask_many(asked) if isinstance(answer, edge_vqa.Answer)]
    with edge_vqa.load(mini.folder, cache_dir=tmp_path) as second:
        again = [second.ask(*one).familiarity for one in asked]
    assert alone == again and np.allclose(alone, together, atol=1e-4)


def test_no_number_is_not_familiar(mini: Bundle, model: edge_vqa.Model) -> None:
    from edge_vqa.trust import trace

    estimate = familiarity.of(mini)
    assert estimate is not None
    features = trace.features(model.ask(EXAMPLES / "price.png", "what is this?").trace)
    for name in mini.manifest.estimators["familiarity"].dimensions:
        for value in (np.nan, np.inf, -np.inf):
            broken = {**features, name: np.full_like(features[name], value)}
            got = float(estimate.score_features(broken)[0])
            assert 0 <= got <= 1
            if np.isnan(value):
                assert got == 0
    assert not Gate(0.5, familiarity=0.02).answers(1.0, float("nan"))


def test_a_gate_says_why() -> None:
    gate = Gate(0.7, familiarity=0.02)
    assert gate.reason(0.9, 0.5) is None and gate.answers(0.9, 0.5)
    assert gate.reason(0.6, 0.5) == CONFIDENCE
    assert gate.reason(0.9, 0.01) == gate.reason(0.1, 0.01) == UNFAMILIAR, "of a foreign picture, confidence says nothing"
    assert gate.reason(0.9, None) is None, "a bundle without familiarity works as ever"
    assert Gate(None, familiarity=0.02).reason(0.9, 0.5) == CONFIDENCE and Gate(None, always=True, familiarity=1.0).answers(
        0, 0
    )


def test_a_point_carries_its_limit_and_ones_own_threshold_none(mini: Bundle) -> None:
    point = OperatingPoint(0.05, 0.1, 0.8, "m", 100, "d", 0.5, default=True, familiarity=0.03)
    manifest = dataclasses.replace(mini.manifest, operating_points=(point,))
    assert choose(manifest, "selector").familiarity == choose(manifest, "selector", risk=0.1).familiarity == 0.03
    assert choose(manifest, "selector", threshold=0.4).familiarity is None
    assert choose(manifest, "selector", gate=False).familiarity is None
    with pytest.raises(ValueError, match="familiarity must lie"):
        manifests._check(dataclasses.replace(manifest, operating_points=(dataclasses.replace(point, familiarity=2.0),)))


def test_a_bundle_without_it_works_and_says_so(mini: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "older"
    shutil.copytree(mini.folder, folder)
    told = json.loads((folder / "bundle.json").read_text())
    told["familiarity"] = None
    del told["files"]["familiarity"]
    for part in told["operating_points"]:
        part |= {"familiarity": None, "foreign": None}
    (folder / "bundle.json").write_text(json.dumps(told))
    with edge_vqa.load(folder) as older:
        answer = older.ask(EXAMPLES / "price.png", "how much is it?")
        assert answer.text == "$4.50" and answer.calibrated and answer.familiarity is None
        assert answer.in_words().endswith("; familiarity uncalibrated")
        assert older.ask(noise(), "is there a banana?").reason in (None, CONFIDENCE)


def test_a_graph_for_another_tower_is_refused(mini: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(mini.folder, folder)
    told = json.loads((folder / "bundle.json").read_text())
    told["familiarity"]["vision_sha256"] = "0" * 64
    (folder / "bundle.json").write_text(json.dumps(told))
    with pytest.raises(EdgeVqaError, match="another LM or vision tower"):
        familiarity.of(store.read(folder))


def test_pixel_statistics_do_not_depend_on_megapixels() -> None:
    photo = Image.open(EXAMPLES / "lemon.jpg").convert("RGB")
    small = pixel_statistics(np.asarray(photo.resize((300, 225), Image.Resampling.BOX)))
    large = pixel_statistics(np.asarray(photo.resize((2400, 1800), Image.Resampling.BICUBIC)))
    assert small.shape == (len(NAMES),) and np.isfinite(small).all()
    assert np.abs(small - large).max() < 0.5 and np.abs(small - large).mean() < 0.06


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 2), (5000, 7)])
def test_pixel_statistics_of_any_size_are_numbers(size: tuple[int, int]) -> None:
    for value in (0, 7, 255):
        pixels = np.full((size[1], size[0], 3), value, np.uint8)
        assert np.isfinite(pixel_statistics(pixels)).all()
    assert np.isfinite(pixel_statistics(np.asarray(noise().resize(size)))).all()


def test_pixels_go_with_the_first_tokens_of_a_picture() -> None:
    first, second = (ImageTokens(np.zeros((2, 4), np.float32), None, 2, True) for _ in range(2))
    parts = with_pixels([[1], first, second], np.ones(3, np.float32))
    assert isinstance(parts[1], ImageTokens) and isinstance(parts[2], ImageTokens)
    assert parts[0] == [1] and parts[1].pixels is not None and parts[2].pixels is None and first.pixels is None

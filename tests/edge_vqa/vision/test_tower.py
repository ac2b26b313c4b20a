"""Both vision backends behind one interface, and the choice between them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from converters.convert import convert
from converters.options import Options
from edge_vqa import EdgeVqaError
from edge_vqa.bundles import manifest as manifests
from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.device import tuning
from edge_vqa.llm.threads import Threads
from edge_vqa.model import load
from tests.conftest import CHECKPOINT, EXAMPLES, Asked, edit_manifest


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded model's checkpoint with a tower for each backend, 8 bits both."""
    folder = tmp_path_factory.mktemp("both") / "mini"
    convert(CHECKPOINT, folder, Options(vision_backend="both", max_tokens=12))
    return store.read(folder)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_both_backends_give_nearly_the_same_answers(both: Bundle, easy_questions: list[Asked]) -> None:
    with load(both.folder, vision="mtmd") as one, load(both.folder, vision="onnx") as other:
        assert (one.backend, other.backend) == ("mtmd", "onnx")
        same = 0
        for _, path, question, _ in easy_questions[:200]:
            a, b = (model.ask(path, question, gate=False) for model in (one, other))
            same += a.candidate == b.candidate
        assert same >= 198, f"{same} of 200 answers equal"
        image = [model.ask(EXAMPLES / "cat.jpg", "is it an animal?", gate=False).trace.image for model in (one, other)]
        assert np.abs(image[0] - image[1]).max() < 0.1 * np.abs(image[0]).max()


def test_the_faster_backend_is_measured_once_and_remembered(both: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(both.folder) as model:
        chosen = model.backend
    assert tuning.read(both) == tuning.Choice(chosen, model.threads)

    def again(*_: object) -> str:
        raise AssertionError("measured a second time")

    monkeypatch.setattr(tuning, "faster", again)
    with load(both.folder) as model:
        assert model.backend == chosen
    other = {"mtmd": "onnx", "onnx": "mtmd"}[chosen]
    tuning.write(both, tuning.Choice(other, Threads(1, 1, 2)))
    with load(both.folder) as model:
        assert (model.backend, model.threads) == (other, Threads(1, 1, 2))


@pytest.mark.parametrize("stored", ["", "{", '{"vision": "magic"}', '{"vision": "onnx", "threads": {"vision": 0}}'])
def test_a_damaged_choice_is_as_good_as_none(both: Bundle, stored: str) -> None:
    path = tuning.path_of(both)
    path.parent.mkdir(parents=True)
    path.write_text(stored)
    assert tuning.read(both) is None


def test_a_backend_that_is_not_there_is_refused(mini: Bundle) -> None:
    with pytest.raises(EdgeVqaError, match="has no vision tower for onnx: use mtmd"):
        load(mini.folder, vision="onnx")
    with pytest.raises(EdgeVqaError, match="unknown: use mtmd or onnx"):
        load(mini.folder, vision="magic")


def test_scores_of_the_other_tower_warn(both: Bundle, mini: Bundle, tmp_path: Path) -> None:
    points = json.loads(manifests.render(mini.manifest))["operating_points"]
    points = [point | {"confidence": "maxprob"} for point in points if point["confidence"] == "selector"]
    edit_manifest(both.folder, lambda manifest: manifest.update(operating_points=points))
    try:
        for backend, warned in (("mtmd", False), ("onnx", True)):
            with load(both.folder, vision=backend) as model:
                assert any("vision backend" in warning for warning in model.warnings) == warned
    finally:
        edit_manifest(both.folder, lambda manifest: manifest.update(operating_points=[]))


def test_a_graph_that_is_none_or_of_another_model_is_refused(both: Bundle, mini: Bundle, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "broken"
    for content in (b"nothing", mini.files["selector"].read_bytes()):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(both.folder, folder)
        (folder / "vision.onnx").write_bytes(content)
        described = dataclasses.asdict(store.describe(folder / "vision.onnx"))
        edit_manifest(folder, lambda manifest, new=described: manifest["files"].update(vision_onnx=new))
        with pytest.raises(EdgeVqaError, match=r"vision\.onnx is not"):
            load(folder, vision="onnx")

"""Learning familiarity: shares that mean what they say, a graph that agrees, and what cannot be learned from."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from edge_vqa.bundles import onnx_file
from edge_vqa.errors import EdgeVqaError
from edge_vqa.metrics import auroc
from edge_vqa.native import onnx_runtime
from edge_vqa.trust import trace
from selector_onnx import familiarity, strange
from selector_onnx.collect import Origin, Traces, take
from selector_onnx.export import MAX_BYTES, familiarity_graph

WIDTH = 24


def traces(n: int, seed: int, away: float = 0.0, spread: float = 1.0) -> Traces:
    """Pictures with a few wide directions; `away`: moved along a narrow one."""
    rng = np.random.default_rng(seed)
    scale = np.geomspace(3, 0.1, WIDTH)
    image = rng.normal(size=(n, WIDTH)) * scale * spread
    image[:, -1] += away
    features = {
        "image": image.astype(np.float32),
        "image_spread": rng.gamma(2, 1, (n, WIDTH)).astype(np.float32),
        "pixels": np.concatenate([rng.normal(size=(n, 5)), np.ones((n, 1))], 1).astype(np.float32),
    }
    ones = np.ones(n, np.float32)
    names = np.array([f"{seed} {i}" for i in range(n)])
    return Traces(Origin("m", "0" * 64, "1" * 64, trace.SCHEMA, "0", "d"), features, ones, ones, names, names, names)


@pytest.fixture(scope="module")
def learned() -> familiarity.Learned:
    return familiarity.learn(traces(1200, 0), [traces(300, 1, away=1.0), traces(300, 2, spread=0.2)])


def test_a_share_is_the_share_of_familiar_pictures_below_it(learned: familiarity.Learned) -> None:
    fresh = learned.score_features(traces(20_000, 7).features)
    assert fresh.min() >= 0 and fresh.max() <= 1
    for share in (0.02, 0.05, 0.2, 0.5):
        assert abs((fresh < share).mean() - share) < 0.25 * share + 0.01, share


@pytest.mark.parametrize("strange_ones", [traces(2000, 8, away=1.0), traces(2000, 9, spread=0.2), traces(2000, 10, away=-2.5)])
def test_what_is_foreign_is_told_also_where_nothing_like_it_was_shown(
    learned: familiarity.Learned, strange_ones: Traces
) -> None:
    known, other = (learned.score_features(t.features) for t in (traces(2000, 11), strange_ones))
    assert auroc(np.concatenate([known, other]), np.repeat([1.0, 0.0], 2000)) > 0.95


@pytest.mark.parametrize("int8", [False, True])
def test_the_graph_agrees(learned: familiarity.Learned, int8: bool, tmp_path: Path) -> None:
    data, path = familiarity_graph(learned, int8=int8), tmp_path / "familiarity.onnx"
    path.write_bytes(data)
    onnx_file.check_estimator(path)
    session = onnx_runtime.open_session(data, "familiarity", "again")
    asked = traces(500, 12).features
    inputs = {name: asked[name] for name in learned.scales}
    given = session.run(None, inputs)[0][:, 0]
    assert np.abs(given - learned.score_features(asked)).max() < (0.02 if int8 else 2e-3)
    one_by_one = [session.run(None, {n: v[i : i + 1] for n, v in inputs.items()})[0].item() for i in range(20)]
    assert np.allclose(one_by_one, given[:20], atol=1e-5) and len(data) < MAX_BYTES


def test_a_feature_that_never_changed_does_not_make_all_pictures_strange(learned: familiarity.Learned) -> None:
    asked = traces(500, 13).features
    asked["pixels"][:, -1] += 0.05  # a hair off what was always 1
    assert (learned.score_features(asked) < 0.02).mean() < 0.1


def test_too_few_pictures_are_told_how_many_would_do() -> None:
    with pytest.raises(EdgeVqaError, match=r"60 pictures are too few .*100 would do"):
        familiarity.learn(traces(60, 0), [traces(50, 1)])


def test_pictures_with_no_numbers_do_not_count() -> None:
    known = traces(150, 0)
    known.features["image"][:70] = np.nan
    with pytest.raises(EdgeVqaError, match="80 pictures are too few"):
        familiarity.learn(known, [traces(50, 1)])


def test_one_trace_a_picture_counts() -> None:
    known = traces(120, 0)
    doubled = take(known, np.repeat(np.arange(120), 3))
    assert len(familiarity.one_a_picture(doubled)) == 120


@pytest.mark.parametrize("draw", strange.WORLDS)
def test_a_world_is_drawn_again_from_its_seed(draw: strange.Draw) -> None:
    first, again, other = (draw(Random(seed)) for seed in (1, 1, 2))
    assert first.mode == "RGB" and first.tobytes() == again.tobytes() and first.tobytes() != other.tobytes()


@pytest.mark.parametrize("spoil", strange.COPIES)
def test_a_copy_is_another_picture_of_about_the_size(spoil: strange.Spoil) -> None:
    image = Image.open("examples/lemon.jpg").convert("RGB").resize((120, 90))
    copy = spoil(image, Random(0)).convert("RGB")
    assert abs(copy.width - 120) < 8 and abs(copy.height - 90) < 8
    assert np.abs(np.asarray(copy.resize((120, 90))).astype(int) - np.asarray(image)).mean() > 8


def test_strange_pictures_are_written_with_a_question_each(tmp_path: Path) -> None:
    own = [Path("examples/lemon.jpg"), Path("examples/coffee.jpg")]
    asked = strange.drawn(22, tmp_path / "drawn", 0) + strange.spoiled(12, own, tmp_path / "spoiled", 0)
    assert len({question.question_id for question in asked}) == 34
    for question in asked:
        assert question.answers == ("unanswerable",)
        with Image.open(question.image) as image:
            assert image.mode == "RGB" and min(image.size) >= 64

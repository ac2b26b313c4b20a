"""Encoded pictures are kept, and never stale."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from edge_vqa.model import load
from edge_vqa.pictures.open import Picture, open_picture
from edge_vqa.vision.cache import PictureCache, key_of
from edge_vqa.vision.tokens import ImageTokens, Part
from tests.conftest import EXAMPLES, Asked, Run


def test_fifty_pictures_in_random_order_with_a_cache_of_three(easy_questions: list[Asked], tmp_path: Path) -> None:
    """Every answer is that of a process which has seen nothing else."""
    pictures = sorted({path for _, path, _, _ in easy_questions})[:50]
    order = [Random(1).choice(pictures) for _ in range(150)] + pictures
    question = "what color is the shape?"
    fresh = {}
    for path in pictures:
        with load(pictures=1) as model:  # nothing is left of the picture before
            answer = model.ask(path, question, gate=False)
            fresh[path] = answer.candidate, answer.confidence
    assert len(set(fresh.values())) > 25, "pictures that look alike: this test sees nothing"
    with load(pictures=3) as model, load(pictures=3, cache_dir=tmp_path) as on_disk:
        for path in order:
            for asked in (model, on_disk):
                answer = asked.ask(path, question, gate=False)
                assert (answer.candidate, answer.confidence) == fresh[path]
        assert len(model._cache._memory) == 3
    assert len(list(tmp_path.glob("*.npz"))) == 50


def test_the_folder_serves_the_next_process(run: Run, tmp_path: Path) -> None:
    command = ("edge-vqa", "ask", str(EXAMPLES / "price.png"), "how much is it?", "--json", "--cache-dir", str(tmp_path))
    first, second = (json.loads(run(*command).stdout) for _ in range(2))
    assert first["answer"] == second["answer"] and first["confidence"] == second["confidence"]
    (entry,) = tmp_path.glob("*.npz")
    for damaged in (b"", b"PK\x03\x04 nothing", entry.read_bytes()[:-200]):
        entry.write_bytes(damaged)
        assert json.loads(run(*command).stdout)["confidence"] == first["confidence"]
    with load(cache_dir=tmp_path) as model:
        calls: list[int] = []
        real = model._engine._tower.encode  # type: ignore[union-attr]
        model._engine._tower.encode = lambda tile: calls.append(1) or real(tile)  # type: ignore[union-attr,method-assign,func-returns-value]
        model.ask(EXAMPLES / "price.png", "how much is it?")
        assert not calls, "encoded again"
        model.ask(EXAMPLES / "coffee.jpg", "how much is it?")
        assert calls


def parts(seed: int, positions: bool) -> list[Part]:
    rng = np.random.default_rng(seed)
    places = rng.integers(0, 9, (4, 5)).astype(np.int32) if positions else None
    return [[1, 2, 3], ImageTokens(rng.normal(size=(5, 8)).astype(np.float32), places, 4, not positions), [7]]


@pytest.mark.parametrize("positions", [False, True])
def test_what_is_read_is_what_was_written(tmp_path: Path, positions: bool) -> None:
    key = key_of(open_picture(EXAMPLES / "cat.jpg"), "low")
    PictureCache("a", 8, 1, tmp_path).put(key, parts(0, positions))
    read = PictureCache("a", 8, 1, tmp_path).get(key)
    assert read is not None and read[0] == [1, 2, 3] and read[2] == [7]
    one, other = parts(0, positions)[1], read[1]
    assert isinstance(one, ImageTokens) and isinstance(other, ImageTokens)
    assert np.array_equal(one.embeddings, other.embeddings) and (one.n_positions, one.causal) == (
        other.n_positions,
        other.causal,
    )
    assert (one.positions is None) == (other.positions is None)
    assert one.positions is None or np.array_equal(one.positions, other.positions)
    for identity, width in (("b", 8), ("a", 9)):
        assert PictureCache(identity, width, 1, tmp_path).get(key) is None, "of another bundle"


def test_the_key_is_the_pixels_and_the_detail() -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    other = rgb.copy()
    other[3, 5, 2] = 1
    keys = {key_of(Picture(pixels), detail) for pixels in (rgb, other, rgb.reshape(6, 4, 3)) for detail in ("low", "high")}
    assert len(keys) == 6


def test_the_folder_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_vqa.vision import cache

    kept = PictureCache("a", 8, 1, tmp_path)
    kept.put(b"0", parts(0, False))
    monkeypatch.setattr(cache, "FOLDER_BYTES", 3 * next(tmp_path.glob("*.npz")).stat().st_size)
    for number in range(1, 10):
        kept.put(str(number).encode(), parts(number, False))
    assert len(list(tmp_path.glob("*.npz"))) == 3
    assert kept.get(b"9") is not None and kept.get(b"1") is None

"""A damaged gguf is refused before llama.cpp can abort on it, even when the manifest agrees with it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from edge_vqa import EdgeVqaError
from edge_vqa.bundles.gguf_file import check
from edge_vqa.bundles.store import Bundle
from tests.conftest import EXAMPLES, Run, edit_manifest, resign


def test_sound_files_pass(mini: Bundle, f32_bundle: Bundle) -> None:
    for bundle in (mini, f32_bundle):
        for role in ("lm", "vision"):
            check(bundle.files[role])


def test_a_file_cut_anywhere_is_refused(mini: Bundle, tmp_path: Path) -> None:
    data = mini.files["lm"].read_bytes()
    path = tmp_path / "cut.gguf"
    for length in (0, 3, 4, 8, 23, 24, 100, 5_000, 20_000, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(EdgeVqaError, match=r"cut\.gguf is not a sound gguf file"):
            check(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"blk.0.attn_q.weight", b"blk.0.attn_k.weight"),  # the same tensor twice
        (b"llama.block_count\x04\x00\x00\x00", b"llama.block_count\x63\x00\x00\x00"),  # a value of no known type
        (b"\xc4\xa0color", b"\x00\xa0color"),  # a token that llama.cpp asserts on
    ],
)
def test_an_unsound_header_is_refused(old: bytes, new: bytes, mini: Bundle, tmp_path: Path) -> None:
    data = mini.files["lm"].read_bytes()
    assert old in data
    path = tmp_path / "bad.gguf"
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(EdgeVqaError, match=r"bad\.gguf is not a sound gguf file"):
        check(path)


def test_random_damage_to_headers_never_crashes_the_process(run: Run, copied: Path) -> None:
    def without_selector(manifest: dict[str, dict[str, object]]) -> None:
        manifest["files"].pop("selector")
        manifest |= {"selector": None, "operating_points": []}  # type: ignore[dict-item]

    edit_manifest(copied, without_selector)
    rng = Random(17)
    for name, header in (("lm.gguf", 40_000), ("mmproj.gguf", 9_000)):
        intact = (copied / name).read_bytes()
        for _ in range(12):
            data = bytearray(intact)
            for _ in range(rng.choice((1, 2, 5))):
                data[rng.randrange(rng.choice((1500, header)))] = rng.choice((0, 255, rng.randrange(256)))
            (copied / name).write_bytes(data)
            resign(copied)
            result = run("edge-vqa", "ask", EXAMPLES / "price.png", "how much is it?", "--model", copied)
            assert result.returncode in (0, 1, 3), f"{name}: exit status {result.returncode}, {result.stderr[-300:]}"
            assert len(result.stderr.splitlines()) == 1 and "internal error" not in result.stderr, result.stderr
        (copied / name).write_bytes(intact)

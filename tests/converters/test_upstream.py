"""Our ggufs beside those of llama.cpp's own converter, as `tests/converters/upstream.py` wrote them down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters.convert import convert
from converters.options import Options
from tests.converters.random_checkpoints import make
from tests.converters.upstream import KINDS, STORED, summary

# Metadata that differs, and why. Tensors differ nowhere: names and shapes are the same.
DIFFERENCES = {
    "general.name": "ours is the bundle's",
    "general.quantization_version": "upstream writes it in float files too; llama-quantize and we in quantised ones",
    "general.size_label": "for the hub's pages; nothing reads it",
    "tokenizer.ggml.add_bos_token": "upstream writes it only when the tokenizer's config names it; false is the default",
    "tokenizer.ggml.add_eos_token": "the same",
    "tokenizer.ggml.eot_token_id": "ours ends Idefics3's turn, which upstream leaves to a list of known names",
    "clip.vision.feed_forward_length": "upstream writes the LM's width for Qwen2-VL; nothing reads it there",
    # upstream leaves these to llama.cpp's defaults, which are the same values
    "qwen2vl.attention.key_length": "width / heads",
    "qwen2vl.attention.value_length": "width / heads",
    "qwen2vl.rope.dimension_count": "width / heads",
    "qwen2vl.vocab_size": "the number of tokens",
    "qwen2.attention.key_length": "width / heads",
    "qwen2.attention.value_length": "width / heads",
    "qwen2.rope.dimension_count": "width / heads",
    "qwen2.vocab_size": "the number of tokens",
    "lfm2.attention.key_length": "width / heads",
    "lfm2.attention.value_length": "width / heads",
    "lfm2.rope.dimension_count": "width / heads",
    "gemma3.rope.dimension_count": "width / heads",
    "gemma3.vocab_size": "the number of tokens",
    "clip.vision.projector.scale_factor": "upstream leaves Gemma 3's to llama.cpp's default, which is the same value",
    "qwen3vl.rope.dimension_count": "width / heads",
    "qwen3vl.vocab_size": "the number of tokens",
    "clip.vision.attention.layer_norm_epsilon": "upstream writes the LM's for Qwen3-VL; transformers' is 1e-6",
}


def without_ones(shape: list[int]) -> list[int]:
    """Upstream keeps the batch dimension of InternVL's class token and positions, which means the same."""
    return shape[next((i for i, n in enumerate(shape) if n > 1), 0) :]


@pytest.mark.parametrize("kind", KINDS)
def test_names_shapes_and_metadata_are_llama_cpps_own(kind: str, tmp_path: Path) -> None:
    stored = json.loads((STORED / f"{kind}.json").read_text())
    make(tmp_path / "checkpoint", kind, published=kind == "smolvlm")
    convert(tmp_path / "checkpoint", tmp_path / "bundle", Options(quant="f32", vision_type="f32"))
    for half, file in (("lm", "lm.gguf"), ("vision", "mmproj.gguf")):
        ours, theirs = summary(tmp_path / "bundle" / file), stored[half]
        assert ours["tensors"] == {name: without_ones(shape) for name, shape in theirs["tensors"].items()}
        mine, upstream = ours["metadata"], theirs["metadata"]
        for key in sorted(set(mine) | set(upstream)):
            if key not in DIFFERENCES:
                exact = isinstance(upstream.get(key), (str, bool, type(None)))
                wanted = upstream.get(key) if exact else pytest.approx(upstream[key], rel=1e-6)
                assert mine.get(key) == wanted, f"{half}: {key}"
        if kind in ("qwen2_vl", "qwen2_5_vl") and half == "lm":
            assert mine["qwen2vl.attention.key_length"] * mine["qwen2vl.attention.head_count"] == 64


def test_every_listed_difference_occurs(tmp_path: Path) -> None:
    seen = set()
    for kind in KINDS:
        stored = json.loads((STORED / f"{kind}.json").read_text())
        make(tmp_path / kind / "checkpoint", kind, published=kind == "smolvlm")
        convert(tmp_path / kind / "checkpoint", tmp_path / kind / "bundle", Options(quant="f32", vision_type="f32"))
        for half, file in (("lm", "lm.gguf"), ("vision", "mmproj.gguf")):
            mine, upstream = summary(tmp_path / kind / "bundle" / file)["metadata"], stored[half]["metadata"]
            seen |= {key for key in set(mine) | set(upstream) if mine.get(key) != upstream.get(key)}
    assert set(DIFFERENCES) <= seen, f"no longer different: {set(DIFFERENCES) - seen}"

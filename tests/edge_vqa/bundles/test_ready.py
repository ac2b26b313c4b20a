"""What is read from gguf files that somebody else converted."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest

from converters.convert import convert
from converters.options import Options
from edge_vqa import EdgeVqaError
from edge_vqa.bundles import claims, gguf_file, ready
from edge_vqa.bundles.gguf_file import Header
from edge_vqa.bundles.store import Bundle
from tests.converters.pairs import STORED
from tests.converters.random_checkpoints import make


def headers(mini: Bundle) -> tuple[Header, Header]:
    return gguf_file.read(mini.files["lm"]), gguf_file.read(mini.files["vision"])


def changed(header: Header, **values: Any) -> Header:
    """Metadata with other values; None removes a key. `__` stands for a dot."""
    data = {key: value for key, value in header.metadata.items() if values.get(key.replace(".", "__"), 0) is not None}
    return replace(header, metadata=data | {k.replace("__", "."): v for k, v in values.items() if v is not None})


def test_a_header_holds_metadata_and_tensors(mini: Bundle) -> None:
    lm, vision = headers(mini)
    assert lm.metadata["llama.block_count"] == 4 and vision.metadata["clip.vision.image_mean"] == [0.5, 0.5, 0.5]
    assert lm.metadata["tokenizer.ggml.tokens"][1] == "<|im_start|>"
    shape, kind, size = lm.tensors["blk.3.ffn_down.weight"]
    assert (shape, ready.TYPES[kind], size) == ((256, 768), "q6_k", 256 * 768 // 256 * 210)
    assert ready.type_of(lm) == "q4_k" and ready.type_of(vision) == "q8_0"
    assert ready.bits_per_weight(lm) == pytest.approx(mini.manifest.quantisation.bits_per_weight, abs=1e-3)
    assert ready.is_vision(vision) and not ready.is_vision(lm)


def test_the_embedded_pair_is_described_as_its_manifest_says(mini: Bundle) -> None:
    architecture, pixels, prompt = ready.describe(*headers(mini), max_tokens=12, several=False)
    assert (architecture, pixels, prompt) == ("idefics3", mini.manifest.runtime.preprocessing, mini.manifest.prompt)


@pytest.mark.parametrize(
    ("half", "values", "words"),
    [
        ("lm", {"tokenizer__chat_template": None}, "holds no chat template"),
        ("lm", {"tokenizer__chat_template": "{{ nonsense"}, "does not render"),
        ("lm", {"tokenizer__chat_template": "hello"}, "does not put one picture"),
        ("lm", {"tokenizer__ggml__tokens": None}, "holds no tokenizer"),
        ("lm", {"split__count": 3}, "in several parts"),
        ("vision", {"clip__vision__patch_size": None}, "lacks what its projector"),
        ("vision", {"clip__vision__patch_size": 0}, "lacks what its projector"),
        ("vision", {"clip__vision__image_size": "wide"}, "lacks what its projector"),
        ("vision", {"clip__has_vision_encoder": False}, "holds no vision encoder"),
        ("vision", {"general__architecture": "llama"}, "not a language model and a vision tower"),
        ("vision", {"clip__projector_type": "eye_of_tomorrow"}, "knows no projector 'eye_of_tomorrow'"),
        ("vision", {"clip__projector_type": "gemma3"}, "goes with gemma3, not with llama"),
        ("vision", {"clip__vision__projection_dim": 640}, "makes embeddings of 640 numbers, the language model takes 256"),
        ("lm", {"tokenizer__ggml__tokens": ["a", "<|im_start|>"]}, "knows no <fake_token_around_image>"),
    ],
)
def test_files_without_what_they_need_are_refused_by_name(half: str, values: dict[str, Any], words: str, mini: Bundle) -> None:
    lm, vision = headers(mini)
    lm, vision = (changed(lm, **values), vision) if half == "lm" else (lm, changed(vision, **values))
    with pytest.raises(EdgeVqaError, match=words):
        ready.describe(lm, vision)


def test_other_projectors_are_left_to_llama_cpp(mini: Bundle) -> None:
    lm, vision = headers(mini)
    architecture, pixels, prompt = ready.describe(
        lm,
        changed(vision, clip__projector_type="kimivl"),
        template=("{% for m in messages %}{{ m['content'] }}{% endfor %}<end_of_utterance>"),
    )
    assert (architecture, pixels.method) == ("llama", "native")
    assert (prompt.before, prompt.between, prompt.question, prompt.after) == ("", "", "{question}", "<end_of_utterance>")


def test_features_for_every_layer_are_refused_before_llama_cpp_dies_of_them(tmp_path: Path) -> None:
    convert(make(tmp_path / "checkpoint", "qwen3_vl"), tmp_path / "bundle", Options(quant="q8_0"))
    lm = tmp_path / "bundle" / "lm.gguf"
    claims.check(lm, None)
    field = gguf.GGUFReader(lm, "r+").fields["qwen3vl.n_deepstack_layers"]
    field.parts[field.data[0]][0] = 3
    del field
    with pytest.raises(EdgeVqaError, match="n_deepstack_layers"):
        claims.check(lm, None)


def test_a_pair_that_is_refused_leaves_nothing_behind(mini: Bundle, tmp_path: Path) -> None:
    pair = tmp_path / "pair"
    pair.mkdir()
    for role in ("lm", "vision"):
        shutil.copy(mini.files[role], pair)
    field = gguf.GGUFReader(pair / mini.files["vision"].name, "r+").fields["clip.vision.projection_dim"]
    field.parts[field.data[0]][0] = 640
    del field
    for quant in ("keep", "q8_0"):
        with pytest.raises(EdgeVqaError, match="makes embeddings of 640 numbers"):
            convert(pair, tmp_path / "bundle", Options(quant=quant))
        assert [path.name for path in tmp_path.iterdir()] == ["pair"]


def test_a_kept_pixtral_without_the_end_of_a_row_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(STORED / "mistral3.zip") as stream:
        for name in ("lm.gguf", "mmproj.gguf"):
            stream.extract(name, tmp_path / "pair")
    with pytest.raises(EdgeVqaError, match=r"mmproj.gguf lacks v.token_embd.img_break"):
        convert(tmp_path / "pair", tmp_path / "bundle", Options(quant="keep"))
    assert not (tmp_path / "bundle").exists()

"""BLIP-2 and InstructBLIP: what is theirs alone. That they answer as `transformers` does, the bench of architectures tests."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from converters.convert import convert
from converters.files import words
from converters.files.checkpoint import Checkpoint
from converters.options import Options
from edge_vqa import EdgeVqaError, load
from edge_vqa.bundles import charsmap, gguf_file, store
from edge_vqa.llm.prompt import picture_pieces
from edge_vqa.pictures.open import open_picture
from edge_vqa.vision.cache import _packed, _unpacked
from edge_vqa.vision.tokens import ImageTokens
from edge_vqa.vision.words import WordPiece
from tests.conftest import EXAMPLES
from tests.converters.bench import opened
from tests.converters.random_checkpoints import make
from tests.converters.test_tokenizer import strings

EXACT = Options(quant="f32", onnx_type="f32")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("instructblip"), "instructblip")


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> store.Bundle:
    folder = tmp_path_factory.mktemp("bundles") / "f32"
    convert(checkpoint, folder, EXACT)
    return store.read(folder)


def edited(checkpoint: Path, folder: Path, **text: Any) -> Path:
    """The checkpoint with other values in text_config."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_second_question_runs_the_q_former_only_and_sees_the_same(bundle: store.Bundle) -> None:
    """The tower is shown no pixels then; its result is to the bit that of both at once."""
    manifest, picture = bundle.manifest, open_picture(EXAMPLES / "cat.jpg")
    with opened(bundle) as engine:
        tower = engine._tower
        pieces = picture_pieces(picture, "low", manifest.prompt, manifest.runtime.preprocessing)
        (image,) = (part for part in engine.embed(pieces) if isinstance(part, ImageTokens))
        assert image.features is not None
        first, second = (tower.read(image, text) for text in ("what is this?", "is it red?"))  # type: ignore[union-attr]
        assert np.abs(first.embeddings - second.embeddings).max() > 0.05 * np.ptp(first.embeddings)
        whole = tower._run(pixels=pieces[1].rgb[None], question=np.array([tower._words.ids("is it red?")], np.int64))[0]  # type: ignore[union-attr]
    assert np.array_equal(second.embeddings, whole)


def test_a_kept_picture_keeps_its_features(bundle: store.Bundle) -> None:
    manifest = bundle.manifest
    with opened(bundle) as engine:
        pieces = picture_pieces(open_picture(EXAMPLES / "cat.jpg"), "low", manifest.prompt, manifest.runtime.preprocessing)
        parts = list(engine.embed(pieces))
        again = _unpacked(_packed(parts), engine.lm.n_embd_in)
    for before, after in zip(parts, again, strict=True):
        if isinstance(before, ImageTokens) and isinstance(after, ImageTokens):
            assert np.array_equal(before.features, after.features)  # type: ignore[arg-type]
    damaged = [ImageTokens(np.ones((2, 64), np.float32), None, 2, True, features=np.ones(3, np.float32))]
    with pytest.raises(ValueError, match="shape"):
        _unpacked(_packed(list(damaged)), 64)


@pytest.mark.parametrize("kind", ["blip_2", "instructblip_vicuna"])
def test_many_questions_are_answered_as_one_by_one(kind: str, tmp_path: Path) -> None:
    """In 8 bits; several pictures, several questions on one, more of them than fit together."""
    convert(make(tmp_path / "checkpoint", kind), tmp_path / "bundle", Options(quant="q8_0"))
    pictures = [EXAMPLES / name for name in ("cat.jpg", "coffee.jpg", "apples.jpg")]
    asked = [(picture, question) for picture in pictures for question in ("what is this?", "is it red?", "why " * 40)]
    with load(tmp_path / "bundle", sequences=4) as model:
        alone = [model.ask(picture, question, gate=False, max_tokens=5) for picture, question in asked]
        together = list(model.ask_many(asked, gate=False, max_tokens=5))
    assert len({answer.text for answer in alone}) > 2, "the answers tell nothing apart"
    for one, other in zip(alone, together, strict=True):
        assert not isinstance(other, EdgeVqaError)
        assert other.text == one.text and other.trace.prompt_tokens == one.trace.prompt_tokens
        assert abs(other.confidence - one.confidence) < 1e-3


def test_a_question_longer_than_the_encoder_is_refused(bundle: store.Bundle) -> None:
    with load(bundle.folder) as model:
        with pytest.raises(EdgeVqaError, match="the context holds 512"):
            model.ask(EXAMPLES / "cat.jpg", "why " * 300, gate=False)
        assert model.ask(EXAMPLES / "cat.jpg", "why?", gate=False, max_tokens=2).text is not None
        (long, short) = model.ask_many([(EXAMPLES / "cat.jpg", text) for text in ("why " * 300, "why?")], gate=False)
    assert isinstance(long, EdgeVqaError) and not isinstance(short, EdgeVqaError)


def test_eight_bits_of_the_tower_change_little(checkpoint: Path, bundle: store.Bundle, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "int8", Options(quant="f32", onnx_type="int8"))
    rows = []
    for one in (bundle, store.read(tmp_path / "int8")):
        manifest = one.manifest
        with opened(one) as engine:
            pieces = picture_pieces(open_picture(EXAMPLES / "cat.jpg"), "low", manifest.prompt, manifest.runtime.preprocessing)
            (image,) = (part for part in engine.embed(pieces) if isinstance(part, ImageTokens))
            rows.append(engine._tower.read(image, "what is this?").embeddings)  # type: ignore[union-attr]
    assert 0 < np.abs(rows[1] - rows[0]).mean() < 0.05 * rows[0].std()


@pytest.mark.parametrize("quant", ["q4_k_m", "hqq:q4_1"])
def test_t5s_matrices_take_four_bits(checkpoint: Path, tmp_path: Path, quant: str) -> None:
    convert(checkpoint, tmp_path / "bundle", Options(quant=quant))
    types = {
        name: kind
        for name, (shape, kind, _) in gguf_file.read(tmp_path / "bundle" / "lm.gguf").tensors.items()
        if len(shape) > 1
    }
    floats = {name for name, kind in types.items() if kind in (0, 1)}
    assert {name.split(".", 3)[-1] for name in floats} == {"attn_rel_b.weight"}
    assert "dec.blk.0.cross_attn_v.weight" in types and "enc.blk.1.ffn_down.weight" in types
    with load(tmp_path / "bundle") as model:
        assert model.ask(EXAMPLES / "cat.jpg", "what is this?", gate=False, max_tokens=3).trace.prompt_tokens > 8


def test_what_cannot_run_is_refused_before_anything_is_written(checkpoint: Path, tmp_path: Path) -> None:
    refused: dict[str, dict[str, Any]] = {
        "OPT": {"model_type": "opt"},
        "'bert'": {"model_type": "bert"},
        "version 1.0": {"tie_word_embeddings": True, "scale_decoder_outputs": True},
        "'relu'": {"feed_forward_proj": "relu"},
        "more layers than the encoder": {"num_decoder_layers": 3},
    }
    for number, (said, text) in enumerate(refused.items()):
        with pytest.raises(EdgeVqaError, match=said):
            convert(edited(checkpoint, tmp_path / f"{number}", **text), tmp_path / "bundle", EXACT)
    with pytest.raises(EdgeVqaError, match="no graph for the vision tower"):
        convert(checkpoint, tmp_path / "bundle", Options(vision_backend="mtmd"))
    assert not (tmp_path / "bundle").exists()


def test_words_are_those_of_an_uncased_bert(checkpoint: Path) -> None:
    """Characters that came after Unicode 3.2 are left out: which of them are punctuation depends on the table's age."""
    from unicodedata import ucd_3_2_0

    with Checkpoint(checkpoint) as opened_:
        made = WordPiece(words.read(opened_), 10_000)
    reference = Tokenizer.from_file(str(checkpoint / "qformer_tokenizer" / "tokenizer.json"))
    texts = [*strings([], ()), "What IS this?", "naïve Café", "a" * 101, "中文字 pictures", "it's red-ish", ""]
    texts = ["".join(c for c in text if ucd_3_2_0.category(c) != "Cn") for text in texts]
    wrong = [text for text in texts if made.ids(text) != reference.encode(text).ids]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ, first: {wrong[0]!r}"


def test_a_tokenizer_of_another_kind_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for number, (key, value) in enumerate((("normalizer", {"type": "Lowercase"}), ("model", {"type": "BPE"}))):
        folder = edited(checkpoint, tmp_path / f"{number}")
        (folder / words.FOLDER).unlink()
        (folder / words.FOLDER).mkdir()
        spec = json.loads((checkpoint / words.FOLDER / "tokenizer.json").read_text()) | {key: value}
        (folder / words.FOLDER / "tokenizer.json").write_text(json.dumps(spec))
        with pytest.raises(EdgeVqaError, match="uncased BERT"):
            convert(folder, tmp_path / "bundle", EXACT)


def test_a_normalisation_that_llama_cpp_would_leave_is_refused(bundle: store.Bundle) -> None:
    """Each unit that a text can reach, set to one that leads out of the map."""
    found = gguf_file.read(bundle.files["lm"]).metadata["tokenizer.ggml.precompiled_charsmap"]
    sound = bytes(value & 0xFF for value in found)
    charsmap.check(sound)
    size = int.from_bytes(sound[:4], "little")
    units = list(struct.unpack_from(f"<{size // 4}I", sound, 4))
    base = (units[0] >> 10) << ((units[0] & 512) >> 6)
    reached = [base ^ c for c in range(1, 256) if units[base ^ c] & ((1 << 31) | 0xFF) == c]
    rng = Random(3)
    for place in rng.sample(reached, 10):
        damaged = units.copy()
        damaged[place] = (0x1FFFF << 10) | (units[place] & 0xFF)
        with pytest.raises(ValueError, match="leads out of itself"):
            charsmap.check(sound[:4] + struct.pack(f"<{len(units)}I", *damaged) + sound[4 + size :])
    for wrong in (sound[:-1] + b"x", sound[:3], struct.pack("<I", len(sound)) + sound[4:], b""):
        with pytest.raises(ValueError, match="charsmap"):
            charsmap.check(wrong)
    leaf = [unit | 256 for unit in units]
    with pytest.raises(ValueError, match="leads out"):
        charsmap.check(sound[:4] + struct.pack(f"<{len(units)}I", *leaf) + sound[4 + size :])


def test_a_photo_of_any_shape_is_scaled_as_blips_processor_does_it(bundle: store.Bundle) -> None:
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    ones = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    processor = BlipImageProcessorPil(size={"height": 56, "width": 56}, **ones)
    for shape in ((300, 200), (40, 90), (56, 56)):
        image = Image.open(EXAMPLES / "cat.jpg").resize(shape)
        prompt, pixels = bundle.manifest.prompt, bundle.manifest.runtime.preprocessing
        ours = picture_pieces(open_picture(image), "low", prompt, pixels)[1].rgb  # type: ignore[union-attr]
        theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0) * 255
        assert np.abs(ours - theirs).max() <= 1.01

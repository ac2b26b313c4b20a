"""llama.cpp on our ggufs gives what `transformers` gives on the checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from PIL import Image

from converters.convert import convert
from converters.options import Options
from edge_vqa import EdgeVqaError, load
from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.pictures.open import open_picture
from edge_vqa.vision.class_token import ClassTokenOrder
from edge_vqa.vision.positions import PositionOrder
from tests.conftest import CHECKPOINT, EXAMPLES, Asked
from tests.converters.bench import EXACT
from tests.converters.random_checkpoints import LLAMA3_ROPE, make
from tests.converters.reference import Reference
from tests.converters.upstream import KINDS as UPSTREAM
from tests.converters.upstream import STORED, largest_error


@pytest.fixture(scope="module")
def reference(f32_bundle: Bundle) -> Iterator[Reference]:
    made = Reference(CHECKPOINT, f32_bundle)
    yield made
    made.close()


def test_first_token_logits_and_greedy_answers_agree_on_500_questions(
    reference: Reference, easy_questions: list[Asked]
) -> None:
    asked = [(path, question) for _, path, question, _ in easy_questions[:440]]
    crops = [(EXAMPLES / name, q) for name in ("cat.jpg", "coffee.jpg") for q in ("what is this?", "is it an animal?")]
    compared = [reference.compare(open_picture(path), question, "low") for path, question in [*asked, *crops]]
    rng = np.random.default_rng(3)
    for _ in range(56):  # photos: windows of the examples, which the model is much less sure about
        name = ("cat.jpg", "coffee.jpg")[int(rng.integers(2))]
        photo = np.asarray(Image.open(EXAMPLES / name))
        side = int(rng.integers(60, 250))
        y, x = (int(rng.integers(0, n - side)) for n in photo.shape[:2])
        window = open_picture(np.ascontiguousarray(photo[y : y + side, x : x + side]))
        compared.append(reference.compare(window, "what is in the picture?", "low"))
    errors = [one.error for one in compared]
    same = float(np.mean([one.same_tokens for one in compared]))
    print(f"\nlogit error / range: median {np.median(errors):.1e}, largest {max(errors):.1e}; same answers {same:.4f}")
    assert len(compared) == 500
    assert max(errors) <= 1e-3, f"largest logit error {max(errors):.2e} of the range, median {np.median(errors):.2e}"
    assert same >= 0.995, f"{same:.4f} of the greedy answers are the same"
    assert max(one.hidden_error for one in compared) < 5e-3


@pytest.mark.parametrize("size", [(64, 64), (300, 120), (90, 210)])
def test_high_detail_agrees_on_three_aspect_ratios(reference: Reference, size: tuple[int, int]) -> None:
    picture = open_picture(Image.open(EXAMPLES / "cat.jpg").resize(size))
    compared = [reference.compare(picture, question, "high") for question in ("what is this?", "can it fly?")]
    print(f"\nhigh detail, {size}: logit error / range {max(one.error for one in compared):.1e}")
    assert max(one.error for one in compared) <= 1e-3, [one.error for one in compared]
    assert all(one.same_tokens for one in compared)


def test_tiles_are_cut_as_transformers_cuts_them() -> None:
    from transformers import Idefics3ImageProcessorPil

    from edge_vqa.bundles.manifest import Preprocessing
    from edge_vqa.pictures.sizes import slices

    processor = Idefics3ImageProcessorPil.from_pretrained(CHECKPOINT)
    for size in ((64, 64), (300, 120), (90, 210), (451, 300)):
        image = Image.open(EXAMPLES / "cat.jpg").resize(size)
        rows, whole = slices(open_picture(image), Preprocessing(tile=128, longest_edge=512, tile_tokens=16))
        ours = np.stack([*(tile for row in rows for tile in row), whole])
        made = processor(image, do_image_splitting=True, return_tensors="np")["pixel_values"][0]
        theirs = np.round((made.transpose(0, 2, 3, 1) * 0.5 + 0.5) * 255)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1, f"{size}: {np.abs(ours - theirs).max()}"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gemma3", {}),
        ("gemma3", {"published": True, "shards": True, "num_key_value_heads": 1, "dtype": torch.bfloat16}),
        ("idefics3", {}),
        ("idefics3", {"rope_parameters": LLAMA3_ROPE}),
        ("idefics3", {"head_dim": 32, "num_key_value_heads": 1}),
        ("internvl", {}),
        ("internvl", {"model_type": "qwen3", "head_dim": 16, "tied": True, "shards": True}),
        ("lfm2_vl", {}),
        ("lfm2_vl", {"shards": True, "num_key_value_heads": 1, "block_auto_adjust_ff_dim": False, "dtype": torch.bfloat16}),
        ("llava", {}),
        ("llava", {"dtype": torch.float16, "shards": True, "num_hidden_layers": 3}),
        ("qwen2_vl", {}),
        ("qwen2_vl", {"published": True, "tied": True, "dtype": torch.bfloat16}),
        ("qwen2_5_vl", {}),
        ("qwen2_5_vl", {"published": True, "shards": True, "num_key_value_heads": 1}),
        ("qwen3_vl", {}),
        ("qwen3_vl", {"published": True, "tied": True, "shards": True}),
        ("smolvlm", {"published": True}),
        ("smolvlm", {"image_size": 36}),  # half a patch is left over: SmolVLM2-2.2B has 384 px, patches of 14
        ("smolvlm", {"tied": True, "shards": True, "dtype": torch.float16}),
    ],
)
def test_random_checkpoints_of_each_architecture_agree(kind: str, settings: dict[str, object], tmp_path: Path) -> None:
    checkpoint = make(tmp_path / "checkpoint", kind, **settings)  # type: ignore[arg-type]
    convert(checkpoint, tmp_path / "bundle", Options(quant="f32", vision_type="f32"))
    reference = Reference(checkpoint, store.read(tmp_path / "bundle"))
    photo = Image.open(EXAMPLES / "cat.jpg")
    try:
        answers = []
        for size, detail in (((300, 200), "low"), ((120, 300), "low"), ((340, 460), "high")):
            for question in ("what is this? " * 30, "Is it red?"):  # two questions on one picture
                one = reference.compare(open_picture(photo.resize(size)), question, detail)
                print(f"\n{kind} {sorted(settings)}, {size}, {detail}: logit error / range {one.error:.1e}")
                assert one.error <= 3e-3, f"{size}, {detail}: {one.error:.2e}"
                assert one.hidden_error < 1e-2
                assert one.same_tokens
                answers.append(one.ours)
        other = reference.compare(open_picture(EXAMPLES / "coffee.jpg"), "Is it red?", "low").ours
        assert np.abs(other - answers[1]).max() > 0.05 * np.ptp(other), "the picture hardly matters: this test sees nothing"
    finally:
        reference.close()


@pytest.mark.parametrize(
    ("kind", "settings", "onnx_type", "most"),
    [
        ("idefics3", {}, "f32", 3e-3),
        ("smolvlm", {"published": True}, "f16", 3e-3),
        ("smolvlm", {"image_size": 36}, "f32", 3e-3),
        ("idefics3", {}, "int8", 5e-2),
        ("llava", {}, "f32", 3e-3),
        ("qwen2_vl", {}, "f32", 3e-3),
        ("qwen2_vl", {}, "int8", 5e-2),
        ("qwen3_vl", {}, "f32", 3e-3),
        ("qwen3_vl", {}, "int8", 5e-2),
        ("gemma3", {}, "f32", 3e-3),
        ("internvl", {}, "f32", 3e-3),
        ("internvl", {}, "int8", 5e-2),
    ],
)
def test_the_vision_tower_in_onnx_agrees(
    kind: str, settings: dict[str, object], onnx_type: str, most: float, tmp_path: Path
) -> None:
    checkpoint = make(tmp_path / "checkpoint", kind, **settings)  # type: ignore[arg-type]
    convert(checkpoint, tmp_path / "bundle", Options(quant="f32", vision_backend="onnx", onnx_type=onnx_type))
    bundle = store.read(tmp_path / "bundle")
    assert bundle.manifest.files.keys() == {"lm", "vision_onnx"}
    reference = Reference(checkpoint, bundle, "onnx")
    photo = Image.open(EXAMPLES / "cat.jpg")
    try:
        for size, detail in (((300, 200), "low"), ((120, 300), "low"), ((340, 460), "high")):
            one = reference.compare(open_picture(photo.resize(size)), "Is it red?", detail)
            print(f"\n{kind} {onnx_type}, {size}, {detail}: logit error / range {one.error:.1e}")
            assert one.error <= most, f"{size}, {detail}: {one.error:.2e}"
    finally:
        reference.close()


@pytest.mark.parametrize("kind", UPSTREAM)
def test_never_further_off_than_with_llama_cpps_own_converter(kind: str, tmp_path: Path) -> None:
    stored = json.loads((STORED / f"{kind}.json").read_text())["error"]
    checkpoint = make(tmp_path / "checkpoint", kind, published=kind == "smolvlm")
    convert(checkpoint, tmp_path / "bundle", Options(quant="f32", vision_type="f32"))
    ours = largest_error(checkpoint, tmp_path / "bundle")
    print(f"\n{kind}: ours {ours:.2e}, llama.cpp's converter {stored:.2e}")
    assert ours <= stored * 1.1, f"{ours:.2e}, llama.cpp's converter {stored:.2e}"  # a tenth for other CPUs


@pytest.mark.parametrize("kind", ["gemma3", "idefics3", "internvl", "lfm2_vl", "qwen2_vl", "qwen3_vl"])
def test_several_pictures_are_seen_as_transformers_sees_them(kind: str, tmp_path: Path) -> None:
    checkpoint = make(tmp_path / "checkpoint", kind)
    convert(checkpoint, tmp_path / "bundle", EXACT)
    reference = Reference(checkpoint, store.read(tmp_path / "bundle"))
    photos = [Image.open(EXAMPLES / f"{name}.jpg").resize((180, 120)) for name in ("cat", "coffee")]
    try:
        both = reference.compare(open_picture(photos), "which one is larger?", "low")
        assert both.error <= 1e-3 and both.same_tokens, f"{both.error:.2e}"
        swapped = reference.compare(open_picture(photos[::-1]), "which one is larger?", "low")
        alone = reference.compare(open_picture(photos[1]), "which one is larger?", "low")
        for other in (swapped, alone):
            assert np.abs(other.ours - both.ours).max() > 1e-2 * np.ptp(both.ours), "the first picture tells nothing"
    finally:
        reference.close()


@pytest.mark.parametrize("kind", ["llava", "blip_2"])
def test_models_of_one_picture_say_so(kind: str, tmp_path: Path) -> None:
    convert(make(tmp_path / "checkpoint", kind), tmp_path / "bundle", Options(quant="q8_0"))
    with load(tmp_path / "bundle") as model, pytest.raises(EdgeVqaError, match="one picture a question"):
        model.ask([EXAMPLES / "cat.jpg", EXAMPLES / "coffee.jpg"], "which one is larger?")


def test_internvls_positions_are_put_in_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make(tmp_path / "checkpoint", "internvl")
    convert(checkpoint, tmp_path / "bundle", Options(quant="f32", vision_type="f32"))
    pair = tmp_path / "pair"
    pair.mkdir()
    shutil.copy(tmp_path / "bundle" / "lm.gguf", pair)
    reader = gguf.GGUFReader(tmp_path / "bundle" / "mmproj.gguf")
    writer = gguf.GGUFWriter(pair / "mmproj.gguf", "clip")  # as llama.cpp's converter writes it
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        values = np.array(tensor.data)
        if tensor.name == "v.position_embd.weight":
            values = np.roll(values, 1, 0)[None]
        if tensor.name == "v.class_embd":
            values = values[None, None]
        writer.add_tensor(tensor.name, values)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    convert(pair, tmp_path / "kept", Options(quant="keep"))
    convert(pair, tmp_path / "again", Options(quant="f32", vision_type="f32"))
    kept, again = (largest_error(checkpoint, tmp_path / name) for name in ("kept", "again"))
    monkeypatch.setattr(PositionOrder, "concerns", staticmethod(lambda header: False))
    wrong = largest_error(checkpoint, tmp_path / "kept")
    print(f"\ninternvl: logit error / range {again:.1e}, a kept pair {kept:.1e}, as llama.cpp orders positions {wrong:.1e}")
    assert max(again, kept) <= 1e-3 and wrong > 1e-2


def test_llavas_class_token_is_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make(tmp_path / "checkpoint", "llava")
    convert(checkpoint, tmp_path / "bundle", Options(quant="f32", vision_type="f32"))
    right = largest_error(checkpoint, tmp_path / "bundle")
    monkeypatch.setattr(ClassTokenOrder, "concerns", staticmethod(lambda header: False))
    wrong = largest_error(checkpoint, tmp_path / "bundle")
    print(f"\nllava: logit error / range {right:.1e}, as llama.cpp orders tokens {wrong:.1e}")
    assert right <= 3e-3 and wrong > 1e-2, "llama.cpp orders the class token rightly now: drop edge_vqa/class_token.py"


@pytest.mark.parametrize(("mend", "writes"), [(ClassTokenOrder, "_put"), (PositionOrder, "_turn")])
def test_where_a_mend_cannot_be_made_the_picture_is_refused(
    mend: type, writes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {ClassTokenOrder: "llava", PositionOrder: "internvl"}[mend]
    convert(make(tmp_path / "checkpoint", kind), tmp_path / "bundle", Options(quant="q8_0"))
    if mend is PositionOrder:  # a tower of our own needs no mending
        monkeypatch.setattr(PositionOrder, "concerns", staticmethod(lambda header: "v.class_embd" in header.tensors))
    monkeypatch.setattr(mend, writes, lambda *_: None)  # as on a device whose memory cannot be written to
    with load(tmp_path / "bundle") as model, pytest.raises(EdgeVqaError, match="could not be put in"):
        model.ask(EXAMPLES / "cat.jpg", "what is this?")

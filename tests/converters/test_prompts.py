"""The prompt of each architecture, and the pixels, are what `transformers`' processors make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

from converters.convert import convert
from converters.options import Options
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.llm.prompt import Text, picture_pieces, question_pieces
from edge_vqa.pictures.open import open_picture
from edge_vqa.pictures.sizes import crop, fitted, grid, padded, squared, stretched
from tests.conftest import EXAMPLES
from tests.converters.random_checkpoints import BLIP, KINDS, make
from tests.converters.reference import IMAGE_TOKENS

# `|` marks where one piece ends and the next begins, (picture) the picture
SNAPSHOTS = {
    "idefics3": "<|im_start|>User:<fake_token_around_image><global-img>|(picture)|<fake_token_around_image>"
    "|what is this?|<end_of_utterance>\nAssistant:",
    "smolvlm": "<|im_start|>User:<fake_token_around_image><global-img>|(picture)|<fake_token_around_image>"
    "|what is this?|<end_of_utterance>\nAssistant:",
    "gemma3": "<bos><start_of_turn>user\n\n\n<start_of_image>|(picture)|<end_of_image>|\n\nwhat is this?"
    "|<end_of_turn>\n<start_of_turn>model\n",
    "internvl": "<|im_start|>user\n<img>|(picture)|</img>|\nwhat is this?|<|im_end|>\n<|im_start|>assistant\n",
    "lfm2_vl": "<|startoftext|><|im_start|>user\n<|image_start|>|(picture)|<|image_end|>|what is this?"
    "|<|im_end|>\n<|im_start|>assistant\n",
    "llava": "<s>USER: |(picture)|\nwhat is this? ASSISTANT:|",
    "qwen2_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>|(picture)"
    "|<|vision_end|>|what is this?|<|im_end|>\n<|im_start|>assistant\n",
}
SNAPSHOTS["blip_2"] = SNAPSHOTS["instructblip"] = "|(picture)|Question: what is this? Short answer:|</s>"
SNAPSHOTS["instructblip_vicuna"] = "|(picture)|<s>|Question: what is this? Short answer:|"
SNAPSHOTS["qwen2_5_vl"] = SNAPSHOTS["qwen3_vl"] = SNAPSHOTS["qwen2_vl"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_rendered_prompt_is_apply_chat_templates(kind: str, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    make(tmp_path / "checkpoint", kind)
    convert(tmp_path / "checkpoint", tmp_path / "bundle", Options(quant="q8_0"))
    manifest = store.read(tmp_path / "bundle").manifest
    photo = open_picture(EXAMPLES / "cat.jpg")
    pieces = picture_pieces(photo, "low", manifest.prompt, manifest.runtime.preprocessing)
    ours = [piece.text if isinstance(piece, Text) else "(picture)" for piece in pieces]
    ours += [piece.text for piece in question_pieces("what  is\nthis?", manifest.prompt)]
    assert "|".join(ours) == SNAPSHOTS[kind]
    if kind in BLIP:
        return
    config = json.loads((tmp_path / "checkpoint" / "tokenizer_config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "checkpoint" / "tokenizer.json"), bos_token=config.get("bos_token")
    )
    content = [{"type": "image"}, {"type": "text", "text": "what is this?"}]
    template = (tmp_path / "checkpoint" / "chat_template.jinja").read_text()
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, add_generation_prompt=True, tokenize=False
    )
    # what each processor writes in the place of the picture
    fenced = "<fake_token_around_image><global-img>(picture)<fake_token_around_image>"
    picture = {
        **dict.fromkeys(("idefics3", "smolvlm"), ("<image>", fenced)),
        "internvl": ("<IMG_CONTEXT>", "<img>(picture)</img>"),
        "lfm2_vl": ("<image>", "<|image_start|>(picture)<|image_end|>"),
        "gemma3": ("<start_of_image>", "\n\n<start_of_image>(picture)<end_of_image>\n\n"),
    }.get(kind, (IMAGE_TOKENS.get(kind, "<image>"), "(picture)"))
    bos = "<s>" if kind == "llava" else ""  # which the tokenizer adds, not the template
    assert "".join(ours) == bos + theirs.replace(*picture)


def test_qwens_pictures_have_the_processors_size_and_pixels() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    ones = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    low, high = 32, 64
    pixels = Preprocessing(28, 28, 1, "bicubic", "dynamic", 4, low, high)
    photo = Image.open(EXAMPLES / "cat.jpg")
    for detail, most in (("low", low), ("high", high)):
        size = {"shortest_edge": 4 * 784, "longest_edge": most * 784}
        processor = Qwen2VLImageProcessorPil(size=size, **ones)
        for shape in ((300, 200), (30, 40), (1000, 90), (451, 300), (28, 28), (57, 911)):
            image = photo.resize(shape)
            ours = fitted(open_picture(image), detail, pixels)
            made = processor(image, return_tensors="np")
            _, rows, columns = made["image_grid_thw"][0]
            assert ours.shape[:2] == (rows * 14, columns * 14), f"{shape}: {ours.shape}"
            flat = made["pixel_values"].reshape(rows // 2, columns // 2, 2, 2, 3, 2, 14, 14)[:, :, :, :, :, 0]
            theirs = flat.transpose(0, 2, 5, 1, 3, 6, 4).reshape(ours.shape) * 255
            assert np.abs(ours - theirs).max() <= 1.01, f"{shape}: {np.abs(ours - theirs).max()}"


def test_llavas_pictures_are_cropped_as_clips_processor_crops_them() -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    ones = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    processor = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, **ones)
    photo = Image.open(EXAMPLES / "cat.jpg")
    for shape in ((300, 200), (120, 301), (56, 56), (40, 30), (451, 300)):
        image = photo.resize(shape)
        ours = crop(open_picture(image), Preprocessing(56, 56, 16, "bicubic", "crop"))
        theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0) * 255
        assert np.abs(ours - theirs).max() <= 1.01, f"{shape}: {np.abs(ours - theirs).max()}"


def test_gemmas_pictures_are_scaled_to_a_square_as_its_processor_does_it() -> None:
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    ones = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    processor = Gemma3ImageProcessorPil(size={"height": 56, "width": 56}, **ones)
    photo = Image.open(EXAMPLES / "cat.jpg")
    for shape in ((300, 200), (120, 301), (56, 56), (40, 30)):
        image = photo.resize(shape)
        ours = squared(open_picture(image), Preprocessing(56, 56, 16, "bilinear", "square"))
        theirs = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0) * 255
        assert np.abs(ours - theirs).max() <= 1.01, f"{shape}: {np.abs(ours - theirs).max()}"


def test_internvls_pictures_are_cut_into_the_grid_that_its_processor_chooses() -> None:
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    ones = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    side, most = 32, 12
    processor = GotOcr2ImageProcessorPil(
        size={"height": side, "width": side}, crop_to_patches=True, min_patches=1, max_patches=most, **ones
    )
    pixels = Preprocessing(side, side, 4, "bicubic", "grid", 1, 4, 4 * (most + 1))
    photo = Image.open(EXAMPLES / "cat.jpg")
    for shape in ((300, 200), (120, 301), (32, 32), (40, 30), (64, 64), (33, 300), (700, 100), (96, 64), (50, 100)):
        picture = open_picture(photo.resize(shape))
        ours = np.stack([*grid(picture, pixels), squared(picture, pixels)])
        theirs = processor(photo.resize(shape), return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1) * 255
        assert ours.shape == theirs.shape, f"{shape}: {len(ours)} squares, the processor makes {len(theirs)}"
        assert np.abs(ours - theirs).max() <= 1.01, f"{shape}: {np.abs(ours - theirs).max()}"


def test_lfm2s_pictures_have_the_size_that_its_processor_chooses() -> None:
    """Worked out by hand after smart_resize of `transformers`' Lfm2VlImageProcessor, which needs torchvision to be imported."""
    pixels = Preprocessing(32, 32, 1, "bilinear", "dynamic", 64, 256, 256)
    photo = Image.open(EXAMPLES / "cat.jpg")
    for shape, wanted in {
        **{(300, 200): (320, 224), (57, 211): (160, 512)},  # too small
        **{(256, 256): (256, 256), (512, 512): (512, 512)},  # just right
        **{(640, 480): (576, 416), (1000, 300): (928, 256)},  # too large
    }.items():
        height, width, _ = fitted(open_picture(photo.resize(shape)), "low", pixels).shape
        assert (width, height) == wanted, f"{shape}: {width} x {height}"


def test_a_picture_that_no_model_can_take_is_refused() -> None:
    from edge_vqa import EdgeVqaError

    thin = open_picture(np.zeros((3, 900, 3), np.uint8))
    with pytest.raises(EdgeVqaError, match="too thin"):
        fitted(thin, "low", Preprocessing(28, 28, 1, "bicubic", "dynamic", 4, 256, 1024))


@pytest.mark.parametrize("size", [(64, 64), (300, 120), (90, 210), (451, 300)])
def test_janus_pictures_are_padded_as_its_processor_does(size: tuple[int, int]) -> None:
    processor = transformers.JanusImageProcessorPil(size={"height": 112, "width": 112}, image_mean=[0.5] * 3)
    image = Image.open(EXAMPLES / "cat.jpg").convert("RGB").resize(size)
    ours = padded(open_picture(image), Preprocessing(112, 112, 16, "bicubic", "pad"))
    made = processor(image, return_tensors="np", do_normalize=False)["pixel_values"].reshape(3, 112, 112)
    theirs = np.round(made.transpose(1, 2, 0) * 255)
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("size", [(300, 120), (230, 500), (451, 300)])  # llama.cpp also enlarges smaller ones
def test_lighton_pictures_are_as_large_as_its_processor_makes_them(size: tuple[int, int]) -> None:
    processor = transformers.PixtralImageProcessorPil(patch_size=28, size={"longest_edge": 224})
    image = Image.open(EXAMPLES / "cat.jpg").convert("RGB").resize(size)
    ours = stretched(open_picture(image), Preprocessing(28, 224, 1, "bicubic", "longest", 1, 64, 64))
    theirs = processor(image, return_tensors="np", do_normalize=False)["pixel_values"][0]
    assert ours.shape == (*theirs.shape[1:], 3)

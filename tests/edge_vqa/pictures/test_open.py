"""Untrusted pictures become plain RGB, or one clear error."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_vqa import EdgeVqaError
from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.pictures.open import MAX_PIXELS, open_picture
from edge_vqa.pictures.sizes import overview, slices

PIXELS = Preprocessing(tile=64, longest_edge=256, tile_tokens=16)


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000"])
def test_opens_every_format_it_names(kind: str) -> None:
    assert open_picture(encoded(noise(30, 20), kind)).size == (30, 20)


def test_a_phones_heic_is_read_where_the_plugin_is_and_says_so_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import pillow_heif

    smooth = noise(3, 2).resize((300, 200))
    stream = io.BytesIO()
    pillow_heif.from_pillow(smooth).save(stream, quality=95)
    assert stream.getvalue()[4:8] == b"ftyp"
    read = open_picture(stream.getvalue())
    assert read.size == (300, 200) and np.abs(read.rgb.astype(int) - np.asarray(smooth)).mean() < 4
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(EdgeVqaError, match=r'pip install "edge-vqa\[heic\]"'):
        open_picture(stream.getvalue())
    with pytest.raises(EdgeVqaError, match="HEIC"):
        open_picture(stream.getvalue()[:40])


def test_a_path_bytes_an_image_and_an_array_are_the_same_picture(tmp_path: Path) -> None:
    image = noise(9, 7)
    path = tmp_path / "a picture.png"
    image.save(path)
    expected = np.asarray(image)
    for source in (path, str(path), path.read_bytes(), image, expected, open_picture(path)):
        assert np.array_equal(open_picture(source).rgb, expected)


def test_exif_rotation_is_honoured() -> None:
    image = noise(30, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture = open_picture(encoded(image, "PNG", exif=exif))
    assert picture.size == (20, 30)
    assert np.array_equal(picture.rgb, np.rot90(np.asarray(image), -1))


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (open_picture(encoded(clear, "PNG")).rgb == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0] + [0] * 765)
    assert (open_picture(encoded(palette, "PNG", transparency=0)).rgb == 255).all()


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red, green, blue = open_picture(encoded(image, "JPEG")).rgb[0, 0]
    assert red > 200 and green < 60 and blue < 60


def test_sixteen_bits_become_eight() -> None:
    deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    rgb = open_picture(encoded(Image.fromarray(deep), "PNG")).rgb
    assert np.array_equal(rgb[..., 0], np.round(deep / 257).astype(np.uint8))
    dark = np.full((4, 4), 3, np.uint16)
    assert open_picture(encoded(Image.fromarray(dark), "PNG")).rgb.max() <= 3


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    rgb = open_picture(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).rgb
    assert (rgb[0, 0] == (255, 0, 0)).all()


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000)])
def test_extreme_shapes_are_cut_into_tiles(size: tuple[int, int]) -> None:
    picture = open_picture(noise(*size))
    assert overview(picture, PIXELS).shape == (64, 64, 3)
    rows, whole = slices(picture, PIXELS)
    assert whole.shape == (64, 64, 3)
    assert all(tile.shape == (64, 64, 3) for row in rows for tile in row)


def test_a_picture_of_the_encoders_size_passes_unchanged() -> None:
    image = noise(64, 64)
    assert np.array_equal(overview(open_picture(image), PIXELS), np.asarray(image))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_file_is_refused(kind: str, tmp_path: Path) -> None:
    data = encoded(noise(200, 200), kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(EdgeVqaError, match=r"half\.\w+ is damaged"):
        open_picture(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"this is a text, not a picture", "is not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
        (b"\xff\xd8\xff", "is not a picture"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "fake.jpg"
    path.write_bytes(data)
    with pytest.raises(EdgeVqaError, match=words):
        open_picture(path)


def test_a_missing_file_a_folder_and_an_impossible_name_are_refused(tmp_path: Path) -> None:
    for source, words in (
        (tmp_path / "none.jpg", "does not exist"),
        (tmp_path, "is a folder"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(EdgeVqaError, match=words):
            open_picture(source)


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = int(MAX_PIXELS**0.5) + 1
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(EdgeVqaError, match="more than 100 megapixels"):
        open_picture(bomb)


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)])
def test_an_array_of_another_form_is_refused(array: np.ndarray) -> None:
    with pytest.raises(EdgeVqaError, match="is not a picture"):
        open_picture(array)

"""Scales and cuts a picture to the pixels that a vision tower takes, as the processors of its checkpoint do."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from edge_vqa.bundles.manifest import Preprocessing
from edge_vqa.errors import EdgeVqaError
from edge_vqa.pictures.open import Picture, Rgb

GREY = 127  # around pictures that fill no square


def _resample(preprocessing: Preprocessing) -> Image.Resampling:
    return Image.Resampling[preprocessing.resample.upper()]


def overview(picture: Picture, preprocessing: Preprocessing) -> Rgb:
    """The whole picture as one tile [tile, tile, 3]. At the encoder's own size the pixels pass unchanged."""
    side = preprocessing.tile
    if picture.size == (side, side):
        return picture.rgb
    return np.array(Image.fromarray(picture.rgb).resize((side, side), _resample(preprocessing), reducing_gap=3.0))


def slices(picture: Picture, preprocessing: Preprocessing) -> tuple[list[list[Rgb]], Rgb]:
    """Rows of tiles [tile, tile, 3], and the overview, as `transformers`' Idefics3ImageProcessor cuts them.

    The picture is scaled so that its longer side is `longest_edge`, then both sides up to multiples of `tile`. A picture
    that fits one tile yields no rows.
    """
    side, filter_ = preprocessing.tile, _resample(preprocessing)
    width, height = picture.size
    aspect = width / height
    if width >= height:
        width = preprocessing.longest_edge
        height = max(1, int(width / aspect))
        height += height % 2
    else:
        height = preprocessing.longest_edge
        width = max(1, int(height * aspect))
        width += width % 2
    scaled = Image.fromarray(picture.rgb).resize((width, height), filter_)
    aspect = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        height = math.ceil(max(1, int(width / aspect)) / side) * side
    else:
        height = math.ceil(height / side) * side
        width = math.ceil(max(1, int(height * aspect)) / side) * side
    scaled = scaled.resize((width, height), filter_)
    whole = np.array(scaled.resize((side, side), filter_))
    if width <= side and height <= side:
        return [], whole
    pixels = np.asarray(scaled)
    rows = [
        [np.ascontiguousarray(pixels[y : y + side, x : x + side]) for x in range(0, width, side)]
        for y in range(0, height, side)
    ]
    return rows, whole


def crop(picture: Picture, preprocessing: Preprocessing) -> Rgb:
    """The central square [tile, tile, 3] of a picture whose shorter side is scaled to `tile`, as CLIP's processor cuts it."""
    side, (width, height) = preprocessing.tile, picture.size
    if width <= height:
        width, height = side, max(side, int(side * height / width))
    else:
        width, height = max(side, int(side * width / height)), side
    scaled = _scaled(picture, width, height, preprocessing)
    x, y = (width - side) // 2, (height - side) // 2
    return np.ascontiguousarray(scaled[y : y + side, x : x + side])


def squared(picture: Picture, preprocessing: Preprocessing) -> Rgb:
    """The whole picture scaled to [tile, tile, 3], whatever its shape, as SigLIP's processor does."""
    return _scaled(picture, preprocessing.tile, preprocessing.tile, preprocessing)


def padded(picture: Picture, preprocessing: Preprocessing) -> Rgb:
    """The whole picture in the middle of a grey square [tile, tile, 3], its longer side scaled to `tile`, as Janus's processor
    does."""
    side, (width, height) = preprocessing.tile, picture.size
    scale = side / max(width, height)
    scaled = _scaled(picture, max(1, round(width * scale)), max(1, round(height * scale)), preprocessing)
    made = np.full((side, side, 3), GREY, np.uint8)
    y, x = ((side - n) // 2 for n in scaled.shape[:2])
    made[y : y + scaled.shape[0], x : x + scaled.shape[1]] = scaled
    return made


def grid(picture: Picture, preprocessing: Preprocessing) -> list[Rgb]:
    """The picture scaled to a grid of squares [tile, tile, 3], row by row; none where one square is enough.

    Of all grids within the limits that whose shape is nearest to the picture's; of several as near, the largest that has less
    than twice the picture's area. As `transformers`' GotOcr2ImageProcessor chooses, which InternVL uses.
    """
    side, (width, height) = preprocessing.tile, picture.size
    least, most = preprocessing.min_tokens, preprocessing.high_tokens // preprocessing.tile_tokens - 1
    shapes = [(x, y) for x in range(1, most + 1) for y in range(1, most + 1) if least <= x * y <= most]
    best = (1, 1)
    for x, y in sorted(shapes, key=lambda shape: shape[0] * shape[1]):
        nearer = abs(width / height - x / y) - abs(width / height - best[0] / best[1])
        if nearer < 0 or (nearer == 0 and width * height > side**2 * x * y / 2):
            best = x, y
    if best == (1, 1):
        return []
    columns, rows = best
    pixels = _scaled(picture, columns * side, rows * side, preprocessing)
    return [
        np.ascontiguousarray(pixels[y : y + side, x : x + side])
        for y in range(0, rows * side, side)
        for x in range(0, columns * side, side)
    ]


def fitted(picture: Picture, detail: str, preprocessing: Preprocessing) -> Rgb:
    """The picture with both sides multiples of `tile`, its shape kept as far as that allows, within the tokens of `detail`.

    Source: smart_resize of `transformers`' Qwen2VLImageProcessor.
    """
    unit, (width, height) = preprocessing.tile, picture.size
    if max(width, height) > 200 * min(width, height):
        raise EdgeVqaError(f"a picture of {width} x {height} pixels is too thin for this model", "cut it first")
    most = preprocessing.low_tokens if detail == "low" else preprocessing.high_tokens
    columns, rows = (max(1, round(n / unit)) for n in (width, height))
    if columns * rows > most:
        shrink = math.sqrt(width * height / (most * unit**2))
        columns, rows = (max(1, math.floor(n / shrink / unit)) for n in (width, height))
    elif columns * rows < preprocessing.min_tokens:
        grow = math.sqrt(preprocessing.min_tokens * unit**2 / (width * height))
        columns, rows = (math.ceil(n * grow / unit) for n in (width, height))
    return _scaled(picture, columns * unit, rows * unit, preprocessing)


def stretched(picture: Picture, preprocessing: Preprocessing) -> Rgb:
    """The picture with its longer side `longest_edge`, the other the multiple of `tile` that is next above, as llama.cpp has it
    for LightOnOCR."""
    unit, (width, height) = preprocessing.tile, picture.size
    scale = preprocessing.longest_edge / max(width, height)
    columns, rows = (math.ceil(n * scale / unit) for n in (width, height))
    return _scaled(picture, columns * unit, rows * unit, preprocessing)


def shrunk(picture: Picture, detail: str, preprocessing: Preprocessing) -> Rgb:
    """The picture, scaled down where its longer side is above what `detail` allows."""
    most, (width, height) = preprocessing.tile if detail == "low" else preprocessing.longest_edge, picture.size
    scale = min(1.0, most / max(width, height))
    return _scaled(picture, max(1, round(width * scale)), max(1, round(height * scale)), preprocessing)


def _scaled(picture: Picture, width: int, height: int, preprocessing: Preprocessing) -> Rgb:
    if picture.size == (width, height):
        return picture.rgb
    return np.array(Image.fromarray(picture.rgb).resize((width, height), _resample(preprocessing)))

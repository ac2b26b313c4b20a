"""The photos that the base model learns from, and those that only measure it; each set keeps the split of its authors.

- grocery: Grocery Store (Klasson et al., WACV 2019; MIT): smartphone photos from shops, 81 kinds of 43 coarse ones.
- clothing: Clothing dataset (Grigorev et al.; CC0): ten kinds of clothes.
"""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from edge_vqa.pictures.open import Rgb
from recipes.base.eyes import SIDE

PARTS = {"val": "dev", "validation": "dev"}  # what others call it -> what we do


@dataclass(frozen=True)
class Photo:
    """One photo: its place in the zip, the part that it belongs to, and its kinds, from narrow to wide."""

    file: str
    part: str
    kinds: tuple[str, ...]


class Photos:
    """A zip with labels.csv."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)

    @cached_property
    def listed(self) -> list[Photo]:
        rows = csv.DictReader(io.TextIOWrapper(self._zip.open("labels.csv"), encoding="utf-8"))
        kinds = [name for name in ("kind", "fine", "coarse", "group") if name in (rows.fieldnames or ())]
        return [
            Photo(row["file"], PARTS.get(row["split"], row["split"]), tuple(name_of(row[kind]) for kind in kinds))
            for row in rows
        ]

    def of(self, part: str) -> list[Photo]:
        return [photo for photo in self.listed if photo.part == part]

    def read(self, photo: Photo) -> bytes:
        return self._zip.read(photo.file)

    def open(self, photo: Photo) -> Image.Image:
        return Image.open(io.BytesIO(self.read(photo))).convert("RGB")


def name_of(label: str) -> str:
    """`Golden-Delicious` -> `golden delicious`."""
    return label.replace("-", " ").replace("_", " ").lower()


def whole(image: Image.Image) -> Rgb:
    """The whole photo, SIDE x SIDE."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def changed(image: Image.Image, rng: np.random.Generator) -> Rgb:
    """A part of a photo, in other light, perhaps mirrored."""
    width, height = image.size
    share = rng.uniform(0.5, 1.0) ** 0.5
    w, h = share * width * rng.uniform(0.85, 1), share * height * rng.uniform(0.85, 1)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (x, y, x + w, y + h))
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(rng.uniform(0.7, 1.3))
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels


# hue in degrees, from each bound to the next
HUES = (
    (14, "red"),
    (40, "orange"),
    (57, "yellow"),
    (165, "green"),
    (260, "blue"),
    (310, "purple"),
    (345, "pink"),
    (361, "red"),
)
SHARE = 0.6


def colour(pixels: Rgb) -> str:
    """The colour of most of the middle of a photo; empty where none has `SHARE` of it, or it stands between two."""
    side = len(pixels)
    middle = pixels[side // 4 : -side // 4, side // 4 : -side // 4].reshape(-1, 3)
    hue, saturation, value = np.asarray(Image.fromarray(middle[None]).convert("HSV"))[0].astype(np.float32).T
    degrees = hue * 360 / 255
    names = np.full(len(middle), "none", dtype="U8")
    for bound, name in reversed(HUES):
        names[degrees < bound] = name
    names[(names == "orange") & (value < 150)] = "brown"
    names[(saturation < 90) & (degrees < 57)] = "none"  # beige, wood, skin
    grey = saturation < 35
    names[grey] = "gray"
    names[grey & (value > 185)] = "white"
    names[(value < 55) | ((value < 75) & (saturation < 90))] = "black"
    found, counts = np.unique(names, return_counts=True)
    most = str(found[counts.argmax()])
    return most if counts.max() >= SHARE * len(names) and most != "none" else ""

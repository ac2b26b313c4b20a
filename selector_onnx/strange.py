"""Pictures that nobody asks about, drawn from nothing, and copies of one's own that show nothing any more.

With them familiarity learns what foreign pictures look like where the user gives none (outlier exposure: Hendrycks et al.,
ICLR 2019, who find that what is shown need not be what will come). Everything is drawn with Pillow and its own font.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from edge_vqa.pictures.open import open_picture
from edge_vqa.work.questions import Question
from selector_onnx.exposure import UNANSWERABLE

SIDES = (120, 480)  # pixels, smallest and largest
LEAST_SIDE, LONGER_SIDE = 64, 480  # of a copy
GREY = 0.3  # share of what is drawn from nothing that has no colour
ASKED = (
    *("what is this?", "what is in the picture?", "is there a dog?", "is there a person?", "what colour is it?"),
    *("how many things are there?", "what does it say?", "is it an animal?", "what is on the left?"),
)
Colour = tuple[int, int, int]
Draw = Callable[[Random], Image.Image]
Spoil = Callable[[Image.Image, Random], Image.Image]


def _size(rng: Random) -> tuple[int, int]:
    return rng.randint(*SIDES), rng.randint(*SIDES)


def colour(rng: Random, least: int = 0, most: int = 255) -> Colour:
    return rng.randint(least, most), rng.randint(least, most), rng.randint(least, most)


def noise_of(rng: Random) -> np.random.Generator:
    return np.random.default_rng(rng.randrange(2**32))


def _between(share: np.ndarray, rng: Random) -> Image.Image:
    """Two colours, mixed by shares [h, w]."""
    share = share[..., None].clip(0, 1)
    mixed = (1 - share) * np.array(colour(rng)) + share * np.array(colour(rng))
    return Image.fromarray(mixed.astype(np.uint8))


def _places(rng: Random) -> tuple[np.ndarray, np.ndarray]:
    """x and y [h, w] of pixels, turned by some angle, about 1 across."""
    wide, high = _size(rng)
    y, x = np.mgrid[0:high, 0:wide] / max(wide, high)
    angle = rng.uniform(0, math.pi)
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def static(rng: Random) -> Image.Image:
    """Uniform noise, in colour or grey, of any strength."""
    (wide, high), strength = _size(rng), rng.uniform(0.3, 1)
    values = noise_of(rng).uniform(0, 255, (high, wide, rng.choice((1, 3))))
    values = (1 - strength) * np.array(colour(rng)) + strength * values
    return Image.fromarray(values.astype(np.uint8))


def cells(rng: Random) -> Image.Image:
    """Squares of random colours."""
    wide, high = _size(rng)
    side = rng.choice((3, 5, 9, 16, 30, 60))
    small = noise_of(rng).integers(0, 256, (high // side + 1, wide // side + 1, 3), np.uint8)
    return Image.fromarray(small).resize((wide, high), rng.choice((Image.Resampling.NEAREST, Image.Resampling.BICUBIC)))


def waves(rng: Random) -> Image.Image:
    """Sines across each other."""
    x, y = _places(rng)
    first, second = (rng.uniform(2, 60) for _ in range(2))
    return _between(0.5 + 0.25 * np.sin(first * x) + 0.25 * np.sin(second * y + rng.uniform(0, 6) * np.sin(4 * x)), rng)


def gradient(rng: Random) -> Image.Image:
    """From nearly one colour to two that blend."""
    x, _ = _places(rng)
    return _between((x - x.min()) / np.ptp(x) * rng.choice((0.02, 0.3, 1)), rng)


def checks(rng: Random) -> Image.Image:
    x, y = _places(rng)
    many = rng.uniform(3, 40)
    return _between(((many * x).astype(int) + (many * y).astype(int)) % 2, rng)


def blobs(rng: Random) -> Image.Image:
    """Soft shapes of colour, out of focus."""
    image = Image.new("RGB", _size(rng), colour(rng))
    brush = ImageDraw.Draw(image)
    for _ in range(rng.randint(2, 14)):
        x, y, side = rng.uniform(0, image.width), rng.uniform(0, image.height), rng.uniform(10, 160)
        brush.ellipse((x - side, y - side * rng.uniform(0.3, 1), x + side, y + side), fill=colour(rng))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(6, 30)))
    grain = noise_of(rng).normal(0, rng.choice((0, 4, 10)), (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def polygons(rng: Random) -> Image.Image:
    """Outlines on top of each other, thin and thick."""
    image = Image.new("RGB", _size(rng), colour(rng, 200))
    brush = ImageDraw.Draw(image)
    for _ in range(rng.randint(3, 20)):
        corners = [(rng.uniform(0, image.width), rng.uniform(0, image.height)) for _ in range(rng.randint(2, 6))]
        brush.line([*corners, corners[0]], fill=colour(rng, 0, 180), width=rng.randint(1, 5))
    return image


def _word(rng: Random) -> str:
    return "".join(rng.choice("bcdfghklmnprst") + rng.choice("aeiou") for _ in range(rng.randint(1, 4)))


def _words(rng: Random, count: int) -> str:
    return " ".join(_word(rng) if rng.random() < 0.85 else str(rng.randrange(1000)) for _ in range(count))


def page(rng: Random) -> Image.Image:
    """Lines of text, in one column or two, or a form."""
    wide, high = rng.randint(240, 480), rng.randint(240, 600)
    image = Image.new("RGB", (wide, high), colour(rng, 215))
    brush, ink, height = ImageDraw.Draw(image), colour(rng, 0, 90), rng.randint(8, 18)
    font, columns, y = ImageFont.load_default(height), rng.choice((1, 1, 2)), 16.0
    while y < high - 20:
        for column in range(columns):
            left, right = 14 + column * wide // columns, (column + 1) * wide // columns - 14
            text = _words(rng, rng.choice((2, 9, 14)))
            while text and brush.textlength(text, font) > right - left:
                text = text[:-1]
            brush.text((left, y), text, font=font, fill=ink)
            if rng.random() < 0.15:
                brush.rectangle((left, y - 2, right, y + height + 3), outline=ink)
        y += height * rng.choice((1.3, 1.3, 1.3, 2.2))
    return image


def terminal(rng: Random) -> Image.Image:
    """Short lines on dark, each in some colour."""
    wide, high = rng.randint(240, 480), rng.randint(160, 360)
    image = Image.new("RGB", (wide, high), colour(rng, 0, 50))
    brush, height = ImageDraw.Draw(image), rng.randint(9, 15)
    font = ImageFont.load_default(height)
    for y in range(8, high - height, height + 3):
        if rng.random() < 0.85:
            brush.text((8 + rng.choice((0, 0, 16)), y), _words(rng, rng.randint(1, 7)), font=font, fill=colour(rng, 120))
    return image


def panels(rng: Random) -> Image.Image:
    """Rectangles beside and in each other, some with a word, as in a program."""
    wide, high = rng.randint(200, 480), rng.randint(160, 400)
    image = Image.new("RGB", (wide, high), colour(rng, 180))
    brush, font = ImageDraw.Draw(image), ImageFont.load_default(rng.randint(9, 14))
    for _ in range(rng.randint(5, 16)):
        x, y = rng.randrange(0, wide, 20), rng.randrange(0, high, 20)
        fill = colour(rng, 120) if rng.random() < 0.6 else None
        brush.rectangle((x, y, x + rng.randrange(30, 220, 10), y + rng.randrange(14, 120, 6)), fill=fill, outline=colour(rng))
        if rng.random() < 0.7:
            brush.text((x + 6, y + 3), _words(rng, rng.randint(1, 3)), font=font, fill=colour(rng, 0, 80))
    return image


def boxes(rng: Random) -> Image.Image:
    """Boxes with words, joined by lines."""
    wide, high = rng.randint(260, 480), rng.randint(200, 400)
    image = Image.new("RGB", (wide, high), colour(rng, 225))
    brush, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    middles = [(rng.uniform(50, wide - 50), rng.uniform(30, high - 30)) for _ in range(rng.randint(3, 8))]
    for one, other in pairwise(middles):
        brush.line((*one, *other), fill=colour(rng, 0, 120), width=2)
    for x, y in middles:
        brush.rounded_rectangle((x - 40, y - 16, x + 40, y + 16), rng.choice((0, 8, 16)), colour(rng, 170), (60, 60, 60))
        brush.text((x - 28, y - 7), _word(rng), font=font, fill=(20, 20, 20))
    return image


WORLDS: tuple[Draw, ...] = (static, cells, waves, gradient, checks, blobs, polygons, page, terminal, panels, boxes)


# -- copies ----------------------------------------------------------------------------------------------------------------


def negative(image: Image.Image, rng: Random) -> Image.Image:
    return ImageOps.invert(image)


def tinted(image: Image.Image, rng: Random) -> Image.Image:
    """Light and dark of one hue, as an old photograph."""
    return ImageOps.colorize(image.convert("L"), colour(rng, 0, 60), colour(rng, 190))


def posterised(image: Image.Image, rng: Random) -> Image.Image:
    """Three steps of each colour."""
    return image.point([(v // 86) * 127 for v in range(256)] * 3)


def shuffled(image: Image.Image, rng: Random) -> Image.Image:
    """Cut into squares that lie anywhere."""
    parts, pixels = rng.choice((3, 5, 8)), np.asarray(image)
    high, wide = (side // parts for side in pixels.shape[:2])
    places = [(row, column) for row in range(parts) for column in range(parts)]
    made = np.zeros((high * parts, wide * parts, 3), np.uint8)
    for (to, at), (row, column) in zip(places, rng.sample(places, len(places)), strict=True):
        made[to * high :, at * wide :][:high, :wide] = pixels[row * high :, column * wide :][:high, :wide]
    return Image.fromarray(made)


def scrambled(image: Image.Image, rng: Random) -> Image.Image:
    """The same colours and grain, in no order: the phases of its waves are drawn anew."""
    pixels = np.asarray(image).astype(np.float32)
    noise = np.fft.rfft2(noise_of(rng).normal(size=pixels.shape[:2]))
    waves = np.fft.rfft2(pixels, axes=(0, 1)) * np.exp(1j * np.angle(noise))[..., None]
    waves[0, 0] = np.fft.rfft2(pixels, axes=(0, 1))[0, 0]
    return Image.fromarray(np.fft.irfft2(waves, pixels.shape[:2], axes=(0, 1)).clip(0, 255).astype(np.uint8))


def washed(image: Image.Image, rng: Random) -> Image.Image:
    """Six pixels across, made large again."""
    small = image.resize((6, 6), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.BICUBIC)


COPIES: tuple[Spoil, ...] = (negative, tinted, posterised, shuffled, scrambled, washed)


# -- questions -------------------------------------------------------------------------------------------------------------


def drawn(count: int, folder: Path, seed: int) -> list[Question]:
    """So many pictures drawn from nothing, written to `folder`, each with a question whose right answer is none."""
    rng = Random(f"drawn {seed}")

    def images() -> Iterator[Image.Image]:
        for number in range(count):
            image = WORLDS[number % len(WORLDS)](rng)
            yield image.convert("L") if rng.random() < GREY else image

    return _asked(images(), folder, rng)


def spoiled(count: int, own: Sequence[Path], folder: Path, seed: int) -> list[Question]:
    """So many spoiled copies of one's own pictures, likewise."""
    rng = Random(f"spoiled {seed}")

    def images() -> Iterator[Image.Image]:
        for number in range(count):
            image = Image.fromarray(open_picture(rng.choice(own)).rgb)
            image.thumbnail((LONGER_SIDE, LONGER_SIDE))
            if min(image.size) < LEAST_SIDE:  # cannot be cut up
                image = image.resize((LEAST_SIDE, LEAST_SIDE))
            yield COPIES[number % len(COPIES)](image, rng)

    return _asked(images(), folder, rng)


def about(pictures: Sequence[Path], seed: int) -> list[Question]:
    """A question about each of these pictures, whose right answer is none."""
    rng = Random(f"about {seed}")
    return [Question(f"foreign {number}", path, rng.choice(ASKED), (UNANSWERABLE,)) for number, path in enumerate(pictures)]


def _asked(images: Iterator[Image.Image], folder: Path, rng: Random) -> list[Question]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, image in enumerate(images):
        path = folder / f"{number:05}.png"
        image.convert("RGB").save(path, compress_level=1)
        made.append(Question(f"{folder.name} {number}", path, rng.choice(ASKED), (UNANSWERABLE,)))
    return made

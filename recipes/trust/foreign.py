"""Worlds that no bundle was made for, drawn from nothing, and copies of pictures that spoil them: what judges familiarity.

    python -m recipes.trust.foreign -o FOLDER    # a sheet of each, to look at

None of them fits anything: familiarity learns from what `selector_onnx.strange` draws, by other functions, with other text in
another font, and for the mini from photos.

| | fitting | judging |
|---|---|---|
| noise | uniform, cells | normal, specks, clouds |
| colour | gradients, waves, checks | plain, rings, stripes |
| documents | pages and forms | tables, receipts |
| drawings | polygons, boxes and lines | scribbles, maps |
| screens | a terminal, panels | windows with buttons, charts |
| radiographs | blobs out of focus | grey, soft shapes with grain |
| photos (the mini) | groceries, clothes, ImageNet's classes | everyday |
| copies | negative, tinted, posterised, shuffled, scrambled, washed | grey, one bit, transparent, tiny, wide, turned |
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from recipes.mini import scenes
from selector_onnx.strange import Draw, colour, noise_of

SIDES = (160, 480)  # pixels, smallest and largest
FONTS = scenes.FONTS[1::2]


def size(rng: Random) -> tuple[int, int]:
    return rng.randint(*SIDES), rng.randint(*SIDES)


def _picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def _grid(wide: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:high, 0:wide]
    return x / wide, y / high


# --- noise


def normal(rng: Random) -> Image.Image:
    """Around a colour, in colour or grey."""
    wide, high = size(rng)
    grain = noise_of(rng).normal(0, rng.uniform(20, 90), (high, wide, rng.choice((1, 3))))
    return _picture(np.array(colour(rng)) + grain)


def specks(rng: Random) -> Image.Image:
    """Salt and pepper on grey."""
    wide, high = size(rng)
    draw = noise_of(rng).random((high, wide))
    share = rng.uniform(0.05, 0.5)
    values = np.full((high, wide), rng.randint(60, 200))
    values[draw < share / 2], values[draw > 1 - share / 2] = 0, 255
    return _picture(values)


def clouds(rng: Random) -> Image.Image:
    """Noise of several scales added up, between two colours."""
    wide, high = size(rng)
    noise, total = noise_of(rng), np.zeros((high, wide))
    for level in range(1, 7):
        small = Image.fromarray(noise.random((2**level, 2**level)).astype(np.float32))
        total += np.asarray(small.resize((wide, high), Image.Resampling.BICUBIC)) / 2**level
    share = ((total - total.min()) / np.ptp(total))[..., None]
    return _picture((1 - share) * np.array(colour(rng)) + share * np.array(colour(rng)))


# --- colour


def plain(rng: Random) -> Image.Image:
    return Image.new("RGB", size(rng), colour(rng))


def rings(rng: Random) -> Image.Image:
    wide, high = size(rng)
    x, y = _grid(wide, high)
    distance = np.hypot(x - rng.uniform(0.2, 0.8), y - rng.uniform(0.2, 0.8))
    share = (0.5 + 0.5 * np.cos(distance * rng.uniform(6, 60)))[..., None]
    return _picture((1 - share) * np.array(colour(rng)) + share * np.array(colour(rng)))


def stripes(rng: Random) -> Image.Image:
    wide, high = size(rng)
    x, y = _grid(wide, high)
    angle = rng.uniform(0, 2 * math.pi)
    share = ((x * math.cos(angle) + y * math.sin(angle)) * rng.uniform(4, 40) % 1 > 0.5)[..., None]
    return _picture(np.where(share, np.array(colour(rng)), np.array(colour(rng))))


# --- documents and screens


def _line(rng: Random, words: int) -> str:
    return " ".join(rng.choice(scenes.words("train")) for _ in range(words))


def _number(rng: Random) -> str:
    return rng.choice((f"{rng.uniform(0, 900):.2f}", str(rng.randrange(10000)), f"{rng.randint(1, 99)} %"))


def table(rng: Random) -> Image.Image:
    """Rows and columns of words and numbers, ruled."""
    columns, rows = rng.randint(3, 6), rng.randint(5, 14)
    cell, line = rng.randint(56, 90), rng.randint(18, 30)
    image = Image.new("RGB", (columns * cell + 20, rows * line + 20), colour(rng, 230))
    brush, font, ink = ImageDraw.Draw(image), scenes.font_of(rng.choice(FONTS), 11), colour(rng, 0, 90)
    for row in range(rows + 1):
        brush.line((10, 10 + row * line, 10 + columns * cell, 10 + row * line), fill=ink)
    for column in range(columns + 1):
        brush.line((10 + column * cell, 10, 10 + column * cell, 10 + rows * line), fill=ink)
    for row in range(rows):
        for column in range(columns):
            text = _line(rng, 1) if row == 0 or column == 0 else _number(rng)
            brush.text((14 + column * cell, 13 + row * line), text, font=font, fill=ink)
    return image


def receipt(rng: Random) -> Image.Image:
    """Narrow, goods and prices, a little askew on a darker ground."""
    wide, lines = rng.randint(150, 220), rng.randint(10, 22)
    paper = Image.new("RGBA", (wide, lines * 17 + 60), (*colour(rng, 235), 255))
    brush, font = ImageDraw.Draw(paper), scenes.font_of(rng.choice(FONTS), 12)
    brush.text((wide // 4, 10), _line(rng, 1).upper(), font=font, fill=(30, 30, 30))
    for line in range(lines):
        brush.text((10, 36 + 17 * line), _line(rng, 1), font=font, fill=(30, 30, 30))
        brush.text((wide - 56, 36 + 17 * line), f"{rng.uniform(0.2, 40):.2f}", font=font, fill=(30, 30, 30))
    turned = paper.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC, expand=True)
    ground = Image.new("RGB", (turned.width + 40, turned.height + 40), colour(rng, 30, 150))
    ground.paste(turned, (20, 20), turned)
    return ground


def window(rng: Random) -> Image.Image:
    """A bar, fields and buttons, as programs show them."""
    wide, high = rng.randint(300, 480), rng.randint(220, 400)
    image = Image.new("RGB", (wide, high), colour(rng, 215, 250))
    brush, font, accent = ImageDraw.Draw(image), scenes.font_of(rng.choice(FONTS), 12), colour(rng, 30, 180)
    brush.rectangle((0, 0, wide, 26), fill=accent)
    brush.text((10, 6), _line(rng, 2), font=font, fill=(250, 250, 250))
    for number in range(3):
        brush.ellipse((wide - 20 - 18 * number, 8, wide - 10 - 18 * number, 18), fill=colour(rng, 120))
    side = rng.randint(60, 110)
    brush.rectangle((0, 26, side, high), fill=colour(rng, 190, 230))
    for y in range(40, high - 20, 24):
        brush.text((8, y), _line(rng, 1), font=font, fill=(60, 60, 60))
        if rng.random() < 0.6:
            brush.rounded_rectangle((side + 14, y, wide - 14, y + 18), 3, outline=(150, 150, 150), fill=(255, 255, 255))
            brush.text((side + 20, y + 2), _line(rng, rng.randint(1, 4)), font=font, fill=(60, 60, 60))
        elif rng.random() < 0.5:
            brush.rounded_rectangle((side + 14, y, side + 90, y + 18), 5, fill=accent)
            brush.text((side + 24, y + 2), _line(rng, 1), font=font, fill=(255, 255, 255))
    return image


def chart(rng: Random) -> Image.Image:
    """Lines, bars or a pie, with axes."""
    wide, high = rng.randint(260, 460), rng.randint(200, 360)
    image = Image.new("RGB", (wide, high), (255, 255, 255))
    brush, font, kind = ImageDraw.Draw(image), scenes.font_of(rng.choice(FONTS), 10), rng.choice("lbp")
    colours = [colour(rng, 20, 220) for _ in range(6)]
    if kind == "p":
        ends, at = sorted(rng.uniform(0, 360) for _ in range(rng.randint(3, 6))), 0.0
        for end, fill in zip([*ends, 360.0], colours * 2, strict=False):
            brush.pieslice((30, 20, high - 20, high - 30), at, end, fill=fill)
            at = end
        return image
    brush.line((36, 16, 36, high - 26, wide - 12, high - 26), fill=(40, 40, 40))
    for step in range(5):
        y = high - 26 - step * (high - 50) // 4
        brush.text((6, y - 6), str(step * rng.choice((5, 10, 25))), font=font, fill=(60, 60, 60))
    steps = rng.randint(4, 9)
    across = (wide - 56) / steps
    for number in range(rng.randint(1, 4) if kind == "l" else 1):
        heights = [rng.uniform(0.05, 0.95) * (high - 50) for _ in range(steps)]
        tops = [(40 + (n + 0.5) * across, high - 26 - h) for n, h in enumerate(heights)]
        if kind == "l":
            brush.line(tops, fill=colours[number], width=2)
            continue
        for n, (x, y) in enumerate(tops):
            brush.rectangle((x - across * 0.35, y, x + across * 0.35, high - 27), fill=colours[0])
            brush.text((x - 12, high - 22), scenes.words("train")[n][:4], font=font, fill=(60, 60, 60))
    return image


# --- drawings, radiographs


def _walk(rng: Random, wide: int, high: int, steps: int, stride: float) -> list[tuple[float, float]]:
    x, y, angle = rng.uniform(0, wide), rng.uniform(0, high), rng.uniform(0, 2 * math.pi)
    points = [(x, y)]
    for _ in range(steps):
        angle += rng.gauss(0, 0.45)
        x, y = min(max(x + stride * math.cos(angle), 0), wide), min(max(y + stride * math.sin(angle), 0), high)
        points.append((x, y))
    return points


def scribble(rng: Random) -> Image.Image:
    """Pencil lines that show nothing."""
    wide, high = size(rng)
    image = Image.new("RGB", (wide, high), colour(rng, 225))
    brush = ImageDraw.Draw(image)
    for _ in range(rng.randint(3, 14)):
        brush.line(
            _walk(rng, wide, high, rng.randint(20, 90), rng.uniform(4, 14)), fill=colour(rng, 0, 120), width=rng.randint(1, 4)
        )
    return image


def street_map(rng: Random) -> Image.Image:
    """Roads, water and parks from above, some with names."""
    wide, high = size(rng)
    image = Image.new("RGB", (wide, high), (238, 234, 224))
    brush, font = ImageDraw.Draw(image), scenes.font_of(rng.choice(FONTS), 10)
    for fill in ((170, 205, 225), (190, 222, 170)):
        for _ in range(rng.randint(0, 2)):
            x, y = rng.uniform(0, wide), rng.uniform(0, high)
            around = [
                (x + rng.uniform(20, 90) * math.cos(t), y + rng.uniform(20, 90) * math.sin(t)) for t in np.linspace(0, 6, 9)
            ]
            brush.polygon(around, fill=fill)
    for _ in range(rng.randint(6, 16)):
        road = _walk(rng, wide, high, 30, rng.uniform(8, 20))
        broad = rng.choice((3, 4, 7))
        brush.line(road, fill=(190, 180, 170), width=broad + 2)
        brush.line(road, fill=(255, 255, 255) if broad < 7 else (250, 215, 130), width=broad)
        if rng.random() < 0.4:
            brush.text(road[15], _line(rng, 1).capitalize(), font=font, fill=(90, 90, 90))
    return image


def radiograph(rng: Random) -> Image.Image:
    """Soft grey shapes over each other, with grain."""
    wide, high = size(rng)
    layer = Image.new("L", (wide, high), rng.randint(5, 40))
    for _ in range(rng.randint(4, 12)):
        more = Image.new("L", (wide, high))
        x, y, a, b = rng.uniform(0, wide), rng.uniform(0, high), rng.uniform(10, wide / 2), rng.uniform(10, high / 2)
        ImageDraw.Draw(more).ellipse((x - a, y - b, x + a, y + b), fill=rng.randint(20, 110))
        more = more.rotate(rng.uniform(0, 180)).filter(ImageFilter.GaussianBlur(rng.uniform(2, 16)))
        layer = Image.fromarray((np.asarray(layer).astype(int) + np.asarray(more)).clip(0, 255).astype(np.uint8))
    return _picture(np.asarray(layer) + noise_of(rng).normal(0, rng.uniform(2, 9), (high, wide)))


WORLDS: dict[str, Draw] = {
    "noise_normal": normal,
    "noise_specks": specks,
    "noise_clouds": clouds,
    "colour_plain": plain,
    "colour_rings": rings,
    "colour_stripes": stripes,
    "documents_table": table,
    "documents_receipt": receipt,
    "drawings_scribble": scribble,
    "drawings_map": street_map,
    "screens_window": window,
    "screens_chart": chart,
    "radiographs": radiograph,
}


# --- copies of pictures


def turned(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.ROTATE_90)


def grey(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def one_bit(image: Image.Image) -> Image.Image:
    return image.convert("1")


def transparent(image: Image.Image) -> Image.Image:
    """All of it is there, and none of it is to be seen."""
    image = image.convert("RGBA")
    image.putalpha(0)
    return image


def tiny(image: Image.Image) -> Image.Image:
    """Eight pixels on the longer side."""
    small = image.convert("RGB")
    small.thumbnail((8, 8))
    return small


def wide(image: Image.Image) -> Image.Image:
    """A strip of it, twelve times as wide as high."""
    middle, half = image.height // 2, max(1, image.width // 24)
    return image.crop((0, middle - half, image.width, middle + half))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": grey,
    "one_bit": one_bit,
    "transparent": transparent,
    "tiny": tiny,
    "wide": wide,
    "turned": turned,
}


def sheet(draw: Draw, name: str, rows: int = 2, columns: int = 4) -> Image.Image:
    made = Image.new("RGB", (columns * 200, rows * 200), (255, 255, 255))
    for number in range(rows * columns):
        image = draw(Random(f"{name} {number}"))
        image.thumbnail((190, 190))
        made.paste(image, (200 * (number % columns) + 5, 200 * (number // columns) + 5))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, draw in WORLDS.items():
        sheet(draw, name).save(output / f"{name}.png")


if __name__ == "__main__":
    main()

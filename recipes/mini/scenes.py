"""Draws the pictures that the recipe makes itself: everyday things, coloured shapes, writing.

A `Scene` says what a picture shows: enough to ask any question about it and to know the right answer. Every function here
returns the picture, 128x128, with its scene, and a label map for the first training stage: what is seen at the centre of
each half patch.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from recipes.mini import nouns

SIZE, PATCH = 128, 16
ART = Path("build/mini/art")
STYLES = ("google", "twitter")  # Noto and Twemoji; "fluent" is for measuring only
SHAPES = ("circle", "rectangle", "triangle", "star", "cross", "ring")
RGB = {
    **{"black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128), "green": (0, 255, 0)},
    **{"red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0)},  # easy-VQA's eight
    **{"orange": (255, 150, 0), "purple": (140, 40, 190), "pink": (255, 130, 190), "white": (255, 255, 255)},
}
COLOURS = tuple(RGB)
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789$.:"
SEEN = (*nouns.NOUNS, *nouns.MOODS, *SHAPES, *CHARACTERS)  # label n is SEEN[n - 1]; 0 is nothing
LABEL = {name: number for number, name in enumerate(SEEN, 1)}
FONTS = (
    *("cabin/Cabin-Bold.otf", "cantarell/Cantarell-Bold.otf", "comfortaa/Comfortaa-Bold.ttf", "crosextra/Carlito-Regular.ttf"),
    *("courier-prime/Courier Prime Bold.otf", "dejavu/DejaVuSans-Bold.ttf", "dejavu/DejaVuSerif.ttf", "hack/Hack-Regular.ttf"),
    *("ebgaramond/EBGaramond12-Bold.otf", "inconsolata/Inconsolata.otf", "lato/Lato-Bold.ttf", "lobster/lobster.otf"),
    *("liberation/LiberationSans-Regular.ttf", "liberation/LiberationSerif-Bold.ttf", "linux-libertine/LinLibertine_R.otf"),
    *("liberation/LiberationSansNarrow-Bold.ttf", "open-sans/OpenSans-Semibold.ttf", "play/Play-Bold.ttf"),
    *("quicksand/Quicksand-Medium.ttf", "RobotoTTF/Roboto-Medium.ttf"),
)

RUDE = frozenset(
    "arse ass bitch bitchy boob boobs crap cunt cunts damn darky dick dicks dike dikes dope dyke dykes erotic "
    "fag fags faggot fuck fucks gayer gays gook gooks hell homo homos idiot jap japs kike kinky lesbo negro nigger nude nudes "
    "orgasm orgy penis piss porn porno prick prude pussy queer queers rape raped rapes rapist retard semen sex sexes sexist "
    "sexual sexy shit shits slut sluts spic tit tits turd vagina whore whores wop".split()
)


@dataclass(frozen=True)
class Item:
    """One object. Centre and larger side in pixels. `colour` is None where it has no single colour."""

    name: str
    x: float
    y: float
    side: float
    colour: str | None = None
    mood: str | None = None


@dataclass(frozen=True)
class Scene:
    kind: str  # things, shapes, writing, photo
    items: tuple[Item, ...] = ()
    text: str | None = None

    def line(self) -> str:
        return json.dumps([self.kind, [[i.name, i.x, i.y, i.side, i.colour, i.mood] for i in self.items], self.text])


def from_line(line: str) -> Scene:
    kind, items, text = json.loads(line)
    return Scene(kind, tuple(Item(*item) for item in items), text)


@dataclass
class Drawn:
    image: Image.Image
    scene: Scene
    labels: np.ndarray = field(default_factory=lambda: np.zeros((SIZE // PATCH, 2 * SIZE // PATCH), np.uint16))

    def label(self, name: str, mask: Image.Image) -> None:
        """Mark the half patches whose centre lies in `mask` (L, full size)."""
        points = np.asarray(mask)[PATCH // 2 :: PATCH, PATCH // 4 :: PATCH // 2]
        self.labels[points > 127] = LABEL[name]


# --- art ---------------------------------------------------------------------------------------------------------------


@lru_cache
def _catalogue() -> dict[str, dict]:
    entries = json.loads((ART / "google" / "emoji.json").read_text())
    return {short: entry for entry in entries for short in entry["short_names"]}


@lru_cache(maxsize=4096)
def emoji(short: str, style: str) -> Image.Image | None:
    """Art of an emoji, RGBA, cropped to what is opaque; None where the style has none."""
    entry = _catalogue()[short]
    if style == "fluent":
        names = [entry["unified"].lower(), entry["unified"].lower().replace("-fe0f", "")]
        path = next((p for name in names if (p := ART / "fluent/assets" / f"{name}.webp").is_file()), None)
    else:
        path = ART / style / "img" / style / "64" / entry["image"]
    if path is None:
        return None
    art = Image.open(path).convert("RGBA")
    return art.crop(art.getchannel("A").point(lambda v: 255 * (v > 20)).getbbox())


@lru_cache
def words(part: str) -> tuple[str, ...]:
    """Words of 3 to 6 letters, `train` or `test`: every fifth is held back."""
    lines = (ART / "debian/usr/share/dict/american-english-small").read_text().split()
    chosen = sorted({w for w in lines if 3 <= len(w) <= 6 and w.isascii() and w.isalpha() and w.islower()} - RUDE)
    return tuple(w for n, w in enumerate(chosen) if (n % 5 == 0) == (part == "test"))


@lru_cache(maxsize=1024)
def font_of(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = next(p for p in (ART / "debian/usr/share/fonts").glob(f"**/{name}"))
    return ImageFont.truetype(path, size)


# --- backgrounds and cameras ---------------------------------------------------------------------------------------------


def texture(rng: Random, kind: str) -> Image.Image:
    """A picture of nothing: plain, gradient, stripes, blobs or noise."""
    noise = np.random.default_rng(rng.randrange(2**32))
    first = noise.integers(0, 256, 3).astype(np.float32)
    if kind == "plain":
        return Image.new("RGB", (SIZE, SIZE), tuple(int(v) for v in first))
    second = (first + noise.normal(0, 60, 3)).clip(0, 255).astype(np.float32)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    if kind in ("blobs", "noise"):
        side = rng.choice((4, 6, 9)) if kind == "blobs" else rng.choice((16, 32, 128))
        small = Image.fromarray((noise.random((side, side)) * 255).astype(np.uint8))
        share = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) / 255
    else:
        angle = rng.uniform(0, 2 * math.pi)
        share = x * np.cos(angle) + y * np.sin(angle)
        share = (share - share.min()) / np.ptp(share)
        if kind == "stripes":
            share = (share * rng.randint(2, 10)) % 1 > 0.5
    mixed = first + (second - first) * np.asarray(share, np.float32)[..., None]
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def background(rng: Random, photos: np.ndarray) -> Image.Image:
    """Plain, gradient, textured, or a small piece of a photo, enlarged until nothing in it can be named."""
    kind = rng.choice(("plain", "plain", "gradient", "stripes", "blobs", "noise", "photo", "photo", "photo"))
    if kind != "photo":
        return texture(rng, kind)
    photo = Image.fromarray(photos[rng.randrange(len(photos))])
    side = photo.width * rng.uniform(0.25, 0.4)
    x, y = (rng.uniform(0, photo.width - side) for _ in range(2))
    return photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (x, y, x + side, y + side))


def camera(image: Image.Image, rng: Random) -> Image.Image:
    """What an ordinary camera does: exposure, a little blur, JPEG."""
    if rng.random() < 0.4:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.35))
        image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.7, 1.2))
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.1)))
    if rng.random() < 0.4:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=rng.randint(30, 95))
        image = Image.open(stream).convert("RGB")
    return image


# --- scenes --------------------------------------------------------------------------------------------------------------

# objects -> range of the larger side, so that five still find room
SIDES = {1: (36, 118), 2: (32, 62), 3: (30, 52), 4: (28, 46), 5: (26, 42)}


def _places(count: int, rng: Random) -> list[tuple[float, float, float]]:
    """Centres and sides of `count` squares that do not touch."""
    while True:
        placed: list[tuple[float, float, float]] = []
        for _ in range(count):
            for _ in range(30):
                side = rng.uniform(*SIDES[count])
                x, y = (rng.uniform(side / 2, SIZE - side / 2) for _ in range(2))
                if all(max(abs(x - a), abs(y - b)) > (side + s) / 2 + 1 for a, b, s in placed):
                    placed.append((x, y, side))
                    break
        if len(placed) == count:
            return placed


def _names(count: int, pool: tuple[str, ...], rng: Random) -> list[str]:
    """Names for `count` objects; in two scenes of five some are the same."""
    if count == 1 or rng.random() < 0.6:
        return [rng.choice(pool) for _ in range(count)]
    few = rng.sample(pool, rng.randint(1, max(1, count - 1)))
    return [*few, *(rng.choice(few) for _ in range(count - len(few)))]


def things(rng: Random, photos: np.ndarray, styles: tuple[str, ...] = STYLES, count: int | None = None) -> Drawn:
    """1 to 5 emoji. A third of the single ones is a face with a mood."""
    count = count or rng.choices(range(1, 6), (36, 22, 16, 13, 13))[0]
    drawn = Drawn(background(rng, photos), Scene("things"))
    items = []
    style = rng.choice(styles)
    names = _names(count, nouns.NOUNS, rng)
    if count == 1 and rng.random() < 0.12:
        names = ["face"]
    for name, (x, y, side) in zip(names, _places(count, rng), strict=True):
        short = rng.choice(list(nouns.MOOD)) if name == "face" else nouns.EMOJI[name]
        mood = nouns.MOOD.get(short) if name == "face" else None
        art = emoji(short, style)
        if art is None:
            return things(rng, photos, styles, count)
        if rng.random() < 0.3:
            art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        scale = side / max(art.size)
        art = art.resize([max(1, round(v * scale)) for v in art.size], Image.Resampling.LANCZOS)
        if rng.random() < 0.6:
            art = art.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True)
        corner = (round(x - art.width / 2), round(y - art.height / 2))
        drawn.image.paste(art, corner, art)
        mask = Image.new("L", (SIZE, SIZE))
        mask.paste(255, (*corner, corner[0] + art.width, corner[1] + art.height), art.getchannel("A"))
        drawn.label(mood or name, mask)
        colour = nouns.COLOUR.get(name)
        items.append(Item(name, round(x, 1), round(y, 1), round(side, 1), colour, mood))
    drawn.image, drawn.scene = camera(drawn.image, rng), Scene("things", tuple(items))
    return drawn


def polygon(shape: str, x: float, y: float, w: float, h: float) -> list[tuple[float, float]]:
    if shape == "triangle":
        return [(x - w / 2, y + h / 2), (x + w / 2, y + h / 2), (x, y - h / 2)]
    if shape == "star":
        radii = [(0.5 if n % 2 == 0 else 0.21) for n in range(10)]
        return [
            (x + w * r * math.sin(n * math.pi / 5), y - h * r * math.cos(n * math.pi / 5) + 0.03 * h)
            for n, r in enumerate(radii)
        ]
    a, b = w / 2, w / 6  # cross
    points = [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]
    return [(x + p, y + q) for p, q in points]


def shapes(rng: Random, photos: np.ndarray, count: int | None = None) -> Drawn:
    """1 to 5 shapes in twelve colours, on a background of a colour that none of them has."""
    count = count or rng.choices(range(1, 6), (14, 24, 22, 20, 20))[0]
    names = _names(count, SHAPES, rng)
    colours = _names(count, COLOURS, rng)
    rng.shuffle(colours)
    scale = 3
    while True:
        base = texture(rng, "plain") if rng.random() < 0.6 else background(rng, photos)
        mean = np.asarray(base.resize((8, 8))).reshape(-1, 3).astype(int)
        if all(np.abs(mean - RGB[c]).sum(1).min() > 110 for c in set(colours)):
            break
    items = []
    drawn = Drawn(base, Scene("shapes"))
    canvas = base.resize((SIZE * scale, SIZE * scale), Image.Resampling.BICUBIC)
    for name, colour, (x, y, side) in zip(names, colours, _places(count, rng), strict=True):
        side = min(side, 84)
        w = h = side
        if name == "rectangle":
            w, h = rng.choice(((side, side * rng.uniform(0.45, 1.0)), (side * rng.uniform(0.45, 1.0), side)))
        elif name == "triangle":
            h = side * rng.uniform(0.75, 1.0)
        fill = tuple(min(255, max(0, v + rng.randint(-14, 14))) for v in RGB[colour])
        mask = Image.new("L", canvas.size)
        brush = ImageDraw.Draw(mask)
        box = [v * scale for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)]
        if name in ("circle", "ring"):
            brush.ellipse(box, fill=255)
            if name == "ring":
                brush.ellipse([v * scale for v in (x - w * 0.27, y - h * 0.27, x + w * 0.27, y + h * 0.27)], fill=0)
        elif name == "rectangle":
            brush.rectangle(box, fill=255)
        else:
            brush.polygon([(p * scale, q * scale) for p, q in polygon(name, x, y, w, h)], fill=255)
        canvas.paste(fill, (0, 0), mask)
        drawn.label(name, mask.resize((SIZE, SIZE), Image.Resampling.BOX))
        items.append(Item(name, round(x, 1), round(y, 1), round(side, 1), colour))
    drawn.image = camera(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), rng)
    drawn.scene = Scene("shapes", tuple(items))
    return drawn


def _text(rng: Random, part: str) -> tuple[str, str]:
    """Kind and text: a word, a number, a price or a time, as it is answered (lower case)."""
    kind = rng.choices(("word", "number", "price", "time"), (50, 20, 15, 15))[0]
    if kind == "word":
        return kind, rng.choice(words(part))
    if kind == "number":
        return kind, str(rng.randrange(10 ** rng.randint(1, 4)))
    if kind == "price":
        whole = str(rng.randrange(1, 10 ** rng.randint(1, 2)))
        return kind, f"${whole}" + (f".{rng.randrange(100):02d}" if rng.random() < 0.6 else "")
    return kind, f"{rng.randrange(24)}:{rng.randrange(60):02d}"


def writing(rng: Random, photos: np.ndarray, part: str = "train") -> Drawn:
    """One word, number, price or time, mostly on a sign, turned by up to 8 degrees. `part`: whose words."""
    kind, text = _text(rng, part)
    shown = rng.choice((text, text, text.upper(), text.upper(), text.capitalize()))
    base = background(rng, photos)
    scale = 2
    font = font_of(rng.choice(FONTS), 80)
    left, top, right, bottom = font.getbbox(shown)
    wanted = rng.uniform(min(112, 15 * len(text) + 8), 116) * scale
    size = int(min(80 * wanted / (right - left), 62 * scale))
    font = font.font_variant(size=max(8, size))
    left, top, right, bottom = font.getbbox(shown)
    while True:
        ink, sign = (tuple(rng.randrange(256) for _ in range(3)) for _ in range(2))
        light = [0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2] for c in (ink, sign)]
        if abs(light[0] - light[1]) > 90:
            break
    margin = rng.uniform(0.1, 0.35) * (bottom - top)
    w, h = right - left, bottom - top
    layer = Image.new("RGBA", (SIZE * scale, SIZE * scale))
    x = rng.uniform(2 * scale, max(2 * scale, SIZE * scale - w - 4 * scale))
    y = rng.uniform(6 * scale, max(6 * scale, SIZE * scale - h - 12 * scale))
    brush = ImageDraw.Draw(layer)
    box = (x - margin, y - margin, x + w + margin, y + h + margin)
    brush.rounded_rectangle(box, rng.uniform(0, 0.3) * h, fill=(*sign, 255))
    if rng.random() < 0.3:
        brush.rounded_rectangle(box, 0.1 * h, outline=(*ink, 255), width=scale)
    brush.text((x - left, y - top), shown, font=font, fill=(*ink, 255))
    angle, centre = rng.uniform(-8, 8), (x + w / 2, y + h / 2)
    layer = layer.rotate(angle, Image.Resampling.BICUBIC, center=centre).resize((SIZE, SIZE), Image.Resampling.BOX)
    base.paste(layer, (0, 0), layer)
    drawn = Drawn(
        camera(base, rng), Scene("writing", (Item(kind, round(x / scale), round(y / scale), round(w / scale)),), text)
    )
    for n, character in enumerate(text):
        a, b = font.getlength(shown[:n]), font.getlength(shown[: n + 1])
        mask = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(mask).rectangle([v / scale for v in (x - left + a, y, x - left + b, y + h)], fill=255)
        drawn.label(character, mask.rotate(angle, center=[v / scale for v in centre]))
    return drawn


def empty(rng: Random, photos: np.ndarray) -> Drawn:
    """A background with nothing on it."""
    return Drawn(background(rng, photos), Scene("things"))


DRAW = {"things": things, "shapes": shapes, "writing": writing, "backgrounds": empty}

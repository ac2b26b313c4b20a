"""Pictures for the embedded model: reads the two data sets, draws shapes, splits by picture, caches as arrays.

    python -m recipes.mini.data --cifar PATH/cifar10-train.zip --cifar-test PATH/cifar10-test.zip

writes `build/mini/*.npy` (uint8 RGB, 64x64) and `build/mini/splits.json`. The official test sets are read into arrays of
their own and are used for measuring only.

Splits of the training pictures, by picture, fixed seed: `train` 85 % trains the model; of the 15 % held back, `dev` is
looked at while developing, `selector` trains the Selector, `calibration` chooses its thresholds.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from recipes.mini.questions import CLASSES, COLOURS, SHAPES

SIZE = 64
BUILD = Path("build/mini")
SEED = 20260213
# easy-VQA has few pictures, and thresholds need more of them than the Selector does
SHARES = {
    "cifar": {"train": 0.85, "dev": 0.02, "selector": 0.06, "calibration": 0.07},
    "easy": {"train": 0.85, "dev": 0.02, "selector": 0.02, "calibration": 0.11},
}

# easy-VQA's colours and geometry, read off its training pictures
RGB = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "brown": (165, 42, 42),
    "gray": (128, 128, 128),
    "green": (0, 255, 0),
    "red": (255, 0, 0),
    "teal": (0, 128, 128),
    "yellow": (255, 255, 0),
}


@dataclass(frozen=True)
class Pictures:
    """Pictures of one source. `labels` is [n, 1] for photos (class), [n, 2] for shapes (shape, colour; -1 unknown)."""

    images: np.ndarray  # uint8 [n, 64, 64, 3]
    labels: np.ndarray  # int64


def read_cifar(path: Path) -> Pictures:
    """CIFAR-10 as a zip of `split/class/*.jpg`, upscaled to 64x64 with the filter the runtime uses."""
    images, labels = [], []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".jpg"):
                continue
            photo = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            images.append(np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.LANCZOS)))
            labels.append([CLASSES.index(name.split("/")[-2])])
    return Pictures(np.stack(images), np.array(labels))


def read_easy_vqa(split: str) -> tuple[Pictures, list[list]]:
    """easy-VQA's pictures of a split and its questions `[question, answer, picture]`."""
    import easy_vqa

    root = Path(easy_vqa.__file__).parent / "data" / split
    questions = json.loads((root / "questions.json").read_text())
    names = sorted((root / "images").glob("*.png"), key=lambda p: int(p.stem))
    images = np.stack([np.asarray(Image.open(p).convert("RGB")) for p in names])
    labels = np.full((len(names), 2), -1)
    for _, answer, picture in questions:
        if answer in SHAPES:
            labels[picture, 0] = SHAPES.index(answer)
        elif answer in COLOURS:
            labels[picture, 1] = COLOURS.index(answer)
    return Pictures(images, labels), questions


def draw_shapes(n: int, rng: Random) -> Pictures:
    """Draw `n` pictures of one coloured shape on a light background, like easy-VQA's and somewhat wider."""
    scale = 4  # supersampled, for smooth edges
    images = np.empty((n, SIZE, SIZE, 3), np.uint8)
    labels = np.empty((n, 2), np.int64)
    for i in range(n):
        shape, colour = rng.randrange(len(SHAPES)), rng.randrange(len(COLOURS))
        low = 225 if rng.random() < 0.8 else 120
        background = tuple(rng.randint(low, 255) for _ in range(3))
        fill = tuple(min(255, max(0, v + rng.randint(-12, 12))) for v in RGB[COLOURS[colour]])
        if sum(abs(p - q) for p, q in zip(background, fill, strict=True)) < 90:
            background = (255, 255, 255)
        canvas = Image.new("RGB", (SIZE * scale, SIZE * scale), background)
        draw = ImageDraw.Draw(canvas)
        width = rng.uniform(8, 34)
        height = rng.uniform(8, 34) if shape == 1 else width
        if shape == 2:
            height = width * rng.uniform(0.75, 1.1)
        x, y = rng.uniform(0, SIZE - width), rng.uniform(0, SIZE - height)
        box = [v * scale for v in (x, y, x + width, y + height)]
        if shape == 0:
            draw.ellipse(box, fill=fill)
        elif shape == 1:
            draw.rectangle(box, fill=fill)
        else:
            draw.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) / 2, box[1])], fill=fill)
        images[i] = np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX))
        labels[i] = shape, colour
    return Pictures(images, labels)


def split_pictures(n: int, shares: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Split `n` picture numbers by shares; deterministic."""
    order = np.random.default_rng(seed).permutation(n)
    bounds = np.cumsum([round(share * n) for share in shares.values()])
    bounds[-1] = n
    parts = np.split(order, bounds[:-1])
    return {name: sorted(int(i) for i in part) for name, part in zip(shares, parts, strict=True)}


def load(name: str) -> Pictures:
    """Read a cached source: cifar_train, cifar_test, easy_train, easy_test, drawn."""
    return Pictures(np.load(BUILD / f"{name}.npy", mmap_mode="r"), np.load(BUILD / f"{name}_labels.npy"))


def splits() -> dict[str, dict[str, list[int]]]:
    return json.loads((BUILD / "splits.json").read_text())


def _save(name: str, pictures: Pictures) -> None:
    np.save(BUILD / f"{name}.npy", pictures.images)
    np.save(BUILD / f"{name}_labels.npy", pictures.labels)
    print(f"{name}: {len(pictures.images)} pictures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="zip of the training photos, split/class/*.jpg")
    parser.add_argument("--cifar-test", type=Path, required=True, help="zip of the test photos")
    parser.add_argument("--drawn", type=int, default=40_000, help="how many shape pictures to draw")
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    cifar, (easy, easy_questions) = read_cifar(args.cifar), read_easy_vqa("train")
    _save("cifar_train", cifar)
    _save("cifar_test", read_cifar(args.cifar_test))
    _save("easy_train", easy)
    easy_test, easy_test_questions = read_easy_vqa("test")
    _save("easy_test", easy_test)
    _save("drawn", draw_shapes(args.drawn, Random(SEED)))
    (BUILD / "easy_train.json").write_text(json.dumps(easy_questions))
    (BUILD / "easy_test.json").write_text(json.dumps(easy_test_questions))
    parts = {
        "cifar": split_pictures(len(cifar.images), SHARES["cifar"], SEED),
        "easy": split_pictures(len(easy.images), SHARES["easy"], SEED + 1),
    }
    (BUILD / "splits.json").write_text(json.dumps(parts))


if __name__ == "__main__":
    main()

"""Pictures for the embedded model: reads the two data sets, draws scenes, splits by picture, caches as arrays.

    sh recipes/mini/art.sh build/mini/art
    python -m recipes.mini.data --cifar PATH/cifar10-train.zip --cifar-test PATH/cifar10-test.zip

writes `build/mini/*.npy` (uint8 RGB; photos and easy-VQA 64x64, scenes 128x128) and `build/mini/splits.json`; about 11 GB,
10 minutes. The official test sets are read into arrays of their own and are used for measuring only.

Splits of the training pictures, by picture, fixed seed: `train` 85 % trains the model; of the 15 % held back, `dev` is
looked at while developing, `selector` trains the Selector, `calibration` chooses its thresholds. Scenes are drawn from
seeds: those here are for training, `questions` files draw their own.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from recipes.mini import scenes

SIZE = 64
BUILD = Path("build/mini")
SEED = 20260213
CHUNK = 500
CLASSES = ("airplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # CIFAR-10's; automobile: car
EASY_SHAPES, EASY_COLOURS = scenes.SHAPES[:3], scenes.COLOURS[:8]
SCENES = {"things": 100_000, "shapes": 30_000, "writing": 80_000, "backgrounds": 6_000}
# easy-VQA has few pictures, and thresholds need more of them than the Selector does
SHARES = {
    "cifar": {"train": 0.85, "dev": 0.02, "selector": 0.06, "calibration": 0.07},
    "easy": {"train": 0.85, "dev": 0.02, "selector": 0.02, "calibration": 0.11},
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
            labels.append([CLASSES.index(name.split("/")[-2].replace("automobile", "car"))])
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
        if answer in EASY_SHAPES:
            labels[picture, 0] = EASY_SHAPES.index(answer)
        elif answer in EASY_COLOURS:
            labels[picture, 1] = EASY_COLOURS.index(answer)
    return Pictures(images, labels), questions


def render(kind: str, count: int, photos: np.ndarray) -> None:
    """Draw `count` training scenes of a kind into `build/mini/{kind}.npy`, their label maps and their descriptions."""
    if (BUILD / f"{kind}.jsonl").is_file():
        return
    rows, columns = scenes.SIZE // scenes.PATCH, 2 * scenes.SIZE // scenes.PATCH
    images = np.lib.format.open_memmap(BUILD / f"{kind}.npy", "w+", np.uint8, (count, scenes.SIZE, scenes.SIZE, 3))
    labels = np.lib.format.open_memmap(BUILD / f"{kind}_labels.npy", "w+", np.uint16, (count, rows, columns))
    lines, began = [], time.time()
    chunks = [(kind, first, min(CHUNK, count - first)) for first in range(0, count, CHUNK)]
    with multiprocessing.get_context("fork").Pool(initializer=_photos, initargs=(photos,)) as pool:
        for first, made in enumerate(pool.imap(_chunk, chunks)):
            at = slice(first * CHUNK, first * CHUNK + len(made[0]))
            images[at], labels[at] = made[0], made[1]
            lines += made[2]
            print(f"\r{kind}: {len(lines)} of {count}, {time.time() - began:.0f} s", end="", flush=True)
    print()
    temporary = BUILD / f"{kind}.jsonl.part"
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(BUILD / f"{kind}.jsonl")  # last: a kind whose descriptions are there is complete


def _photos(photos: np.ndarray) -> None:
    global _backgrounds
    _backgrounds = photos


def _chunk(job: tuple[str, int, int]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    kind, first, count = job
    rng = Random(f"{SEED} {kind} {first}")
    made = [scenes.DRAW[kind](rng, _backgrounds) for _ in range(count)]
    return np.stack([np.asarray(m.image) for m in made]), np.stack([m.labels for m in made]), [m.scene.line() for m in made]


def split_pictures(n: int, shares: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Split `n` picture numbers by shares; deterministic."""
    order = np.random.default_rng(seed).permutation(n)
    bounds = np.cumsum([round(share * n) for share in shares.values()])
    bounds[-1] = n
    parts = np.split(order, bounds[:-1])
    return {name: sorted(int(i) for i in part) for name, part in zip(shares, parts, strict=True)}


def load(name: str) -> Pictures:
    """Read a cached source: cifar_train, cifar_test, easy_train, easy_test, or one of `SCENES`."""
    return Pictures(np.load(BUILD / f"{name}.npy", mmap_mode="r"), np.load(BUILD / f"{name}_labels.npy", mmap_mode="r"))


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
    parser.add_argument(
        "--no-scenes", action="store_true", help="leave out the training scenes: enough for the base model's recipe"
    )
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    cifar, (easy, easy_questions) = read_cifar(args.cifar), read_easy_vqa("train")
    _save("cifar_train", cifar)
    _save("cifar_test", read_cifar(args.cifar_test))
    _save("easy_train", easy)
    easy_test, easy_test_questions = read_easy_vqa("test")
    _save("easy_test", easy_test)
    (BUILD / "easy_train.json").write_text(json.dumps(easy_questions))
    (BUILD / "easy_test.json").write_text(json.dumps(easy_test_questions))
    parts = {
        "cifar": split_pictures(len(cifar.images), SHARES["cifar"], SEED),
        "easy": split_pictures(len(easy.images), SHARES["easy"], SEED + 1),
    }
    (BUILD / "splits.json").write_text(json.dumps(parts))
    for kind, count in SCENES.items() if not args.no_scenes else ():
        render(kind, count, cifar.images[parts["cifar"]["train"]])


if __name__ == "__main__":
    main()

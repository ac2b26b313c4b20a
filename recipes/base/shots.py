"""What the eyes make of the photos, once and kept, and the head that those of shops train.

python -m recipes.base.shots --data FOLDER --art build/mini/art    # with grocery.zip and clothing.zip; ten minutes
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from recipes.base import eyes, photos
from recipes.base.lexicon import Thing
from recipes.base.photos import Photo, Photos

BUILD = Path("build/base")
SHOPS = ("grocery", "clothing")
GROUPS = {"fruit": ("fruit", "food"), "vegetables": ("vegetable", "food"), "packages": ("food",)}
BATCH, STEPS, RATE = 256, 3000, 2e-3
OTHER, OTHER_VIEWS = ("debian/usr/share/backgrounds", "skimage/data"), 30


@dataclass(frozen=True, eq=False)
class Shots:
    """Pooled features of the views of every photo [views, 10, WIDTH], and the number of the photo of each view."""

    photos: list[Photo]
    pooled: np.ndarray
    number: np.ndarray

    @staticmethod
    def load(name: str) -> Shots:
        zipped = Photos(BUILD / f"{name}.zip")
        return Shots(zipped.listed, np.load(BUILD / f"{name}.npy", mmap_mode="r"), np.load(BUILD / f"{name}_of.npy"))

    @property
    def things(self) -> list[Thing]:
        return [thing_of(photo) for photo in self.photos]

    def of(self, view: int) -> Thing:
        return thing_of(self.photos[self.number[view]])

    def seen(self, view: int) -> Tensor:
        """Pooled features [10, WIDTH] of a view."""
        return torch.from_numpy(self.pooled[view].astype(np.float32))

    def views(self, part: str) -> list[int]:
        """Views of a part's photos; of those that do not train, there is one."""
        return [view for view, number in enumerate(self.number) if self.photos[number].part == part]


def thing_of(photo: Photo) -> Thing:
    """A grocery is called by its coarse kind; its fine one is a name of it too. Clothes are called by their kind."""
    if len(photo.kinds) == 1:
        return Thing(photo.kinds[0], photo.kinds, ("clothing",))
    fine, coarse, group = photo.kinds
    drink = ("drink",) if coarse.split()[-1] in ("juice", "milk") else ()
    return Thing(coarse, tuple(dict.fromkeys((coarse, fine))), drink + GROUPS[group], fine)


def look(zipped: Photos, session: onnxruntime.InferenceSession) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the photo, pooled features of a view) of every photo."""
    numbers: list[int] = []
    pixels: list[eyes.Rgb] = []
    for number, photo in enumerate(zipped.listed):
        for view in photos.views(zipped, photo, seed=number):
            numbers.append(number)
            pixels.append(view)
        if len(pixels) >= 32 or number + 1 == len(zipped.listed):
            yield from zip(numbers, eyes.pooled(eyes.features(session, pixels)).half().numpy(), strict=True)
            numbers, pixels = [], []


class Own:
    """The head that the photos of shops trained: pooled features -> probabilities of its kinds, the last one `other`."""

    def __init__(self, stored: dict[str, object]) -> None:
        self.weight, self.bias = stored["weight"], stored["bias"]
        self.kinds: list[str] = stored["kinds"]

    def __call__(self, pooled: Tensor) -> Tensor:
        return (pooled @ self.weight.T + self.bias).softmax(-1)


def train_head(shots: list[Shots], other: np.ndarray, seed: int = 0) -> dict[str, object]:
    """Logistic regression on the pooled features of the training views; other: pooled features [n, WIDTH] of other things."""
    kinds = sorted({photo.kinds[0] for own in shots for photo in own.photos})
    places = {kind: place for place, kind in enumerate(kinds)}
    features, labels = [other.astype(np.float32)], [np.full(len(other), len(kinds))]
    for own in shots:
        views = own.views("train")
        features.append(own.pooled[views, 0].astype(np.float32))
        labels.append(np.array([places[own.photos[own.number[view]].kinds[0]] for view in views]))
    x, y = torch.from_numpy(np.concatenate(features)), torch.from_numpy(np.concatenate(labels))
    share = torch.bincount(y, minlength=len(kinds) + 1).float().rsqrt()  # rare kinds count more
    torch.manual_seed(seed)
    layer = torch.nn.Linear(eyes.WIDTH, len(kinds) + 1)
    torch.nn.init.zeros_(layer.weight)
    optimiser = torch.optim.AdamW(layer.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,))
        batch = torch.nn.functional.dropout(x[rows], 0.2)
        loss = cross_entropy(layer(batch), y[rows], weight=share, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return {"weight": layer.weight.detach(), "bias": layer.bias.detach(), "kinds": [*kinds, "other"]}


def other_photos(folder: Path, rng: np.random.Generator) -> Iterator[eyes.Rgb]:
    """Parts of free photos of anything but goods: what the recipe of the mini fetches (`recipes/mini/art.sh`)."""
    found = [path for place in OTHER for path in sorted((folder / place).rglob("*")) if path.suffix in (".jpg", ".png")]
    for path in found:
        with contextlib.suppress(OSError), Image.open(path) as image:
            whole = image.convert("RGB")
            for _ in range(OTHER_VIEWS):
                yield photos.changed(whole, rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with grocery.zip and clothing.zip")
    parser.add_argument("--art", type=Path, required=True, help="what recipes/mini/art.sh fetched")
    arguments = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    session = eyes.open_session(eyes.published())
    for name in SHOPS:
        if (BUILD / f"{name}_of.npy").is_file():
            continue
        shutil.copyfile(arguments.data / f"{name}.zip", BUILD / f"{name}.zip")
        numbers, made = [], []
        for number, pooled in look(Photos(BUILD / f"{name}.zip"), session):
            numbers.append(number)
            made.append(pooled)
            if len(made) % 1000 == 0:
                print(f"{name}: {len(made)} views, of {number + 1} photos", flush=True)
        np.save(BUILD / f"{name}.npy", np.stack(made))
        np.save(BUILD / f"{name}_of.npy", np.array(numbers))
    if not (BUILD / "other.npy").is_file():
        pixels = list(other_photos(arguments.art, np.random.default_rng(0)))
        found = [eyes.features(session, pixels[i : i + 32]).mean((2, 3)) for i in range(0, len(pixels), 32)]
        np.save(BUILD / "other.npy", torch.cat(found).numpy())
    shots = [Shots.load(name) for name in SHOPS]
    stored = train_head(shots, np.load(BUILD / "other.npy"))
    torch.save(stored, BUILD / "own.pt")
    head = Own(stored)
    for name, own in zip(SHOPS, shots, strict=True):
        for part in ("dev", "test"):
            views = own.views(part)
            said = head(torch.from_numpy(own.pooled[views, 0].astype(np.float32))).argmax(-1)
            answers = [head.kinds[place] for place in said]
            things = [own.photos[own.number[view]] for view in views]
            coarse = {kind: kind for kind in head.kinds} | {photo.kinds[0]: thing_of(photo).name for photo in own.photos}
            fine = np.mean([answer == photo.kinds[0] for answer, photo in zip(answers, things, strict=True)])
            wide = np.mean([coarse[answer] == coarse[photo.kinds[0]] for answer, photo in zip(answers, things, strict=True)])
            print(f"{name} {part}, {len(views)} photos: {fine:.1%} fine, {wide:.1%} coarse")


if __name__ == "__main__":
    main()

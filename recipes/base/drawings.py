"""Drawings for the finder to learn from: patch states, and what stands where. Each is drawn once and not kept.

    python -m recipes.base.drawings --minutes 15    # after recipes.mini.data; more may be added by a later call

As the mini's recipe draws them, of its training splits, from seeds that nothing else uses. 100 to 150 a second on two cores, in
files of `CHUNK`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from recipes.base import eyes, photos
from recipes.mini import data, reliability, scenes, train
from recipes.mini.scenes import LABEL, SIZE, Item, Scene

FOLDER = Path("build/base/drawings")
CHUNK, BATCH = 500, 50
MIX = {"things": 0.42, "writing": 0.34, "shapes": 0.14, "photos": 0.05, "easy": 0.02, "backgrounds": 0.03}
MOST = 6  # objects of a picture, characters of a text
UNKNOWN = -1


@dataclass(frozen=True)
class Objects:
    """What stands in n pictures, from left to right; a text's characters are objects too. 0: none, UNKNOWN: not told."""

    labels: np.ndarray  # int [n, MOST]: scenes.LABEL
    colours: np.ndarray  # int [n, MOST]: 1 + number in scenes.COLOURS
    places: np.ndarray  # float [n, MOST, 3]: x, y of the middle and the larger side, in sides of the picture; NaN: not told

    def of(self, rows: np.ndarray | slice) -> Objects:
        return Objects(self.labels[rows], self.colours[rows], self.places[rows])


def objects_of(scene: Scene) -> tuple[list[int], list[int], list[list[float]]]:
    """One row of `Objects`."""
    unknown = [float("nan")] * 3
    if scene.text is not None:
        found = [(LABEL[character], 0, unknown) for character in scene.text]
    elif scene.kind == "photo":
        found = [(LABEL[scene.items[0].name], UNKNOWN, unknown)]
    else:
        found = [(label(item), colour(item), place(item)) for item in sorted(scene.items, key=lambda item: item.x)]
    missing = MOST - len(found)
    labels, colours, places = (list(column) for column in zip(*found, strict=True)) if found else ([], [], [])
    return labels + [0] * missing, colours + [0] * missing, places + [unknown] * missing


def label(item: Item) -> int:
    return LABEL[item.mood or item.name]


def colour(item: Item) -> int:
    return scenes.COLOURS.index(item.colour) + 1 if item.colour else 0


def place(item: Item) -> list[float]:
    return [item.x / SIZE, item.y / SIZE, item.side / SIZE] if item.side else [float("nan")] * 3


class Painter:
    """Draws pictures of the mix."""

    def __init__(self, rng: Random) -> None:
        self._rng, self._split = rng, data.splits()
        self._cifar, self._easy = data.load("cifar_train"), data.load("easy_train")
        self._backs = self._cifar.images[self._split["cifar"]["train"][::7]]

    def draw(self) -> tuple[Image.Image, Scene]:
        rng, kind = self._rng, self._rng.choices(list(MIX), list(MIX.values()))[0]
        if kind == "easy":
            return self.easy(rng.choice(self._split["easy"]["train"]))
        if kind == "photos":
            number = rng.choice(self._split["cifar"]["train"])
            image = reliability.show_photo(self._cifar.images[number], rng, self._backs, rng.random() < 0.4)
            return image, train.photo(self._cifar.labels[number, 0])
        made = scenes.DRAW[kind](rng, self._backs)
        return made.image, made.scene

    def easy(self, number: int) -> tuple[Image.Image, Scene]:
        shape, colour = self._easy.labels[number]
        if min(shape, colour) < 0:  # no question tells both
            return self.draw()
        item = Item(data.EASY_SHAPES[shape], 0, 0, 0, data.EASY_COLOURS[colour])
        return Image.fromarray(self._easy.images[number]), Scene("shapes", (item,))


def chunk(number: int) -> None:
    painter, session = Painter(Random(f"drawings {number}")), _session()
    states, rows = [], []
    for _ in range(CHUNK // BATCH):
        made = [painter.draw() for _ in range(BATCH)]
        pixels = np.stack([photos.whole(image) for image, _ in made])
        states.append(session.run(None, {"pixels": pixels})[0].astype(np.float16))
        rows += [objects_of(scene) for _, scene in made]
    labels, colours, places = (np.array(column) for column in zip(*rows, strict=True))
    part = FOLDER / f"{number:05d}.part.npz"
    np.savez(part, states=np.concatenate(states), labels=labels, colours=colours, places=places)
    part.rename(FOLDER / f"{number:05d}.npz")


_opened = []


def _session() -> object:
    """Of this process."""
    if not _opened:
        _opened.append(eyes.open_session(eyes.PatchesAlone(), ["states"]))
    return _opened[0]


def load() -> tuple[np.ndarray, Objects]:
    """All that was drawn: patch states [n, PATCHES, STATE] float16, and what stands there."""
    files = [np.load(path) for path in sorted(FOLDER.glob("?????.npz"))]
    objects = Objects(*(np.concatenate([file[name] for file in files]) for name in ("labels", "colours", "places")))
    return np.concatenate([file["states"] for file in files]), objects


def missing() -> Iterator[int]:
    return (number for number in count() if not (FOLDER / f"{number:05d}.npz").is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    began, cores, numbers = time.monotonic(), os.cpu_count() or 1, missing()
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        while time.monotonic() - began < 60 * arguments.minutes:
            pool.map(chunk, [next(numbers) for _ in range(2 * cores)], chunksize=1)
            print(f"{len(list(FOLDER.glob('?????.npz'))) * CHUNK} drawings, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()

"""What the eyes make of every picture that the base model learns from, once and kept.

    python -m recipes.base.sights --data FOLDER grocery clothing other things shapes writing easy photos

Pictures of a name: those of the two shops (`photos.py`), `other`: free photos of anything else, without labels; the rest are
those of the mini's recipe, drawn or taken from its training splits. Of each: the mean features, the patch states, and
what it shows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from edge_vqa.pictures.open import Rgb
from recipes.base import eyes, photos
from recipes.base.lexicon import Thing
from recipes.base.photos import Photo, Photos
from recipes.mini import data, reliability, scenes, train

BUILD = Path("build/base")
SHOPS = ("grocery", "clothing")
VIEWS = {"grocery": 4, "clothing": 2, "other": 25}  # of a photo that trains: as it is, and changed
DRAWN = {"things": 7000, "shapes": 3000, "writing": 8000, "easy": 2500, "photos": 3000}
ART = Path("build/mini/art")
OTHER = ("debian/usr/share/backgrounds", "skimage/skimage/data")
GROUPS = {"fruit": ("fruit", "food"), "vegetables": ("vegetable", "food"), "packages": ("food",)}
BATCH = 32
View = tuple[Rgb, dict[str, Any]]  # a picture, and what is known of it


@dataclass(frozen=True)
class Sights:
    """mean: [n, WIDTH]; states: [n, PATCHES, STATE]; about: what is known of each."""

    mean: np.ndarray
    states: np.ndarray
    about: list[dict[str, Any]]

    @staticmethod
    def load(name: str) -> Sights:
        states = np.load(BUILD / f"{name}_states.npy", mmap_mode="r")
        return Sights(np.load(BUILD / f"{name}_mean.npy"), states, Sights.known(name))

    @staticmethod
    def known(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (BUILD / f"{name}.jsonl").read_text().splitlines()]

    def of(self, part: str) -> list[int]:
        return [number for number, one in enumerate(self.about) if one["part"] == part]

    @cached_property
    def things(self) -> list[Thing]:
        """Of shops: what each shows."""
        return [Thing(**{key: tuple(v) if isinstance(v, list) else v for key, v in one["thing"].items()}) for one in self.about]


def thing_of(photo: Photo, colour: str = "") -> Thing:
    """A grocery is called by its coarse kind; its fine one is a name of it too. Clothes are called by their kind."""
    if len(photo.kinds) == 1:
        return Thing(photo.kinds[0], photo.kinds, ("clothing",), colour=colour)
    fine, coarse, group = photo.kinds
    drink = ("drink",) if coarse.split()[-1] in ("juice", "milk") else ()
    narrow = fine if fine != coarse else ""
    return Thing(coarse, tuple(dict.fromkeys((coarse, fine))), drink + GROUPS[group], narrow, colour=colour)


def part_of(number: int, photo: Photo) -> str:
    """train, dev and test are the authors'; `gate`: a seventh of their training photos, which train the Selector instead."""
    return "gate" if photo.part == "train" and number % 7 == 3 else photo.part


def shop(name: str, folder: Path) -> Iterator[View]:
    zipped = Photos(folder / f"{name}.zip")
    for number, photo in enumerate(zipped.listed):
        image, rng = zipped.open(photo), np.random.default_rng(number)
        for view in range(VIEWS[name] if photo.part == "train" else 1):
            pixels = photos.changed(image, rng) if view else photos.whole(image)
            known = {"kind": photo.kinds[0], "thing": asdict(thing_of(photo, photos.colour(pixels)))}
            yield pixels, {"part": part_of(number, photo), "photo": number, **known}


def other() -> Iterator[View]:
    rng = np.random.default_rng(0)
    for path in sorted(path for place in OTHER for path in (ART / place).rglob("*") if path.suffix in (".jpg", ".png")):
        with contextlib.suppress(OSError), Image.open(path) as image:
            whole = image.convert("RGB")
            for _ in range(VIEWS["other"]):
                yield photos.changed(whole, rng), {"part": "train", "file": path.name}


def drawn(name: str) -> Iterator[View]:
    """Pictures as the mini learned from, of its training splits, drawn anew."""
    rng = Random(f"base {name}")
    cifar, split = data.load("cifar_train"), data.splits()
    backs = cifar.images[split["cifar"]["train"][::7]]
    if name == "easy":
        easy = data.load("easy_train")
        for number in rng.sample(split["easy"]["train"], DRAWN[name]):
            yield photos.whole(Image.fromarray(easy.images[number])), {"part": "train", "easy": number}
    elif name == "photos":
        for number in rng.sample(split["cifar"]["train"], DRAWN[name]):
            image = reliability.show_photo(cifar.images[number], rng, backs, rng.random() < 0.3)
            yield photos.whole(image), {"part": "train", "scene": train.photo(cifar.labels[number, 0]).line()}
    else:
        for _ in range(DRAWN[name]):
            made = scenes.DRAW[name](rng, backs)
            yield photos.whole(made.image), {"part": "train", "scene": made.scene.line(), "labels": made.labels.tolist()}


def keep(name: str, views: Iterator[View]) -> None:
    """Looks at every picture; what is known of them is written last: a name that has it is complete."""
    session, about, found = eyes.open_session(eyes.Eyes(), ("mean", "states")), [], []
    while batch := list(islice(views, BATCH)):
        about += [known for _, known in batch]
        found.append(eyes.look(session, [picture for picture, _ in batch]))
        if len(found) % 50 == 0:
            print(f"{name}: {len(about)} pictures", flush=True)
    mean, states = zip(*found, strict=True)
    np.save(BUILD / f"{name}_mean.npy", np.concatenate(mean))
    np.save(BUILD / f"{name}_states.npy", np.concatenate(states))
    (BUILD / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in about))
    print(f"{name}: {len(about)} pictures, done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=(*SHOPS, "other", *DRAWN))
    parser.add_argument("--data", type=Path, required=True, help="folder with grocery.zip and clothing.zip")
    arguments = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        if not (BUILD / f"{name}.jsonl").is_file():
            keep(name, shop(name, arguments.data) if name in SHOPS else other() if name == "other" else drawn(name))


if __name__ == "__main__":
    main()

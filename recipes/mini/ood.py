"""Questions unlike those the embedded model was trained on, along two axes: worse pictures and conversation.

    pip install "edge-vqa[expose]"
    python -m recipes.mini.ood

writes, beside the files of `reliability.py`, `exposure.jsonl` (may train the Selector), `ood_dev.jsonl` (for choices) and
`ood_test.jsonl` (for measuring). Of each, a third has a corrupted picture, a third is asked in conversation, a fifth both; the
rest is asked, in conversation, about what is not there or what no picture says. One question a picture.

Corruptions are those of ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261, package `imagecorruptions`), severities 1
to 5, and low light; impulse noise ignores seeds, so that a new run draws it anew. No kind of corruption, and no line of
`conversation.py`, is in two of the three files. Their photos are none that `reliability.py` took for the Selector, the
thresholds or the mix that measures them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from random import Random

import numpy as np
from PIL import Image

from recipes.mini.conversation import Talker
from recipes.mini.questions import Question
from recipes.mini.reliability import OUT, WEIGHTS, Builder, Pool, pool
from selector_onnx.exposure import corrupt

# file -> part of the pictures and wordings, photos and easy-VQA pictures that `reliability.py` has taken, questions
FILES = {
    "exposure": ("selector", 1900, 80, 8000),
    "ood_dev": ("calibration", 1300, 360, 2000),
    "ood_test": ("test", 1900, 560, 6000),
}
CORRUPTIONS = {
    "selector": ("gaussian_noise", "zoom_blur", "contrast", "saturate", "spatter", "brightness"),
    "calibration": ("speckle_noise", "snow", "elastic_transform"),
    "test": ("shot_noise", "impulse_noise", "defocus_blur", "motion_blur", "jpeg_compression", "pixelate", "low_light"),
}
SHOWN = {kind: WEIGHTS[kind] for kind in ("photo", "things", "shapes", "easy", "writing", "nothing")}
LIGHT = (0.5, 0.35, 0.25, 0.17, 0.1)  # share of the light that is left, by severity
SENSOR_NOISE = 0.02  # standard deviation, of the full range


def low_light(pixels: np.ndarray, severity: int, noise: np.random.Generator) -> np.ndarray:
    """Fewer photons, the same sensor."""
    dim = pixels / 255 * LIGHT[severity - 1] + noise.normal(0, SENSOR_NOISE, pixels.shape)
    return (dim.clip(0, 1) * 255).astype(np.uint8)


def spoil(image: Image.Image, kind: str, severity: int, rng: Random) -> Image.Image:
    pixels, seed = np.asarray(image.convert("RGB")), rng.randrange(2**32)
    if kind == "low_light":
        return Image.fromarray(low_light(pixels, severity, np.random.default_rng(seed)))
    return Image.fromarray(corrupt(pixels, kind, severity, seed))


def unanswerable(talker: Talker, shown: str) -> Question:
    """About what is not there, or what no picture says. `shown`: the kind of picture, not one of writing."""
    draws: list[Callable[[], Question]] = [
        lambda: talker.absent_text(("price", "time", "number")),
        lambda: talker.unknowable("thing"),
    ]
    if shown in ("shapes", "nothing"):  # anywhere else the thing might be there
        draws.append(lambda: talker.absent_thing(()))
    return talker.rng.choice(draws)()


def build(name: str, pictures: Pool, part: str, count: int) -> None:
    made, rng = Builder(name), pictures.rng
    talker = Talker(rng, part)
    wordings = ("train", "dev") if part == "selector" else ("test",)
    while len(made.lines) < count:
        shown = rng.choices(list(SHOWN), list(SHOWN.values()))[0]
        way = rng.choices(("corrupted", "conversation", "both", "unanswerable"), (34, 34, 20, 12))[0]
        if shown == "easy" and way != "corrupted":  # easy-VQA words its own questions
            continue
        plain = way == "corrupted"
        try:
            image, asked = pictures.take(shown, 4, rng.choice(wordings), None if plain else talker)
        except StopIteration:
            continue
        kind, question, answer = rng.choice(asked)
        if way == "unanswerable":
            if shown == "writing":
                continue
            kind, question, answer = unanswerable(talker, shown)
        if way in ("corrupted", "both"):
            corruption, severity = rng.choice(CORRUPTIONS[part]), rng.randint(1, 5)
            image = spoil(image, corruption, severity, rng)
            way = f"{way} {corruption} {severity}"
        made.add(image, [(f"{way}: {kind}", question, answer)])
    made.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FILES, help="write one of the files")
    only = parser.parse_args().only
    OUT.mkdir(parents=True, exist_ok=True)
    for name, (part, photos, easy, count) in FILES.items():
        if only not in (None, name):
            continue
        source = {"selector": "selector", "calibration": "calibration", "test": "mix_test"}[part]
        pictures = pool(source, part)  # in the order of `reliability.py`, so that what it took can be left out
        pictures.numbers = islice(pictures.numbers, photos, None)
        pictures.easy_numbers = islice(pictures.easy_numbers, easy, None)
        pictures.rng = Random(f"ood {name}")
        build(name, pictures, part, count)


if __name__ == "__main__":
    main()

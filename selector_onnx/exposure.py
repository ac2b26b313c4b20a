"""Further training questions made of one's own, so that the Selector has seen poor pictures and wrong questions.

- `corrupted`: the same question on a worse picture, by the corruptions of ImageNet-C (Hendrycks and Dietterich 2019, arXiv
  1903.12261), from the package `imagecorruptions`;
- `swapped`: the question on another picture, where the right thing to do is to abstain.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from edge_vqa.errors import EdgeVqaError
from edge_vqa.pictures.open import open_picture
from edge_vqa.work.questions import Question

UNANSWERABLE = "unanswerable"
# those that run with current numpy and scikit-image, obey a seed, and need no pictures of their own
KINDS = (
    *("gaussian_noise", "shot_noise", "speckle_noise", "defocus_blur", "motion_blur", "zoom_blur"),
    *("brightness", "contrast", "saturate", "pixelate", "jpeg_compression", "elastic_transform", "spatter", "snow"),
)
LONGER_SIDE = 640  # pixels; a corruption of more is slow, and a model sees less


def corrupted(questions: Sequence[Question], share: float, folder: Path, seed: int) -> list[tuple[Question, Question]]:
    """A share of the questions, each on a corrupted copy of its picture, severity 1 to 5, written to `folder`; and beside it
    the question that it is of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = Random(f"corrupted {seed}")
    made: list[tuple[Question, Question]] = []
    for question in rng.sample(list(questions), round(share * len(questions))):
        kind, severity = rng.choice(KINDS), rng.randint(1, 5)
        path = folder / f"{len(made):06}.png"
        photo = Image.fromarray(open_picture(question.image).rgb)
        photo.thumbnail((LONGER_SIDE, LONGER_SIDE))
        Image.fromarray(corrupt(np.asarray(photo), kind, severity, rng.randrange(2**32))).save(path, compress_level=1)
        copy = dataclasses.replace(question, question_id=f"{question.question_id} {kind} {severity}", image=path)
        made.append((copy, question))
    return made


def corrupt(rgb: np.ndarray, kind: str, severity: int, seed: int) -> np.ndarray:
    """A picture, uint8 RGB [h, w, 3], corrupted; deterministic for a seed. Sides of at least 32 pixels.

    Raises EdgeVqaError when `imagecorruptions` does not load.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package uses pkg_resources
        try:
            from imagecorruptions import corrupt as imagenet_c
        except ImportError as error:
            raise EdgeVqaError(f"imagecorruptions does not load ({error})", 'pip install "edge-vqa[expose]"') from None
    np.random.seed(seed)  # what the package draws from
    return np.asarray(imagenet_c(rgb, severity=severity, corruption_name=kind), np.uint8)


def swapped(questions: Sequence[Question], share: float, seed: int) -> list[Question]:
    """A share of the questions, each on the picture of another question, with the reference answer "unanswerable"."""
    pictures = sorted({question.image for question in questions})
    if len(pictures) < 2:
        return []
    rng, made = Random(f"swapped {seed}"), []
    for question in rng.sample(list(questions), round(share * len(questions))):
        other = rng.choice([picture for picture in rng.sample(pictures, 2) if picture != question.image])
        made.append(Question(f"{question.question_id} swapped", other, question.question, (UNANSWERABLE,)))
    return made

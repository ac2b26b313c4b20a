"""Foreign pictures: what fits is not what judges."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from PIL import Image

from recipes.mini.questions import Asker
from recipes.trust import foreign, questions

WITHOUT_FONTS = {
    name: draw
    for worlds in foreign.WORLDS.values()
    for name, draw in worlds.items()
    if name.startswith(("noise", "colour", "radio")) or name == "drawings: scribble"
}


def test_nothing_fits_and_judges() -> None:
    for worlds in (foreign.WORLDS, foreign.COPIES):
        assert not set(worlds["fitting"]) & set(worlds["judging"])
        assert not set(worlds["fitting"].values()) & set(worlds["judging"].values())
    assert not set(foreign.FONTS["fitting"]) & set(foreign.FONTS["judging"])
    for parts in questions.FAMILIAR.values():
        assert not set(parts["fitting"]) & set(parts["judging"])


@pytest.mark.parametrize("name", WITHOUT_FONTS)
def test_a_world_is_drawn_again_from_its_seed_and_never_twice_the_same(name: str) -> None:
    first, again, other = (WITHOUT_FONTS[name](Random(seed)) for seed in (1, 1, 2))
    assert first.mode == "RGB" and first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_copies_spoil_what_they_say() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    copies = foreign.COPIES["judging"]
    made = {name: spoil(picture) for name, spoil in (foreign.COPIES["fitting"] | copies).items()}
    assert made["negative"].getpixel((3, 4)) == tuple(255 - value for value in picture.getpixel((3, 4)))
    assert made["upside down"].getpixel((0, 0)) == picture.getpixel((119, 89))
    assert made["turned"].size == (90, 120) and made["turned"].getpixel((0, 119)) == picture.getpixel((0, 0))
    assert len(set(made["grey"].getpixel((5, 5)))) == 1 and made["one bit"].mode == "1"
    assert made["transparent"].getextrema()[3] == (0, 0)
    assert max(made["tiny"].size) == 8 and made["wide"].width >= 10 * made["wide"].height
    assert picture.size == (120, 90) and picture.mode == "RGB", "the picture itself stays as it is"


def test_every_skill_is_asked_in_wordings_of_its_part() -> None:
    asked = [questions.skills(Asker(Random(seed), "test")) for seed in range(300)]
    assert len({kind for kind, _ in asked}) == 10
    train = {questions.skills(Asker(Random(seed), "train"))[1] for seed in range(300)}
    assert not {question for _, question in asked} & train

"""Foreign pictures: what fits is not what judges."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from PIL import Image

from recipes.mini.questions import Asker
from recipes.trust import foreign, questions
from recipes.trust.compare import mahalanobis, told_apart
from selector_onnx import strange

WITHOUT_FONTS = [
    name for name in foreign.WORLDS if name.startswith(("noise", "colour", "radio")) or name == "drawings_scribble"
]


def test_nothing_fits_and_judges() -> None:
    fitting: set[Callable] = {*strange.WORLDS, *strange.COPIES}
    assert not fitting & {*foreign.WORLDS.values(), *foreign.COPIES.values()}
    for bundle, tests in questions.TESTS.items():
        assert questions.SELECTOR[bundle] not in tests


@pytest.mark.parametrize("name", WITHOUT_FONTS)
def test_a_world_is_drawn_again_from_its_seed_and_never_twice_the_same(name: str) -> None:
    first, again, other = (foreign.WORLDS[name](Random(seed)) for seed in (1, 1, 2))
    assert first.mode == "RGB" and first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_copies_spoil_what_they_say() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    made = {name: spoil(picture) for name, spoil in foreign.COPIES.items()}
    assert made["turned"].size == (90, 120) and made["turned"].getpixel((0, 119)) == picture.getpixel((0, 0))
    assert len(set(made["grey"].getpixel((5, 5)))) == 1 and made["one_bit"].mode == "1"
    assert made["transparent"].getextrema()[3] == (0, 0)
    assert max(made["tiny"].size) == 8 and made["wide"].width >= 10 * made["wide"].height
    assert picture.size == (120, 90) and picture.mode == "RGB", "the picture itself stays as it is"


def test_every_skill_is_asked_in_wordings_of_its_part() -> None:
    asked = [questions.skills(Asker(Random(seed), "test")) for seed in range(300)]
    assert len({kind for kind, _ in asked}) == 10
    train = {questions.skills(Asker(Random(seed), "train"))[1] for seed in range(300)}
    assert not {question for _, question in asked} & train


def test_a_distance_tells_a_shifted_cloud_apart() -> None:
    rng = np.random.default_rng(0)
    near, same, far = rng.normal(size=(500, 8)), rng.normal(size=(500, 8)), rng.normal(size=(500, 8)) + 2
    distance = mahalanobis(near)
    assert told_apart(distance(same), distance(far)) > 0.95
    assert abs(told_apart(distance(same), distance(rng.normal(size=(500, 8)))) - 0.5) < 0.06

"""The embedded model's questions: answers that follow from the scene, balance, and wordings kept apart."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import combinations
from random import Random

import numpy as np
import pytest

from recipes.mini import nouns, questions, scenes, tokenizer, train
from recipes.mini.packing import Packer
from recipes.mini.wordings import WORDINGS

PHOTOS = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)


def things(rng: Random) -> scenes.Scene:
    """A scene as `scenes.things` makes it, without the art."""
    count = rng.randint(1, 5)
    names = [rng.choice(nouns.NOUNS) for _ in range(count)]
    places = scenes._places(count, rng)
    items = [scenes.Item(n, *place, nouns.COLOUR.get(n)) for n, place in zip(names, places, strict=True)]
    return scenes.Scene("things", tuple(items))


def asked(part: str, n: int = 1500) -> list[tuple[scenes.Scene, questions.Question]]:
    rng = Random(1)
    made = []
    for i in range(n):
        label = questions.CLASSES[i % 10]
        photo = scenes.Scene("photo", (scenes.Item(label, 64, 64, 128),))
        for scene in (things(rng), scenes.shapes(rng, PHOTOS).scene if i % 5 == 0 else photo):
            made += [(scene, question) for question in questions.ask(scene, 6, rng, part)]
    return made


@pytest.fixture(scope="module")
def every() -> list[tuple[scenes.Scene, questions.Question]]:
    return asked("test")


def test_no_wording_is_in_two_parts() -> None:
    for name, parts in WORDINGS.items():
        assert parts["train"] and parts["test"], name
        for one, other in combinations(("train", "dev", "test"), 2):
            few = (one, other) == ("train", "dev") and len(parts["train"]) <= 5  # too few to keep one back
            assert few or not set(parts[one]) & set(parts[other]), name
    trained = {w for parts in WORDINGS.values() for w in parts["train"]}
    assert not trained & {w for parts in WORDINGS.values() for w in parts["test"]}


def test_a_test_wording_is_a_new_sentence_of_known_words() -> None:
    known = {word for parts in WORDINGS.values() for text in parts["train"] for word in re.findall(r"[a-z']+", text)}
    for name, parts in WORDINGS.items():
        if name not in ("doing", "unknowable"):
            assert {word for text in parts["test"] for word in re.findall(r"[a-z']+", text)} <= known, name


def test_yes_and_no_are_balanced_in_every_kind(every: list[tuple[scenes.Scene, questions.Question]]) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for _, (kind, _, answer) in every:
        if answer in ("yes", "no"):
            counts[kind][answer] += 1
    assert {"photo is it", "photo property", "is there", "is it", "relation yes/no", "position", "comparison"} <= set(counts)
    for kind, count in counts.items():
        if count.total() >= 200:
            assert 0.42 < count["yes"] / count.total() < 0.58, (kind, count)


def test_answers_follow_from_the_scene(every: list[tuple[scenes.Scene, questions.Question]]) -> None:
    """Checked by another way round than the code that asks: from the words of the question."""
    checked: Counter[str] = Counter()
    for scene, (kind, question, answer) in every:
        names = [i.name for i in scene.items]
        if kind == "count" and any(w in question for w in (" things", " objects")):
            assert int(answer) == len(names), question
        elif kind == "relation" and answer != "nothing":
            (item,) = (i for i in scene.items if i.name == answer) if names.count(answer) == 1 else (None,)
            if item is not None and ("leftmost" in question or question.endswith("the left?") or "left side?" in question):
                assert item.x == min(i.x for i in scene.items), question
        elif kind == "is there" and answer == "no":
            mentioned = [noun for noun in nouns.NOUNS if re.search(rf"\b{noun}\b", question)]
            assert not mentioned or max(mentioned, key=len) not in names, (question, names)
        elif kind == "absent thing":
            missing = answer.removeprefix("there is no ").removeprefix("there are no ")
            assert (missing in question or questions.plural(missing) in question) and missing not in names, (question, names)
        elif kind == "position" and answer in ("on the left", "on the right"):
            assert any((i.x < 64) == (answer == "on the left") for i in scene.items), question
        else:
            continue
        checked[kind] += 1
    assert all(checked[k] > 20 for k in ("count", "relation", "is there", "absent thing", "position")), checked


def test_every_kind_is_reported_in_one_group(every: list[tuple[scenes.Scene, questions.Question]]) -> None:
    members = [kind for group in questions.GROUPS.values() for kind in group]
    assert len(members) == len(set(members))
    assert {question[0] for _, question in every} <= set(members)


def test_answers_fit_into_the_bundles_token_limit(every: list[tuple[scenes.Scene, questions.Question]]) -> None:
    packer = Packer(tokenizer.train())
    answers = {question[2] for _, question in every} | {questions.no_such(noun) for noun in nouns.NOUNS}
    assert max(packer.encode("?", answer, False)[1] for answer in answers) <= questions.MAX_TOKENS
    assert max(packer.encode("?", text, True)[1] for text in ("letter", "$99.99", "23:59", "9999")) <= questions.MAX_TOKENS


def test_scenes_are_drawn_alike_from_one_seed_and_objects_do_not_touch() -> None:
    for seed in range(40):
        first, second = (scenes.shapes(Random(seed), PHOTOS) for _ in range(2))
        assert first.scene == second.scene and np.array_equal(np.asarray(first.image), np.asarray(second.image))
        assert scenes.from_line(first.scene.line()) == first.scene
        for a, b in combinations(first.scene.items, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) >= (min(a.side, 84) + min(b.side, 84)) / 2 - 0.2
        assert (first.labels > 0).any()


def test_every_thing_has_its_middle_in_one_patch() -> None:
    for seed in range(40):
        scene = things(Random(seed))
        found = train.middles(scene)
        assert found.shape == (64,) and found.sum() == len(scene.items)
    (patch,) = train.middles(scenes.Scene("things", (scenes.Item("dog", 20, 100, 40),))).nonzero()
    assert patch.item() == 6 * 8 + 1  # row 6, column 1
    assert (train.middles(train.photo(3)) < 0).all(), "a photo's middle means nothing"


def test_conversation_is_split_by_line_and_covers_every_kind_of_question() -> None:
    from recipes.mini import conversation

    assert set(conversation.CLAUSES) == set(WORDINGS)
    for name, lines in {
        "opening": conversation.OPENINGS,
        "frame": conversation.FRAMES,
        "ending": conversation.ENDINGS,
        **conversation.CLAUSES,
    }.items():
        parts = [set(lines[part]) for part in ("selector", "calibration", "test")]
        assert all(parts), f"{name} has no line in some part"
        assert len(set.union(*parts)) == sum(map(len, parts)), f"a line of {name} is in two parts"

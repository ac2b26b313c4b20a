"""The base model as it is installed (`models/base`): what the README's first screen rests on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from edge_vqa.bundles import store
from edge_vqa.bundles.store import Bundle
from edge_vqa.model import Model, load
from recipes.mini.measure import PEAK
from tests.conftest import EXAMPLES, PROGRAMS, ROOT

SEEN = [
    ("lemon.jpg", "is this a lemon?", "yes"),
    ("lemon.jpg", "is it an animal?", "no"),
    ("lemon.jpg", "what color is it?", "yellow"),
    ("cat.jpg", "what is this?", "cat"),
    ("cat.jpg", "is this a dog?", "no"),
    ("apples.jpg", "hello, can you tell me what this is?", "apple"),
    ("skirt.jpg", "what am i looking at?", "skirt"),
    ("skirt.jpg", "can you eat it?", "no"),
]


@pytest.fixture(scope="module")
def base() -> Bundle:
    return store.read("base")


@pytest.fixture(scope="module")
def asked(base: Bundle) -> Iterator[Model]:
    with load(base.folder) as model:
        yield model


def test_it_is_the_one_of_this_repository_whole_and_small(base: Bundle) -> None:
    store.verify(base)
    here = store.read(ROOT / "models" / "base" / "edge_vqa_base")
    assert here.manifest == base.manifest, "install it again: pip install --force-reinstall --no-deps ./models/base"
    assert base.bytes < 110e6 and (ROOT / "recipes" / "base" / "learned.safetensors").stat().st_size < 40e6


def test_it_has_operating_points_early_ones_too(base: Bundle) -> None:
    points = {(point.confidence, point.risk) for point in base.manifest.operating_points}
    assert {risk for _, risk in points} == {0.01, 0.05, 0.1, 0.2}
    assert len({method for method, _ in points}) == 2


@pytest.mark.parametrize(("picture", "question", "answer"), SEEN)
def test_photographs_are_seen(picture: str, question: str, answer: str, asked: Model) -> None:
    assert asked.ask(EXAMPLES / picture, question).candidate == answer


@pytest.mark.parametrize(("picture", "name"), [("lemon.jpg", "lemon"), ("skirt.jpg", "skirt"), ("cat.jpg", "cat")])
def test_a_wrong_name_is_not_given(picture: str, name: str, asked: Model) -> None:
    answer = asked.ask(EXAMPLES / picture, "what is this?")
    assert answer.text in (None, name), f"confidence {answer.confidence:.2f}"


def test_a_second_question_says_what_a_first_one_would(asked: Model) -> None:
    with asked.open(EXAMPLES / "lemon.jpg") as picture:
        together = [picture.ask(question).candidate for _, question, _ in SEEN[:3]]
    assert together == [asked.ask(EXAMPLES / "lemon.jpg", question).candidate for _, question, _ in SEEN[:3]]


def test_it_answers_where_no_model_is_named_within_its_memory() -> None:
    command = [PROGRAMS / "edge-vqa", "ask", EXAMPLES / "cat.jpg", "what is this?", "--json"]
    settings = os.environ | {store.CHOSEN: ""}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=settings, check=False)
    assert json.loads(done.stdout)["model"] == "base", done.stderr
    run = [sys.executable, "-S", "-c", PEAK, *map(str, command)]
    peak = int(subprocess.run(run, capture_output=True, text=True, env=settings, check=True).stdout) * 1024
    assert peak <= 350e6, f"{peak / 1e6:.0f} MB"

"""Questions about pictures that a bundle was not made for.

    python -m recipes.trust.questions --photos FOLDER    # after recipes.mini.reliability, recipes.base.questions

writes `build/trust/questions/`. What familiarity is fitted to: `{bundle}_familiar.jsonl`, what trains the bundle's Selector,
against `{bundle}_nothing.jsonl`, pictures of nothing among that, `{bundle}_drawn.jsonl` and `{bundle}_spoiled.jsonl` as
`selector_onnx.strange` makes them, and for the mini `mini_photos.jsonl`, photos that train base's Selector and those of
ImageNet's classes, whole and in part (--photos: as for recipes.base.questions).

What judges, a file a set: every world of `foreign.py`, with questions of every skill, also about what is not there; right is
only to abstain: a picture that shows nothing does not prove that there is no banana. `{bundle}_{copy}.jsonl`: spoiled copies of
test pictures, with their own questions; of what a copy cannot show any more (`LOST`), right is only to abstain.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from PIL import Image

from edge_vqa.work.questions import Question
from recipes.base.questions import OUT as BASE
from recipes.base.questions import Builder
from recipes.mini import nouns
from recipes.mini.questions import SIDES, Asker, a, plural
from recipes.mini.reliability import OUT as MINI
from recipes.mini.reliability import UNANSWERABLE
from recipes.trust import foreign
from selector_onnx import strange

OUT = Path("build/trust/questions")
FITTING = {"mini": 1500, "base": 750}  # pictures drawn from nothing, and as many spoiled ones
SELECTOR = {"mini": MINI / "selector.jsonl", "base": BASE / "selector.jsonl"}
TESTS = {
    "mini": (MINI / "mix_test.jsonl",),
    "base": (BASE / "grocery_test.jsonl", BASE / "clothing_test.jsonl", BASE / "others_test.jsonl"),
}
LOST = {"transparent": "", "tiny": "", "grey": "colour"}  # copy -> kinds of question that it cannot answer, by a word of theirs
LONGER_SIDE = 480  # of a photo


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(name: str, lines: list[dict]) -> None:
    (OUT / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{name}: {len(lines)} questions", flush=True)


# -- fitting ---------------------------------------------------------------------------------------------------------------


def fitting(bundle: str) -> None:
    """What `selector_onnx.strange` makes."""
    pictures = sorted({SELECTOR[bundle].parent / line["image"] for line in lines_of(SELECTOR[bundle])})
    made = {
        "drawn": strange.drawn(FITTING[bundle], OUT / f"{bundle}_drawn", 0),
        "spoiled": strange.spoiled(FITTING[bundle], pictures, OUT / f"{bundle}_spoiled", 0),
    }
    for sort, asked in made.items():
        write(f"{bundle}_{sort}", [_line(question) for question in asked])


def _line(question: Question) -> dict:
    image = str(question.image.relative_to(OUT))
    return {"question_id": question.question_id, "image": image, "question": question.question, "answers": question.answers}


def mini_photos(folder: Path) -> None:
    made, rng = Builder("mini_photos", OUT), Random("photos")
    known = [line for line in lines_of(SELECTOR["base"]) if line["kind"].split()[0] in ("grocery", "clothing", "others")]
    whole = sorted({SELECTOR["base"].parent / line["image"] for line in known})
    for path in [*whole, *sorted(folder.rglob("*.JPEG"))]:
        with Image.open(path) as image:
            photo = image.convert("RGB")
        share = rng.uniform(0.3, 0.8)
        wide, high = (round(side * share) for side in photo.size)
        left, top = rng.randint(0, photo.width - wide), rng.randint(0, photo.height - high)
        for shown in (photo, photo.crop((left, top, left + wide, top + high))):
            shown.thumbnail((LONGER_SIDE, LONGER_SIDE))
            made.add(shown, [("photo", rng.choice(strange.ASKED), [UNANSWERABLE])])
    made.close()


def familiar(bundle: str) -> None:
    """What trains the Selector: pictures of nothing are no pictures to rely on, and the others are familiar."""
    for name, nothing in (("nothing", True), ("familiar", False)):
        lines = [line for line in lines_of(SELECTOR[bundle]) if (line.get("scene") == "nothing") == nothing]
        folder = SELECTOR[bundle].parent
        write(f"{bundle}_{name}", [line | {"image": os.path.relpath(folder / line["image"], OUT)} for line in lines])


# -- judging ---------------------------------------------------------------------------------------------------------------


def skills(asker: Asker) -> tuple[str, str]:
    """(kind, question) of any skill, about things that there may be or not."""
    rng = asker.rng
    noun = rng.choice(nouns.NOUNS)
    draws: dict[str, Callable[[], str]] = {
        "what": lambda: asker.word("what"),
        "kind": lambda: asker.word("kind"),
        "colour": lambda: asker.word("colour"),
        "colour of": lambda: asker.word("colour of", the=f"the {noun}"),
        "how many": lambda: asker.word("count", things=rng.choice(("things", "objects", plural(noun)))),
        "where": lambda: asker.word("where", the=f"the {noun}"),
        "beside": lambda: asker.word(rng.choice(SIDES), the=f"the {noun}"),
        "read": lambda: asker.word("read"),
        "is there": lambda: asker.word("is there", a=a(noun)),
        "is it": lambda: asker.word("is it", a=a(noun)),
    }
    kind = rng.choice(list(draws))
    return kind, draws[kind]()


def worlds(each: int) -> None:
    asker = Asker(Random("foreign judging"), "test")
    for name, draw in foreign.WORLDS.items():
        made = Builder(name, OUT)
        for number in range(each):
            kind, question = skills(asker)
            made.add(draw(Random(f"{name} {number}")), [(kind, question, [UNANSWERABLE])])
        made.close()


def known(bundle: str, rng: Random) -> Iterator[tuple[Path, dict]]:
    """Test questions about pictures that the bundle knows, in any order, one a picture; no picture comes twice."""
    lines = [(path, line) for path in TESTS[bundle] for line in lines_of(path)]
    rng.shuffle(lines)
    seen = set()
    for path, line in lines:
        if line["image"] not in seen and line["answers"] != [UNANSWERABLE] and line.get("scene") != "nothing":
            seen.add(line["image"])
            yield path.parent / line["image"], line


def copies(bundle: str, each: int) -> None:
    pictures = known(bundle, Random(f"copies {bundle}"))
    for name, spoil in foreign.COPIES.items():
        made = Builder(f"{bundle}_{name}", OUT)
        for _ in range(each):
            path, line = next(pictures)
            lost = name in LOST and LOST[name] in line["kind"]
            with Image.open(path) as image:
                made.add(spoil(image), [(line["kind"], line["question"], [UNANSWERABLE] if lost else line["answers"])])
        made.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="others' photos of ImageNet classes")
    parser.add_argument("--each", type=int, default=150, help="pictures of each world and of each copy that judge")
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    worlds(arguments.each)
    mini_photos(arguments.photos)
    for bundle in SELECTOR:
        familiar(bundle)
        fitting(bundle)
        copies(bundle, arguments.each)


if __name__ == "__main__":
    main()

"""Questions for the study of quantisation: photos asked about plainly and in harder ways; and what recovery learns from.

    python -m recipes.base.mixes --data FOLDER --photos FOLDER     # after recipes.mini.data and recipes.trust.questions

writes, beside the files of `questions.py`:

| file | pictures | questions |
|---|---|---|
| `plain_test` | test photos of shops and of ImageNet classes | plainly worded |
| `corrupted_test` | the same, with a corruption of ImageNet-C or low light, severity 1 to 5 | plainly worded |
| `conversation_test` | as `plain_test` | as people talk, between an opening and an ending |
| `adversarial_test` | as `plain_test` | that look like one kind of question and are another |
| `foreign_test` | drawn by `recipes.trust.foreign`, radiographs | about what is not there: right is only to abstain |
| `selector_study` | the Selector's photos | training wordings, a third as people talk, a fifth tricks: for Selectors |
| `recover` | training photos of shops and ImageNet classes, drawings | training wordings, some amiss, some tricks; no answers |

No picture and no trick of a test is in any file that trains, calibrates or recovers. Which test photos there are,
`questions.py` says; of them `PICTURES` are drawn with a fixed seed, `EACH` questions a picture in each file.
"""

from __future__ import annotations

import argparse
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

from PIL import Image

from recipes.base import asking
from recipes.base.asking import Asked, with_article
from recipes.base.lexicon import EATEN, KINDS, Thing
from recipes.base.questions import OUT, Builder, accepted, all_things, others_photos, shop_photos, some
from recipes.base.sights import SHOPS
from recipes.mini import questions, reliability
from recipes.mini.conversation import ENDINGS, OPENINGS
from recipes.mini.ood import CORRUPTIONS, spoil
from recipes.mini.reliability import UNANSWERABLE
from recipes.trust.questions import OUT as STRANGE

PICTURES, EACH = 120, 4
LONGER_SIDE = 480  # pixels of a photo that is corrupted
RECOVER = {"grocery": 330, "clothing": 170, "others": 400, "drawn": 150}  # pictures
RECOVER_EACH = 5
STRANGER = 0.5  # of the photos: one question that was made for another, between an opening and an ending
TRICKED = 0.4  # of the photos: one question is a trick
WORLDS = (
    *("noise_clouds", "noise_normal", "noise_specks", "colour_plain", "colour_rings", "colour_stripes", "documents_receipt"),
    *("documents_table", "drawings_map", "drawings_scribble", "screens_chart", "screens_window", "radiographs"),
)
OF_A_WORLD = 8
SELECTOR = {"grocery": 70, "clothing": 40, "others": 140}  # pictures
SELECTOR_EACH, SELECTOR_TRICKS = 8, 2

# What is asked, in wordings that look like another kind of question. {a}: the thing or another with its article, {name}: the
# thing, {other}: another with its article. "selector": in what Selectors and recovery learn from; "test": in no other file.
TRICKS: dict[str, dict[str, tuple[str, ...]]] = {
    "what": {
        "selector": (
            "do you happen to know what this is?",
            "can you give me a name for this?",
            "its color aside, which thing do you see?",
            "i was told it is {other}. what do you see instead?",
            "whether one can buy it or not, which thing is it?",
            "how does one call this in one word?",
        ),
        "test": (
            "is it too much to ask what this is?",
            "yes or no will not do here: what is it?",
            "never mind the color, what is this thing?",
            "is there a name for this, and what is it?",
            "my friend says it is {other}. what is it really?",
            "how many people would know what this is called? name it.",
            "where would i look for the name of this? just tell me the name.",
            "can one eat it or wear it, who cares, what is it?",
        ),
    },
    "is_it": {
        "selector": (
            "whatever its color may be: {a}, yes or no?",
            "what would you bet on, that it is {a}? yes or no.",
            "how sure are you, is this {a}?",
            "which of us is right, i say it is {a}. am i?",
            "where the label reads {a}, does it tell the truth?",
        ),
        "test": (
            "what i want to know is whether this is {a}.",
            "which answer is right, yes or no: this is {a}?",
            "what color would the light be if green meant {a}? say yes or no.",
            "how many times must i ask if it is {a}?",
            "where somebody says {a}, are they right?",
            "what kind of question is this: is it {a}?",
        ),
    },
    "not_it": {
        "selector": (
            "did i err in taking this for {a}?",
            "is it false that we see {a} here?",
            "does it have to be something else than {a}?",
            "should one rather not say that it is {a}?",
        ),
        "test": (
            "is it wrong to call this {a}?",
            "would i be mistaken if i said that this is {a}?",
            "is this anything but {a}?",
        ),
    },
    "colour": {
        "selector": (
            "what about it? its color, i mean.",
            "not what it is but which color it has: this {name}.",
            "does the {name} have a color, and what is that?",
        ),
        "test": (
            "what is it, i mean its color?",
            "which kind of color is this, the {name}'s?",
            "is it true that the {name} has a color, and which one?",
            "what do you call the color of this {name}?",
        ),
    },
    "category": {
        "selector": ("leave its name away, what sort of thing is it?", "does it have a kind, and what would that be?"),
        "test": (
            "what is this, not by its own name but broadly?",
            "i know the name of it. which category is that?",
            "is it a thing of some category, and of which?",
        ),
    },
    "eat": {
        "selector": (
            "what if i took a bite of it, all right? yes or no.",
            "how it tastes i do not ask, but is it to be eaten?",
        ),
        "test": (
            "what would happen if i ate this, would that be fine? yes or no.",
            "which is it: can i eat this, yes or no?",
            "what is it good for, can one eat it?",
        ),
    },
    "animal": {
        "selector": ("what do you say, one of the animals? yes or no.", "where would it live, is it an animal at all?"),
        "test": (
            "what is it, an animal or not? yes or no.",
            "which color or name it has does not matter: is it an animal?",
            "how many legs it has i do not ask, but is it an animal?",
        ),
    },
}


def tricky(thing: Thing, others: list[Thing], rng: Random, part: str = "test") -> list[Asked]:
    """(kind, question, answer) of every trick, a wording each."""

    def say(trick: str, answer: str, **words: str) -> None:
        made.append((trick.replace("not_it", "is_it"), rng.choice(TRICKS[trick][part]).format(**words), answer))

    made: list[Asked] = []
    false = rng.choice([one for one in others if one.name not in (*thing.names, *thing.kinds)]).name
    say("what", thing.name, other=with_article(false))
    for trick in ("is_it", "not_it"):
        true = rng.random() < 0.5
        named = rng.choice([thing.name, thing.narrow or thing.name, *thing.kinds]) if true else false
        if rng.random() < 0.3 and not true:
            named = rng.choice([kind for kind in KINDS if kind not in (thing.name, *thing.kinds)])
        say(trick, "yes" if true == (trick == "is_it") else "no", a=with_article(named))
    if thing.colour:
        say("colour", thing.colour, name=thing.name)
    if thing.kinds:
        say("category", thing.kinds[0])
    say("eat", "yes" if any(thing.is_a(kind) for kind in EATEN) and not thing.is_a("drink") else "no")
    say("animal", "yes" if thing.is_a("animal") else "no")
    return made


def talked(question: str, rng: Random, part: str = "test") -> str:
    """Between an opening and an ending, or one of them."""
    opening, ending = rng.choice(OPENINGS[part]), rng.choice(ENDINGS[part])
    return [f"{opening} {question} {ending}", f"{opening} {question}", f"{question} {ending}"][rng.randrange(3)]


def test_photos(data: Path, photos: Path) -> list[tuple[str, bytes, Thing]]:
    """(source, JPEG, what it shows) of the pictures that are asked about, in an order that is fixed."""
    found = [(shop, *one) for shop in SHOPS for one in shop_photos(shop, "test", data)]
    found += [("others", *one) for one in others_photos(photos, "test")]
    Random("mixes").shuffle(found)
    return found[:PICTURES]


def tests(data: Path, photos: Path, things: list[Thing]) -> None:
    plain, talk, tricks, spoiled = (Builder(f"{name}_test") for name in ("plain", "conversation", "adversarial", "corrupted"))
    rng = Random("mixes of wordings")

    def judged(source: str, thing: Thing, asked: list[Asked]) -> list[tuple[str, str, list[str]]]:
        return [(kind, question, accepted(kind, answer, thing, source == "others")) for kind, question, answer in asked]

    for source, jpeg, thing in test_photos(data, photos):
        asked = some(asking.ask(thing, things, rng, "test", 20, polite=0.0), EACH, rng)
        path = plain.add(jpeg, judged(source, thing, asked))
        polite = some(asking.ask(thing, things, rng, "test", 20, polite=1.0), EACH, rng)
        talk.add(path, judged(source, thing, [(kind, talked(question, rng), answer) for kind, question, answer in polite]))
        tricks.add(path, judged(source, thing, rng.sample(tricky(thing, things, rng), EACH)))
        corruption, severity = rng.choice(CORRUPTIONS["test"]), rng.randint(1, 5)
        again = some(asking.ask(thing, things, rng, "test", 20, polite=0.0), EACH, rng)
        spoiled.add(
            spoil(_reduced(jpeg), corruption, severity, rng),
            judged(source, thing, again),
            corruption=f"{corruption} {severity}",
        )
    for made in (plain, talk, tricks, spoiled):
        made.close()


def foreign() -> None:
    lines = []
    for world in WORLDS:
        for text in (STRANGE / f"{world}.jsonl").read_text().splitlines()[:OF_A_WORLD]:
            line = json.loads(text)
            lines.append(line | {"image": os.path.relpath(STRANGE / line["image"], OUT)})
    (OUT / "foreign_test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"foreign_test: {len(lines)} questions", flush=True)


def selecting(data: Path, photos: Path, things: list[Thing]) -> None:
    """What Selectors learn from: many questions a picture, which costs a bundle a third of what they cost one by one."""
    made, rng = Builder("selector_study"), Random("selector of the study")
    asker = questions.Asker(rng, "train")
    for source, count in SELECTOR.items():
        found = list(others_photos(photos, "selector") if source == "others" else shop_photos(source, "gate", data))
        for jpeg, thing in rng.sample(found, min(len(found), count)):
            asked = some(asking.ask(thing, things, rng, "train", 20, polite=0.3), SELECTOR_EACH, rng)
            told = [(kind, question, accepted(kind, answer, thing, source == "others")) for kind, question, answer in asked]
            told = [(k, talked(q, rng, "selector") if rng.random() < 0.3 else q, answers) for k, q, answers in told]
            for k, q, a in rng.sample(tricky(thing, things, rng, "selector"), SELECTOR_TRICKS):
                told.insert(0, (k, q, accepted(k, a, thing, source == "others")))
            if rng.random() < 0.3:
                told[-1] = ("unknowable", asker.unknowable(thing.name)[1], [UNANSWERABLE])
            made.add(_spoiled(jpeg, rng) if rng.random() < 0.3 else jpeg, told)
    made.close()


def _reduced(jpeg: bytes) -> Image.Image:
    photo = Image.open(io.BytesIO(jpeg)).convert("RGB")
    photo.thumbnail((LONGER_SIDE, LONGER_SIDE))
    return photo


def _spoiled(jpeg: bytes, rng: Random) -> Image.Image:
    """With a corruption of those that are in no test."""
    return spoil(_reduced(jpeg), rng.choice(CORRUPTIONS["selector"]), rng.randint(1, 5), rng)


def recovering(data: Path, photos: Path, things: list[Thing]) -> None:
    made, rng = Builder("recover"), Random("recover")

    def shown() -> Iterator[tuple[bytes, Thing]]:
        for name in (*SHOPS, "others"):
            found = list(others_photos(photos, "selector") if name == "others" else shop_photos(name, "train", data))
            yield from rng.sample(found, min(len(found), RECOVER[name]))

    for jpeg, thing in shown():
        asked = asking.ask(thing, things, rng, "train", RECOVER_EACH)
        if rng.random() < STRANGER:  # of what the model is not sure of, rounding takes most
            other, question, _ = rng.choice(asking.ask(rng.choice(things), things, rng, "train", RECOVER_EACH))
            asked[-1] = (other, talked(question, rng, "selector"), "")
        if rng.random() < TRICKED:
            asked[0] = rng.choice(tricky(thing, things, rng, "selector"))
        unlabelled = [(kind, question, []) for kind, question, _ in asked]
        made.add(_spoiled(jpeg, rng) if rng.random() < 0.2 else jpeg, unlabelled)
    pool = reliability.pool("recover", "selector")
    for _ in range(RECOVER["drawn"]):
        image, drawn = pool.take(rng.choice(("things", "shapes", "writing", "photo")), RECOVER_EACH, "train")
        made.add(image, [(kind, question, []) for kind, question, _ in drawn])
    made.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with grocery.zip and clothing.zip")
    parser.add_argument("--photos", type=Path, required=True, help="folder of others' photos of ImageNet classes")
    arguments = parser.parse_args()
    things = all_things(arguments.data)
    tests(arguments.data, arguments.photos, things)
    foreign()
    selecting(arguments.data, arguments.photos, things)
    recovering(arguments.data, arguments.photos, things)


if __name__ == "__main__":
    main()

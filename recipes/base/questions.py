"""Questions files for the base model's Selector, its thresholds and its tests.

    python -m recipes.base.questions --data FOLDER --photos FOLDER --everyday FOLDER   # after recipes.mini.data

writes `build/base/questions/`. `selector.jsonl` trains the Selector, `calibration.jsonl` (one question a picture) chooses its
thresholds, the rest measure. No picture is in two of them, and none taught the LM:

| pictures | selector | calibration | tests |
|---|---|---|---|
| grocery, clothing | `gate`, a seventh of the training photos | the authors' validation photos | their test photos |
| others' photos of ImageNet classes: n01440764_anything | classes 0, 5, ... and 1, 6, ... | 2, 7, ... | the rest |
| the mini's | as in `recipes.mini.reliability` | | |

The Selector sees wordings of training; thresholds and tests see others. A tenth of the pictures of the first two is degraded,
and one question in twenty cannot be answered from a picture ("unanswerable": to abstain is right).
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from PIL import Image

from recipes.base import asking, lexicon, sights
from recipes.base.asking import Asked
from recipes.base.lexicon import Thing
from recipes.base.photos import Photos
from recipes.base.sights import BUILD, SHOPS, thing_of
from recipes.mini import questions, reliability
from recipes.mini.reliability import UNANSWERABLE, WEIGHTS, degrade

OUT = BUILD / "questions"
EVERYDAY = Path(__file__).with_name("everyday.tsv")
DRAWN = {"selector": 2000, "calibration": 1200}  # questions about pictures of the mini's recipe
ASKED = {"selector": 2, "calibration": 1}  # questions a photo
SYNONYMS = 4  # a right name counts as said by four annotators: `metrics.vqa_accuracy` then gives it 1


class Builder:
    """Writes pictures and lines of one questions file."""

    def __init__(self, name: str, out: Path = OUT) -> None:
        self.name, self.out, self.lines, self.pictures = name, out, [], 0
        self.folder = out / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, image: Image.Image | bytes | str, asked: list[tuple[str, str, list[str]]], **more: str) -> str:
        """image: or the bytes of a JPEG file, kept as they are, or what this returned of another file's picture. more: keys of
        every line."""
        place = (
            image
            if isinstance(image, str)
            else f"{self.name}/{self.pictures:05d}.{'jpg' if isinstance(image, bytes) else 'png'}"
        )
        self.pictures += 1
        if isinstance(image, bytes):
            (self.out / place).write_bytes(image)
        elif not isinstance(image, str):
            image.save(self.out / place, compress_level=1)
        for kind, question, answers in asked:
            line = {"question_id": f"{self.name}-{len(self.lines)}", "image": place}
            self.lines.append(line | {"question": question, "answers": answers, "kind": kind} | more)
        return place

    def close(self) -> None:
        (self.out / f"{self.name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        print(f"{self.name}: {len(self.lines)} questions on {self.pictures} pictures", flush=True)


def accepted(kind: str, answer: str, thing: Thing, synonyms: bool) -> list[str]:
    """What counts as right: of others' photos any name of the thing, or a plain kind of it."""
    if not synonyms or kind not in ("what", "which", "category"):
        return [answer]
    names = {
        "what": (*thing.names, *thing.kinds),
        "which": thing.names[1:] or thing.names,
        "category": (*thing.kinds, thing.name),
    }
    return [name for name in dict.fromkeys((answer, *names[kind])) for _ in range(SYNONYMS)]


def some(asked: list[Asked], count: int, rng: Random) -> list[Asked]:
    """`count` of the questions; what it is and which kind are asked as often as all others together."""
    kept: list[Asked] = []
    while len(kept) < min(count, len(asked)):
        wanted = rng.choices(("what", "which", "rest"), (0.34, 0.16, 0.5))[0]
        left = [one for one in asked if one not in kept]
        fit = [one for one in left if (one[0] if one[0] in ("what", "which") else "rest") == wanted]
        kept.append(rng.choice(fit or left))
    return kept


def shop_photos(name: str, part: str, folder: Path) -> Iterator[tuple[bytes, Thing]]:
    zipped = Photos(folder / f"{name}.zip")
    for number, photo in enumerate(zipped.listed):
        if sights.part_of(number, photo) == part:
            image = zipped.open(photo)
            seen = thing_of(photo, sights.photos.colour(sights.photos.whole(image)))
            yield zipped.read(photo), seen


def others_photos(folder: Path, part: str) -> Iterator[tuple[bytes, Thing]]:
    listing = (BUILD / "imagenet_synsets.txt").read_text().split()
    places = {"selector": (0, 1), "calibration": (2,), "test": (3, 4)}[part]
    for path in sorted(folder.glob("n*_*")):
        place = listing.index(path.name.partition("_")[0])
        if place % 5 in places:
            yield path.read_bytes(), lexicon.thing(listing[place][1:])


def gate(name: str, data: Path, photos: Path, everything: list[Thing]) -> None:
    """The file that trains the Selector, or the one that chooses thresholds."""
    made, rng, part = Builder(name), Random(f"base {name}"), {"selector": "train", "calibration": "test"}[name]
    asker = questions.Asker(rng, part)
    sources = [(shop, shop_photos(shop, {"selector": "gate", "calibration": "dev"}[name], data)) for shop in SHOPS]
    for source, shown in (*sources, ("others", others_photos(photos, name))):
        for picture, thing in shown:
            asked = some(asking.ask(thing, everything, rng, part, 20, polite=0.3), ASKED[name], rng)
            answered = [(f"{source} {k}", q, accepted(k, a, thing, source == "others")) for k, q, a in asked]
            if rng.random() < 0.05:
                answered = [(f"{source} unknowable", asker.unknowable(thing.name)[1], [UNANSWERABLE])]
            if rng.random() < 0.1:
                made.add(
                    degrade(Image.open(io.BytesIO(picture)).convert("RGB"), rng),
                    [(f"degraded {k}", q, a) for k, q, a in answered],
                )
            else:
                made.add(picture, answered)
    pool = reliability.pool(f"base {name}", name)
    for _ in range(DRAWN[name] // (2 if name == "selector" else 1)):
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        shown_kind = rng.choice(("photo", "things", "shapes", "writing")) if kind in ("foreign", "unknowable") else kind
        try:
            image, asked = pool.take(shown_kind, 4, part)
        except StopIteration:
            continue
        asked = rng.sample(asked, min(2 if name == "selector" else 1, len(asked)))
        if kind == "foreign":
            asked = [("foreign", rng.choice(reliability.FOREIGN["selector" if name == "selector" else "test"]), UNANSWERABLE)]
        elif kind == "unknowable":
            asked = [questions.Asker(rng, part).unknowable("thing")]
        elif rng.random() < 0.15:
            image, asked = degrade(image, rng), [(f"degraded {k}", q, a) for k, q, a in asked]
        # what cannot be told from a picture: here to abstain is right, whatever the LM says
        told = [(k, q, [UNANSWERABLE if a == questions.CANNOT_TELL else a]) for k, q, a in asked]
        made.add(image, told, scene=kind)
    made.close()


def tests(data: Path, photos: Path, everything: list[Thing]) -> None:
    for shop in SHOPS:
        for name, polite in ((f"{shop}_test", 0.0), (f"{shop}_talk_test", 1.0)):
            made, rng = Builder(name), Random(name)
            for picture, thing in shop_photos(shop, "test", data):
                asked = asking.ask(thing, everything, rng, "test", 20, polite=polite)
                made.add(picture, [(k, q, [a]) for k, q, a in asked if k in ("what", "which")] + [
                    (k, q, [a]) for k, q, a in some([one for one in asked if one[0] not in ("what", "which")], 1, rng)
                ])  # fmt: skip
            made.close()
    made, rng = Builder("others_test"), Random("others_test")
    for picture, thing in others_photos(photos, "test"):
        asked = asking.ask(thing, everything, rng, "test", 20, polite=0.0)
        made.add(picture, [(k, q, accepted(k, a, thing, True)) for k, q, a in asked])
    made.close()


def everyday(folder: Path) -> None:
    """Our own questions (everyday.tsv) over free photos that nothing else uses; answers apart by `/` are all right."""
    made = Builder("everyday_test")
    rows = [line.split("\t") for line in EVERYDAY.read_text().splitlines()[1:]]
    for photo in dict.fromkeys(row[0] for row in rows):
        source, _, name = photo.partition(":")
        path = folder / source / name
        if path.is_dir():  # a wallpaper, in several sizes
            path = (sorted(path.rglob("1280x800.jpg")) + sorted(path.rglob("*.jpg")))[0]
        asked = [(q, [a for a in answers.split("/") for _ in range(SYNONYMS)]) for own, q, answers in rows if own == photo]
        made.add(path.read_bytes(), [("everyday", question, answers) for question, answers in asked])
    made.close()


def all_things(data: Path) -> list[Thing]:
    """All that can be seen: ImageNet's classes and what shops sell. data: folder with grocery.zip and clothing.zip."""
    goods = [thing_of(photo) for shop in SHOPS for photo in Photos(data / f"{shop}.zip").listed]
    return [*lexicon.imagenet(BUILD / "imagenet_synsets.txt"), *dict.fromkeys(goods)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with grocery.zip and clothing.zip")
    parser.add_argument("--photos", type=Path, required=True, help="folder of others' photos of ImageNet classes")
    parser.add_argument("--everyday", type=Path, required=True, help="folder with packt, plasma, azure, lab (the model card)")
    arguments = parser.parse_args()
    things = all_things(arguments.data)
    for name in ("selector", "calibration"):
        gate(name, arguments.data, arguments.photos, things)
    tests(arguments.data, arguments.photos, things)
    everyday(arguments.everyday)


if __name__ == "__main__":
    main()

"""Questions files for the Selector, its thresholds, and the measurements.

    python -m recipes.mini.reliability

writes `build/mini/questions/`: `selector.jsonl` trains the Selector; `calibration.jsonl` (one question a picture) chooses its
thresholds; `mix_test.jsonl`, drawn like it, measures both; `TESTS` measure the model, kind by kind.

No photo, scene or easy-VQA picture is in two of the first two, and the official test pictures are in tests only. The Selector
sees training and `dev` wordings; thresholds and tests see wordings that neither it nor the model was trained on, and words
on signs that were held back.

The mix: 25 % photos, 28 % everyday things, 12 % shape scenes, 8 % easy-VQA, 15 % writing, 4 % pictures of nothing, 3 %
questions in other languages, 5 % questions that no picture answers; a seventh of all pictures is degraded (blur, noise,
darkness, a hidden part, coarse pixels). What this model cannot answer at all has the reference "unanswerable", which it never
gives: the right thing to do is to abstain.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from random import Random

import numpy as np
from PIL import Image, ImageFilter

from recipes.mini import data, questions, scenes, train
from recipes.mini.data import Pictures
from recipes.mini.questions import Question

OUT = data.BUILD / "questions"
MBQ_CALIBRATION = OUT / "mbq_calibration.jsonl"  # 128 of the Selector's questions
UNANSWERABLE = "unanswerable"
SELECTOR, CALIBRATION, MIX = 12_000, 4_000, 6_000  # questions
TESTS = {
    "easy_test": "easy-VQA, official test",
    "photo_test": "CIFAR-10 test photos, half of them pasted on a background",
    "things_test": "everyday things, Noto and Twemoji",
    "shapes_test": "scenes of several shapes",
    "writing_test": "writing, words never trained on",
    "absent_test": "about what is not there, or in no picture",
}
STRANGE = {
    "absent_test": "about what is not there, or in no picture",
    "fluent_test": "everyday things in a style never seen (Fluent 3D)",
    **{f"corrupted_{severity}": f"corrupted pictures, severity {severity}" for severity in range(1, 6)},
    "outside_test": "real photos outside the ten classes, any size",
    "foreign_test": "questions in other languages",
}
# photos whose subject has no name in the model's vocabulary
OUTSIDE = (
    *(
        f"debian/usr/share/backgrounds/{name}.jpg"
        for name in (
            *("Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "Infinite-Sea_by_Aury88", "Picture_0B_by_freespace"),
            *("Picture_1A_by_freespace", "Wine_by_Jakkub_Mede", "aitzgorri_by_Aitzol_Berasategi", "life_by_Aitzol_Berasategi"),
            *("greentock_by_Peter_Nerlich", "picosdeeuropa_by_Aitzol_Berasategi", "seeding_by_Clements_Engelhardt"),
            *("sunset_by_Aitzol_Berasategi", "mate/nature/Aqua", "mate/nature/Blinds", "mate/nature/Dune"),
            *("mate/nature/FreshFlower", "mate/nature/Garden", "mate/nature/GreenMeadow", "mate/nature/RainDrops"),
            *("mate/nature/Storm", "mate/nature/TwoWings", "mate/nature/Wood", "mate/nature/YellowFlower"),
        )
    ),
    *(
        f"skimage/data/{name}"
        for name in (
            *(
                "astronaut.png",
                "brick.png",
                "cell.png",
                "grass.png",
                "gravel.png",
                "hubble_deep_field.jpg",
                "ihc.png",
                "moon.png",
            ),
            *("page.png", "retina.jpg"),
        )
    ),
)
FOREIGN = {
    "selector": (
        *("was ist das?", "wie viele dinge sind da?", "was steht da?", "welche farbe hat es?", "ist da ein hund?"),
        *("qu'est-ce que c'est ?", "combien y en a-t-il ?", "qu'est-ce qui est écrit ?", "y a-t-il un chat ?"),
        *("¿qué es esto?", "¿cuántas cosas hay?", "¿de qué color es?", "¿hay un perro?", "che cos'è?", "quante cose ci sono?"),
        *(
            "di che colore è?",
            "o que é isto?",
            "quantos objetos há?",
            "wat is dit?",
            "hoeveel dingen zijn er?",
            "vad är det här?",
        ),
        *(
            "co to jest?",
            "ile ich jest?",
            "что это?",
            "сколько их?",
            "какого оно цвета?",
            "bu nedir?",
            "これは何ですか",
            "这是什么",
        ),
    ),
    "test": (
        *(
            "was siehst du?",
            "was ist links?",
            "wie heißt das?",
            "kann es fliegen?",
            "was steht auf dem schild?",
            "ist es ein tier?",
        ),
        *("que vois-tu ?", "quelle est la couleur ?", "quel est le prix ?", "est-ce un animal ?", "que voit-on à gauche ?"),
        *("¿qué ves?", "¿qué dice?", "¿es un animal?", "¿qué hay a la izquierda?", "che cosa vedi?", "c'è un cane?"),
        *("quanto costa?", "de que cor é?", "o que está escrito?", "wat zie je?", "welke kleur is het?", "hur många är det?"),
        *("jaki to kolor?", "czy to zwierzę?", "что написано?", "это животное?", "kaç tane var?", "何色ですか", "有几个"),
    ),
}


def degrade(image: Image.Image, rng: Random) -> Image.Image:
    """One of five things that go wrong with a camera."""
    kind = rng.choice(("blur", "noise", "dark", "hidden", "coarse"))
    size = image.width
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(2, 6)))
    if kind == "coarse":
        small = image.resize((size // rng.randint(4, 9),) * 2, Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.NEAREST)
    pixels = np.asarray(image).astype(np.float32)
    noise = np.random.default_rng(rng.randrange(2**32))
    if kind == "noise":
        pixels = pixels + noise.normal(0, rng.uniform(25, 90), pixels.shape)
    elif kind == "dark":
        pixels = pixels * rng.uniform(0.05, 0.25) + noise.normal(0, 6, pixels.shape)
    else:
        side = rng.randint(size // 2, size * 4 // 5)
        x, y = rng.randint(0, size - side), rng.randint(0, size - side)
        pixels[y : y + side, x : x + side] = [rng.randint(0, 255) for _ in range(3)]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def show_photo(photo: np.ndarray, rng: Random, backs: np.ndarray, pasted: bool) -> Image.Image:
    """A photo that fills the frame, shifted and cropped a little, or lies on some background."""
    image = Image.fromarray(photo)
    if not pasted:
        side = image.width * rng.uniform(0.85, 1)
        x, y = (rng.uniform(0, image.width - side) for _ in range(2))
        return image.resize((scenes.SIZE, scenes.SIZE), Image.Resampling.BICUBIC, (x, y, x + side, y + side))
    side = round(scenes.SIZE * rng.uniform(0.5, 0.95))
    back = scenes.background(rng, backs)
    back.paste(
        image.resize((side, side), Image.Resampling.LANCZOS), tuple(rng.randint(0, scenes.SIZE - side) for _ in range(2))
    )
    return scenes.camera(back, rng)


class Builder:
    """Writes pictures and lines of one questions file."""

    def __init__(self, name: str) -> None:
        self.name, self.lines, self.pictures = name, [], 0
        self.folder = OUT / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, image: Image.Image, asked: list[Question], **more: str) -> None:
        """more: keys of every line."""
        path = self.folder / f"{self.pictures:05d}.png"
        self.pictures += 1
        image.save(path, compress_level=1)
        for kind, question, answer in asked:
            line = {"question_id": f"{self.name}-{len(self.lines)}", "image": f"{self.name}/{path.name}"}
            self.lines.append(line | {"question": question, "answers": [answer], "kind": kind} | more)

    def close(self) -> None:
        (OUT / f"{self.name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        print(f"{self.name}: {len(self.lines)} questions on {self.pictures} pictures", flush=True)


class Pool:
    """Photos and easy-VQA pictures of one split, each given out once; scenes from seeds of their own."""

    def __init__(self, name: str, photos: Pictures, numbers: list[int], easy: Pictures, easy_asked: dict[int, list[Question]]):
        self.rng = Random(name)
        self.photos, self.easy, self.easy_asked = photos, easy, easy_asked
        self.numbers = iter(self.rng.sample(numbers, len(numbers)))
        self.easy_numbers = iter(self.rng.sample(sorted(easy_asked), len(easy_asked)))
        self.words = "train" if name == "selector" else "test"
        self.backs = photos.images[sorted(numbers)[::7]]

    def take(self, kind: str, n: int, part: str, asker: questions.Asker | None = None) -> tuple[Image.Image, list[Question]]:
        """A picture of a kind with up to n questions, in the wordings of `part` unless another asks."""
        rng, asker = self.rng, asker or questions.Asker(self.rng, part)
        if kind == "photo":
            number = next(self.numbers)
            scene = train.photo(self.photos.labels[number, 0])
            image = show_photo(self.photos.images[number], rng, self.backs, rng.random() < 0.5)
            return image, questions.ask_with(asker, scene, n)
        if kind == "easy":
            number = next(self.easy_numbers)
            own = self.easy_asked[number]
            return Image.fromarray(self.easy.images[number]), rng.sample(own, min(n, len(own)))
        if kind == "writing":
            drawn = scenes.writing(rng, self.backs, self.words)
        else:
            drawn = scenes.DRAW["backgrounds" if kind == "nothing" else kind](rng, self.backs)
        return drawn.image, questions.ask_with(asker, drawn.scene, n)


WEIGHTS = {"photo": 25, "things": 28, "shapes": 12, "easy": 8, "writing": 15, "nothing": 4, "foreign": 3, "unknowable": 5}


def mix(name: str, count: int, pool: Pool, per_picture: int, parts: tuple[str, ...]) -> None:
    made, rng = Builder(name), pool.rng
    languages = FOREIGN["selector" if name == "selector" else "test"]
    while len(made.lines) < count:
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        part = rng.choice(parts)
        shown = rng.choice(("photo", "things", "shapes", "writing")) if kind in ("foreign", "unknowable") else kind
        try:
            image, asked = pool.take(shown, 4, part)
        except StopIteration:  # easy-VQA has few pictures
            continue
        asked = rng.sample(asked, min(per_picture, len(asked)))
        if kind == "foreign":
            asked = [("foreign", rng.choice(languages), UNANSWERABLE)]
        elif kind == "unknowable":
            present = next((q[2] for q in asked if q[0] in ("photo what", "what")), "thing")
            asked = [questions.Asker(rng, part).unknowable(present)]
        elif rng.random() < 0.15:
            image, asked = degrade(image, rng), [(f"degraded {k}", q, a) for k, q, a in asked]
        made.add(image, asked, scene=kind)
    made.close()


def only(name: str, kinds: tuple[str, ...], pool: Pool, shown: tuple[str, ...], per_picture: int, each: int) -> None:
    """A test of some kinds of questions, at least `each` of every group that they belong to."""
    made = Builder(name)
    groups = [group for group in questions.GROUPS.values() if set(group) & set(kinds)]
    counts = dict.fromkeys(groups, 0)
    while min(counts.values()) < each:
        image, asked = pool.take(pool.rng.choice(shown), 6, "test")
        chosen: list[Question] = []
        for question in asked:
            group = next((g for g in groups if question[0] in g), None)
            if group and counts[group] < each + 200 and len(chosen) < per_picture and question[0] in kinds:
                chosen.append(question)
                counts[group] += 1
        if chosen:
            made.add(image, chosen)
    made.close()


def plain(name: str, pictures: Iterator[tuple[Image.Image, list[Question]]]) -> None:
    made = Builder(name)
    for image, asked in pictures:
        made.add(image, asked)
    made.close()


def members(*names: str) -> tuple[str, ...]:
    return tuple(kind for name in names for kind in questions.GROUPS[name])


def pool(name: str, split: str) -> Pool:
    """Pictures of `selector`, `calibration` or the official tests (`test`)."""
    if split == "test":
        photos, easy = data.load("cifar_test"), data.load("easy_test")
        return Pool(name, photos, list(range(len(photos.images))), easy, train.easy_questions("test"))
    photos, easy, parts, own = data.load("cifar_train"), data.load("easy_train"), data.splits(), train.easy_questions("train")
    return Pool(name, photos, parts["cifar"][split], easy, {n: own[n] for n in parts["easy"][split]})


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    mix("selector", SELECTOR, pool("selector", "selector"), 2, ("train", "dev"))
    lines = (OUT / "selector.jsonl").read_text().splitlines(keepends=True)
    MBQ_CALIBRATION.write_text("".join(Random(11).sample(lines, 128)))
    mix("calibration", CALIBRATION, pool("calibration", "calibration"), 1, ("test",))
    mix("mix_test", MIX, pool("mix_test", "test"), 1, ("test",))
    tests = pool("tests", "test")
    test_photos = tests.photos
    plain("easy_test", ((Image.fromarray(tests.easy.images[n]), own) for n, own in tests.easy_asked.items()))
    asker, rng = questions.Asker(tests.rng, "test"), tests.rng

    def photo_test() -> Iterator[tuple[Image.Image, list[Question]]]:
        for n in range(0, len(test_photos.images), 2):
            label = data.CLASSES[test_photos.labels[n, 0]]
            pasted = n % 4 == 2
            what = ("pasted photo what" if pasted else "photo what", asker.word("what"), label)
            asked = [what, rng.choice((asker.photo_is_it, asker.photo_property))(label)]
            yield show_photo(test_photos.images[n], rng, tests.backs, pasted), asked

    plain("photo_test", photo_test())
    ours = members("things: what", "things: how many", "things: relations", "things: yes/no", "things: kind, colour, mood")
    only("things_test", ours, tests, ("things",), 2, 1200)
    only("shapes_test", members("shapes"), tests, ("shapes",), 2, 2000)
    only("writing_test", members("writing"), tests, ("writing",), 1, 2000)
    only("absent_test", members("unanswerable", "unknowable"), tests, ("photo", "things", "shapes", "writing"), 1, 1200)
    strange(tests)


def corrupt(image: Image.Image, rng: Random, severity: int) -> Image.Image:
    """One of seven corruptions. Severities 1 to 5 with the parameters of Hendrycks and Dietterich (arXiv 1903.12261) for small
    pictures where they have the same kind."""
    kind, level = rng.choice(("noise", "blur", "dark", "bright", "contrast", "coarse", "jpeg")), severity - 1
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur((1, 2, 3, 4, 6)[level]))
    if kind == "coarse":
        small = image.resize((int(image.width * (0.6, 0.5, 0.4, 0.3, 0.25)[level]),) * 2, Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.NEAREST)
    if kind == "jpeg":
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=(25, 18, 15, 10, 7)[level])
        return Image.open(stream).convert("RGB")
    pixels = np.asarray(image).astype(np.float32) / 255
    if kind == "noise":
        pixels = pixels + np.random.default_rng(rng.randrange(2**32)).normal(
            0, (0.08, 0.12, 0.18, 0.26, 0.38)[level], pixels.shape
        )
    elif kind == "contrast":
        pixels = pixels.mean((0, 1)) + (pixels - pixels.mean((0, 1))) * (0.4, 0.3, 0.2, 0.1, 0.05)[level]
    else:
        pixels = pixels + (1 if kind == "bright" else -1) * (0.1, 0.2, 0.3, 0.4, 0.5)[level]
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))


def strange(pool: Pool) -> None:
    """What the model was never shown: another style of emoji, corrupted pictures, other photos, other languages."""
    rng = Random("strange")
    kinds = members("things: what", "things: how many", "things: relations", "things: yes/no")
    drawn = [scenes.things(rng, pool.backs, ("fluent",)) for _ in range(1500)]
    asked = [[q for q in questions.ask(d.scene, 5, rng, "test") if q[0] in kinds][:2] for d in drawn]
    plain("fluent_test", ((d.image, own) for d, own in zip(drawn, asked, strict=True) if own))
    shown = ("photo", "things", "shapes", "writing")
    same = [pool.take(rng.choice(shown), 3, "test") for _ in range(400)]
    for severity in range(1, 6):
        plain(f"corrupted_{severity}", ((corrupt(image, rng, severity), own) for image, own in same))
    asker = questions.Asker(rng, "test")

    def outside() -> Iterator[tuple[Image.Image, list[Question]]]:
        for path in OUTSIDE:
            photo = Image.open(scenes.ART / path).convert("RGB")
            photo.thumbnail((1600, 1600))
            for _ in range(6):
                side = min(photo.size) * rng.uniform(0.5, 1)
                x, y = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
                crop = photo.crop([round(v) for v in (x, y, x + side, y + side)])
                yield crop, [("outside", asker.word("what"), UNANSWERABLE)]

    plain("outside_test", outside())
    plain(
        "foreign_test",
        ((pool.take(rng.choice(shown), 1, "test")[0], [("foreign", text, UNANSWERABLE)]) for text in FOREIGN["test"] * 8),
    )


if __name__ == "__main__":
    main()

"""Questions files for the Selector, its thresholds, and the measurements.

    python -m recipes.mini.reliability

writes `build/mini/questions/`: `selector.jsonl` (trains the Selector), `calibration.jsonl` (chooses thresholds, one
question a picture), `mix_first.jsonl`, `mix_second.jsonl` and `mix_test.jsonl` (one question a picture, official test pictures,
no photo in two of them: the first two were looked at while the Selector was being made, the last measures it), and the two
plain tests `easy_test.jsonl` (all of easy-VQA's test), `photo_test.jsonl` ("what is it" on CIFAR-10's test) and
`photo_yes_no_test.jsonl`.

The mix: 50 % photos, 20 % easy-VQA, 15 % degraded pictures of both (blur, noise, darkness, a hidden part), 15 % unrelated:
drawn textures, shape questions about photos, and questions that this model cannot know. What cannot be answered has the
reference answer "unanswerable", which the model never gives: the right thing to do is to abstain. Questions that the model
cannot know are worded differently for the Selector's training than for calibration and test.
"""

from __future__ import annotations

import json
from random import Random

import numpy as np
from PIL import Image, ImageFilter

from recipes.mini import data, questions
from recipes.mini.data import SIZE, Pictures

OUT = data.BUILD / "questions"
UNANSWERABLE = "unanswerable"
UNKNOWABLE = {
    "selector": (
        *("who is he?", "who is she?", "who took this photo?", "who owns it?", "who is this?", "where is it?"),
        *("where was this taken?", "where is it going?", "in which country is this?", "when was this taken?"),
        *("what time is it?", "what year is it?", "what season is it?", "is it day or night?", "why is it moving?"),
        *("how many people are there?", "how big is it?", "how much does it cost?", "how fast is it?", "how heavy is it?"),
        *("how far away is it?", "how does it work?", "what is it doing?", "what is the person doing?", "what brand is it?"),
        *("what number is shown?", "what is the weather like?", "what does the sign say?", "what is it made of?"),
        *(
            "what is it eating?",
            "what is next to it?",
            "what is on the left?",
            "what is in the background?",
            "what is its name?",
        ),
        *("what material is this?", "what is the temperature?", "what is the price?", "what language is this?"),
        *("what song is this?", "what is wrong here?", "what happens next?", "what should i do?", "what does it eat?"),
        *(
            "what sound does it make?",
            "what is it used for?",
            "what is above it?",
            "which one is bigger?",
            "which team is this?",
        ),
        *("which street is this?", "which way is it facing?", "is it raining?", "is it old?", "is it happy?", "is it safe?"),
        *("is it expensive?", "is it sunny?", "is anyone there?", "are there trees?", "are they friends?", "does it bite?"),
        *("do i need a coat?", "will it move?", "tell me a joke.", "describe the picture.", "hello!", "thank you."),
        *("write a poem.", "translate this.", "can you help me?", "guess what this costs.", "say something."),
    ),
    "test": (
        "how many are there?",
        "what is the date today?",
        "what is written here?",
        "what is the name of this person?",
        "is it hot or cold outside?",
        "what is on the right?",
        "who made this?",
        "how old is it?",
        "which city is this?",
        "what is behind it?",
        "why is it here?",
        "what letter do you see?",
    ),
}


def degrade(image: Image.Image, rng: Random) -> Image.Image:
    """One of four things that go wrong with a camera."""
    kind = rng.choice(("blur", "noise", "dark", "hidden"))
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(2, 5)))
    pixels = np.asarray(image).astype(np.float32)
    noise = np.random.default_rng(rng.randrange(2**32))
    if kind == "noise":
        pixels = pixels + noise.normal(0, rng.uniform(25, 80), pixels.shape)
    elif kind == "dark":
        pixels = pixels * rng.uniform(0.05, 0.25) + noise.normal(0, 6, pixels.shape)
    else:
        side = rng.randint(SIZE // 2, SIZE - 12)
        x, y = rng.randint(0, SIZE - side), rng.randint(0, SIZE - side)
        pixels[y : y + side, x : x + side] = [rng.randint(0, 255) for _ in range(3)]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def texture(rng: Random) -> Image.Image:
    """A picture of nothing: noise, stripes, a gradient or blobs."""
    noise = np.random.default_rng(rng.randrange(2**32))
    kind = rng.choice(("noise", "stripes", "gradient", "blobs"))
    first, second = (noise.integers(0, 256, 3).astype(np.float32) for _ in range(2))
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    if kind == "noise":
        side = rng.choice((8, 16, 64))
        small = Image.fromarray(noise.integers(0, 256, (side, side, 3)).astype(np.uint8))
        return small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    if kind == "blobs":
        small = Image.fromarray((noise.random((5, 5)) * 255).astype(np.uint8))
        share = np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) / 255
    else:
        angle = rng.uniform(0, np.pi)
        share = x * np.cos(angle) + y * np.sin(angle)
        share = (share - share.min()) / np.ptp(share)
        if kind == "stripes":
            share = (share * rng.randint(3, 12)) % 1 > 0.5
    mixed = first + (second - first) * np.asarray(share, np.float32)[..., None]
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


class Builder:
    """Writes pictures and lines of one questions file."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.rng, self.lines = name, Random(seed), []
        self.folder = OUT / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, image: np.ndarray | Image.Image, picture: str, asked: list[questions.Question]) -> None:
        path = self.folder / f"{picture}.png"
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)
        for kind, question, answer in asked:
            line = {"question_id": f"{self.name}-{len(self.lines)}", "image": f"{self.name}/{path.name}"}
            self.lines.append(line | {"question": question, "answers": [answer], "kind": kind})

    def close(self) -> None:
        # by picture, so that neighbours share one
        self.lines.sort(key=lambda line: line["image"])
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        (OUT / f"{self.name}.jsonl").write_text(text)
        print(f"{self.name}: {len(self.lines)} questions")


def photo_asked(label: str, rng: Random) -> questions.Question:
    draw = rng.random()
    if draw < 0.5:
        return questions.photo_what(label, rng)
    return questions.photo_is_a(label, rng) if draw < 0.75 else questions.photo_property(label, rng)


def mix(
    name: str,
    photos: Pictures,
    photo_numbers: list[int],
    easy: Pictures,
    easy_asked: dict[int, list],
    wordings: str,
    seed: int,
) -> list[int]:
    """One question a picture, in the proportions of the mix; as many as the easy-VQA pictures allow.

    Returns the numbers of the photos that were not used.
    """
    made, rng = Builder(name, seed), Random(seed + 1)
    easy_numbers = sorted(easy_asked)
    rng.shuffle(easy_numbers)
    photo_numbers = rng.sample(photo_numbers, len(photo_numbers))
    total = min(int(len(easy_numbers) / 0.2375), int(len(photo_numbers) / 0.7125))
    while sum(0.5 <= i / total < 0.7 or 0.8125 <= i / total < 0.85 for i in range(total)) > len(easy_numbers):
        total -= 1  # rounding of the shares
    fetch_photo, fetch_easy = iter(photo_numbers), iter(easy_numbers)

    def label(number: int) -> str:
        return questions.CLASSES[photos.labels[number, 0]]

    def easy_question(number: int) -> questions.Question:
        question, answer = rng.choice(easy_asked[number])
        return questions.easy_vqa_kind(answer), question, answer

    for i in range(total):
        part = i / total
        if part < 0.5:
            n = next(fetch_photo)
            made.add(photos.images[n], f"photo{n}", [photo_asked(label(n), rng)])
        elif part < 0.7:
            n = next(fetch_easy)
            made.add(easy.images[n], f"easy{n}", [easy_question(n)])
        elif part < 0.8125:
            n = next(fetch_photo)
            kind, question, answer = photo_asked(label(n), rng)
            made.add(degrade(Image.fromarray(photos.images[n]), rng), f"photo{n}", [(f"degraded {kind}", question, answer)])
        elif part < 0.85:
            n = next(fetch_easy)
            kind, question, answer = easy_question(n)
            made.add(degrade(Image.fromarray(easy.images[n]), rng), f"easy{n}", [(f"degraded {kind}", question, answer)])
        elif part < 0.9:
            made.add(texture(rng), f"texture{i}", [unanswerable_texture(rng)])
        elif part < 0.95:
            n = next(fetch_photo)
            made.add(photos.images[n], f"photo{n}", [("mismatched", *mismatched(rng))])
        else:
            n = next(fetch_photo)
            made.add(photos.images[n], f"photo{n}", [("unknowable", rng.choice(UNKNOWABLE[wordings]), UNANSWERABLE)])
    made.close()
    return list(fetch_photo)


def unanswerable_texture(rng: Random) -> questions.Question:
    asked = questions.photo_what("", rng) if rng.random() < 0.6 else ("", *mismatched(rng))
    return "texture", asked[1], UNANSWERABLE


def mismatched(rng: Random) -> tuple[str, str]:
    """A question about a coloured shape, for a picture that shows none."""
    wording = rng.choice((*questions.SHAPE_WHAT, *questions.COLOUR_WHAT, *questions.SHAPE_OF_COLOUR))
    return wording.format(shape=rng.choice(questions.SHAPES), colour=rng.choice(questions.COLOURS)), UNANSWERABLE


def selector_set(photos: Pictures, photo_numbers: list[int], easy: Pictures, easy_asked: dict[int, list], seed: int) -> None:
    """Several questions a picture, clean and degraded, and the unrelated kinds."""
    made, rng = Builder("selector", seed), Random(seed + 1)
    for n in photo_numbers:
        label = questions.CLASSES[photos.labels[n, 0]]
        asked = [questions.photo_what(label, rng), photo_asked(label, rng)]
        if rng.random() < 0.12:
            asked.append(("mismatched", *mismatched(rng)))
        if rng.random() < 0.35:
            asked.append(("unknowable", rng.choice(UNKNOWABLE["selector"]), UNANSWERABLE))
        made.add(photos.images[n], f"photo{n}", asked)
        if rng.random() < 0.3:
            kind, question, answer = photo_asked(label, rng)
            image = degrade(Image.fromarray(photos.images[n]), rng)
            made.add(image, f"photo{n}-degraded", [(f"degraded {kind}", question, answer)])
        if rng.random() < 0.15:
            made.add(texture(rng), f"texture{n}", [unanswerable_texture(rng)])
    for n, own in easy_asked.items():
        asked = [(questions.easy_vqa_kind(answer), question, answer) for question, answer in own]
        made.add(easy.images[n], f"easy{n}", asked)
        made.add(degrade(Image.fromarray(easy.images[n]), rng), f"easy{n}-degraded", rng.sample(asked, min(2, len(asked))))
    made.close()


def easy_questions(split: str, numbers: list[int] | None = None) -> dict[int, list[tuple[str, str]]]:
    """Picture number -> its (question, answer) pairs."""
    asked: dict[int, list[tuple[str, str]]] = {}
    wanted = None if numbers is None else set(numbers)
    for question, answer, picture in json.loads((data.BUILD / f"easy_{split}.json").read_text()):
        if wanted is None or picture in wanted:
            asked.setdefault(picture, []).append((question, answer))
    return asked


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    parts = data.splits()
    photos, easy = data.load("cifar_train"), data.load("easy_train")
    test_photos, test_easy = data.load("cifar_test"), data.load("easy_test")
    selector_set(photos, parts["cifar"]["selector"], easy, easy_questions("train", parts["easy"]["selector"]), 11)
    calibration = easy_questions("train", parts["easy"]["calibration"])
    mix("calibration", photos, parts["cifar"]["calibration"], easy, calibration, "test", 22)
    every = list(range(len(test_photos.images)))
    unused = mix("mix_first", test_photos, every, test_easy, easy_questions("test"), "test", 33)
    unused = mix("mix_second", test_photos, unused, test_easy, easy_questions("test"), "test", 66)
    mix("mix_test", test_photos, unused, test_easy, easy_questions("test"), "test", 99)
    made = Builder("easy_test", 44)
    for n, own in easy_questions("test").items():
        asked = [(questions.easy_vqa_kind(answer), question, answer) for question, answer in own]
        made.add(test_easy.images[n], f"easy{n}", asked)
    made.close()
    made = Builder("photo_test", 55)
    for n in range(len(test_photos.images)):
        made.add(
            test_photos.images[n],
            f"photo{n}",
            [questions.photo_what(questions.CLASSES[test_photos.labels[n, 0]], made.rng)],
        )
    made.close()
    photo_yes_no(test_photos)


def photo_yes_no(photos: Pictures) -> None:
    """The yes/no questions about photos, both kinds on each of 2,000 pictures."""
    made = Builder("photo_yes_no_test", 77)
    for n in range(2000):
        label = questions.CLASSES[photos.labels[n * 5, 0]]
        asked = [questions.photo_is_a(label, made.rng), questions.photo_property(label, made.rng)]
        made.add(photos.images[n * 5], f"photo{n * 5}", asked)
    made.close()


if __name__ == "__main__":
    main()

"""The questions the embedded model is trained and measured on: wordings and reference answers, as data.

A question is a `(kind, question, answer)` triple. Answers are single lower-case words. Yes/no questions are balanced
within each predicate, so that a model that cannot see the picture stays near one half.
"""

from __future__ import annotations

from random import Random

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")

Question = tuple[str, str, str]

# Names people use for the ten classes; the answer is always the class name itself.
SYNONYMS = {
    "airplane": ("airplane", "plane", "aircraft"),
    "automobile": ("automobile", "car"),
    "ship": ("ship", "boat"),
    "truck": ("truck", "lorry"),
}

PLACES = ("in the picture", "in the image", "in the photo", "in this picture", "in this photo", "here")

WHAT = (
    "what is this?",
    "what is it?",
    "what is {place}?",
    "what is shown {place}?",
    "what can you see {place}?",
    "what do you see {place}?",
    "what do you see?",
    "what does the {picture} show?",
    "which thing is {place}?",
    "name the thing {place}.",
)
IS_A = (
    "is this {a_noun}?",
    "is it {a_noun}?",
    "is there {a_noun}?",
    "is there {a_noun} {place}?",
    "do you see {a_noun}?",
    "can you see {a_noun} {place}?",
    "does the {picture} show {a_noun}?",
    "is {a_noun} shown {place}?",
)

# predicate -> (wordings, the classes it is true of, the classes it is false of). Doubtful classes stand in neither.
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
VEHICLES = ("airplane", "automobile", "ship", "truck")
PREDICATES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "animal": (
        ("is this an animal?", "is it an animal?", "is there an animal {place}?", "does the {picture} show an animal?"),
        ANIMALS,
        VEHICLES,
    ),
    "vehicle": (
        ("is this a vehicle?", "is it a vehicle?", "is there a vehicle {place}?", "does the {picture} show a vehicle?"),
        VEHICLES,
        ANIMALS,
    ),
    "alive": (("is it alive?", "is it a living thing?", "is this a living thing?"), ANIMALS, VEHICLES),
    "machine": (("is it a machine?", "is this a machine?"), VEHICLES, ANIMALS),
    "fly": (
        ("can it fly?", "does it fly?", "can this fly?"),
        ("airplane", "bird"),
        ("automobile", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "wheels": (("does it have wheels?", "does this have wheels?"), ("automobile", "truck"), (*ANIMALS, "ship")),
    "legs": (("does it have four legs?",), ("cat", "deer", "dog", "frog", "horse"), ("bird", *VEHICLES)),
    "water": (("does it float on water?", "does it sail?"), ("ship",), ("airplane", "automobile", "truck", "cat")),
}

# easy-VQA's own wordings, and a few more for the same facts.
SHAPE_WHAT = ("what shape is in the image?", "what shape does the image contain?", "what shape is present?")
SHAPE_WHAT_MORE = ("what shape is this?", "what shape is it?", "which shape is {place}?", *WHAT)
COLOUR_WHAT = (
    "what color is the shape?",
    "what color is the {shape}?",
    "what is the color of the {shape}?",
    "what is the color of the shape?",
)
COLOUR_WHAT_MORE = ("what color is it?", "what color is this?", "what colour is the {shape}?", "what colour is it?")
SHAPE_OF_COLOUR = ("what is the {colour} shape?",)
PRESENT = (
    "is there a {thing}?",
    "is there a {thing} in the image?",
    "is a {thing} present?",
    "does the image contain a {thing}?",
)
ABSENT = (
    "is there not a {thing}?",
    "is there not a {thing} in the image?",
    "is no {thing} present?",
    "does the image not contain a {thing}?",
)


def _fill(template: str, rng: Random, **words: str) -> str:
    picture = rng.choice(("picture", "image", "photo"))
    return template.format(place=rng.choice(PLACES), picture=picture, **words)


def a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _is_a(label: str, truth: bool, rng: Random, others: tuple[str, ...]) -> Question:
    name = label if truth else rng.choice([o for o in others if o != label])
    noun = rng.choice(SYNONYMS.get(name, (name,)))
    return "is it a", _fill(rng.choice(IS_A), rng, a_noun=a(noun)), "yes" if truth else "no"


def photo_what(label: str, rng: Random) -> Question:
    return "what is it", _fill(rng.choice(WHAT), rng), label


def photo_is_a(label: str, rng: Random) -> Question:
    return _is_a(label, rng.random() < 0.5, rng, CLASSES)


def photo_property(label: str, rng: Random) -> Question:
    """A yes/no question on a property; each property is asked as often where it is true as where it is false."""
    weights = []
    for _, true_of, false_of in PREDICATES.values():
        weights.append(1 / len(true_of) if label in true_of else 1 / len(false_of) if label in false_of else 0.0)
    wordings, true_of, _ = rng.choices(list(PREDICATES.values()), weights)[0]
    return "property", _fill(rng.choice(wordings), rng), "yes" if label in true_of else "no"


def photo_questions(label: str, n: int, rng: Random) -> list[Question]:
    """`n` questions about a photo of `label`: the first asks what it is, the rest are yes/no questions."""
    questions = [photo_what(label, rng)]
    for _ in range(n - 1):
        draw = rng.random()
        if draw < 0.55:
            questions.append(photo_is_a(label, rng))
        elif draw < 0.95:
            questions.append(photo_property(label, rng))
        else:  # a shape question about a photo: the shape is never there
            thing = rng.choice(SHAPES) if rng.random() < 0.5 else f"{rng.choice(COLOURS)} shape"
            positive = rng.random() < 0.5
            wording = rng.choice(PRESENT if positive else ABSENT).format(thing=thing)
            questions.append(("absent", wording, "no" if positive else "yes"))
    return questions


def shape_yes_no(shape: str, colour: str, rng: Random) -> Question:
    """easy-VQA's yes/no questions, its four positive and four negative wordings, balanced."""
    truth = rng.random() < 0.5
    if rng.random() < 0.4:
        thing = shape if truth else rng.choice([s for s in SHAPES if s != shape])
    else:
        thing = (colour if truth else rng.choice([c for c in COLOURS if c != colour])) + " shape"
    positive = rng.random() < 0.5
    wording = rng.choice(PRESENT if positive else ABSENT).format(thing=thing)
    return "yes/no", wording, "yes" if truth == positive else "no"


def shape_questions(shape: str, colour: str, n: int, rng: Random) -> list[Question]:
    """`n` questions about a picture of one coloured shape: one on the shape, one on the colour, the rest yes/no."""
    if rng.random() < 0.25:
        first = rng.choice(SHAPE_OF_COLOUR).format(colour=colour)
    else:
        first = _fill(rng.choice(SHAPE_WHAT if rng.random() < 0.6 else SHAPE_WHAT_MORE), rng)
    second = rng.choice(COLOUR_WHAT if rng.random() < 0.75 else COLOUR_WHAT_MORE).format(shape=shape)
    questions = [("shape", first, shape), ("colour", second, colour)]
    for _ in range(n - 2):
        if rng.random() < 0.9:
            questions.append(shape_yes_no(shape, colour, rng))
        else:
            questions.append(("absent", *_is_a("", False, rng, CLASSES)[1:]))
    return questions


def easy_vqa_kind(answer: str) -> str:
    return "shape" if answer in SHAPES else "colour" if answer in COLOURS else "yes/no"

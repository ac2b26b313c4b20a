"""Questions about things whose names and kinds are known, with their answers; wordings of training and of tests are apart."""

from __future__ import annotations

from random import Random

from recipes.base.lexicon import EATEN, KINDS, Thing

Asked = tuple[str, str, str]  # kind, question, answer
Wordings = dict[str, tuple[str, ...]]

WHAT: Wordings = {
    "train": (
        *("what is this?", "what is it?", "what can you see?", "what is in the picture?", "what is shown here?", "name this."),
        *(
            "what does the photo show?",
            "can you tell me what this is?",
            "what am i looking at?",
            "what thing is in the middle?",
        ),
        *("please tell me what this is.", "what do we have here?", "which thing is this?", "identify this object."),
        *("what's in this image?", "what is the main thing in the picture?", "what object is that?", "what's that?"),
        *("tell me what you see.", "what is on the photo?", "what might this be?", "what did i take a picture of?"),
    ),
    "test": (
        *("what's this thing called?", "could you say what is on this photo?", "hey, do you know what this is?"),
        *("i found this, what is it?", "what would you call this?"),
    ),
}
WHICH: Wordings = {
    "train": (
        *("which kind is it?", "which kind of {kind} is this?", "what kind of {kind} is it?", "what sort of {kind} is this?"),
        *("what type of {kind} is it?", "which {kind} is this?", "what is the exact kind of this {kind}?"),
        *("which variety is it?", "which type is this?", "name the kind of {kind}."),
    ),
    "test": ("which {kind} exactly?", "can you be more precise, which {kind} is it?"),
}
CATEGORY: Wordings = {
    "train": (
        *("what kind of thing is this?", "what type of thing is it?", "what sort of object is this?", "what is it, broadly?"),
        *("in general, what is this?", "what class of things does it belong to?", "what group does this belong to?"),
    ),
    "test": ("what category does it belong to?", "roughly, what kind of object is that?"),
}
IS_IT: Wordings = {
    "train": (
        *("is this {a}?", "is it {a}?", "is there {a} in the picture?", "does the photo show {a}?", "can you see {a}?"),
        *("is that {a}?", "do you see {a} here?", "would you say this is {a}?", "is there {a}?", "is {a} shown here?"),
        *("do i see {a} in this image?", "could this be {a}?", "is {a} visible?"),
    ),
    "test": ("is {a} what we are looking at?", "tell me, is this {a} or not?", "am i right that this is {a}?"),
}
EAT: Wordings = {
    "train": (
        *("can you eat it?", "is it food?", "is this something to eat?", "can i eat this?", "is it edible?", "is this edible?"),
        *("could you eat this?", "can people eat it?", "is that a kind of food?", "would you eat this?", "can it be eaten?"),
    ),
    "test": ("could someone eat that?", "would you find this on a plate?"),
}
DRINK: Wordings = {
    "train": (
        "can you drink it?",
        "is it a drink?",
        "is this something to drink?",
        "can i drink this?",
        "could one drink that?",
    ),
    "test": ("would someone drink that?", "is it meant for drinking?"),
}
ALIVE: Wordings = {
    "train": (
        *("is it an animal?", "is this a living animal?", "does it show an animal?", "is that an animal?", "is it alive?"),
        *("is there an animal in the picture?", "can you see an animal?"),
    ),
    "test": ("am i looking at some animal?", "is there any animal to be seen?"),
}
WEAR: Wordings = {
    "train": (
        "can you wear it?",
        "is it clothing?",
        "is this something to wear?",
        "can i put it on?",
        "is that a piece of clothing?",
    ),
    "test": ("could someone wear that?", "is it a garment?"),
}
ROOM: Wordings = {
    "train": (
        *("which room is this?", "what room is it?", "which room would you find this in?", "where in a house is this?"),
        *("in which room was this taken?", "what room does this belong in?", "where in the home would it be?"),
    ),
    "test": ("which room of the house are we in?", "what kind of room would that be?"),
}
OUTSIDE: Wordings = {
    "train": (
        "is this outdoors?",
        "is this outside?",
        "was this taken outside?",
        "is it an outdoor scene?",
        "are we outdoors?",
    ),
    "test": ("is the picture from outdoors?", "is that out in the open?"),
}
COLOUR: Wordings = {
    "train": (
        *("what color is it?", "what colour is it?", "what color is this?", "which color does it have?", "what's its color?"),
        *("what is the main color?", "what color is the {name}?", "what colour is the {name}?", "which colour is the {name}?"),
    ),
    "test": ("tell me the color of the {name}.", "what colour would you say that is?"),
}
ABSENT: Wordings = {
    "train": (
        *("what color is the {name}?", "what colour is the {name}?", "where is the {name}?", "what is the {name} doing?"),
        *("how big is the {name}?", "what is left of the {name}?", "is the {name} old?", "what is next to the {name}?"),
    ),
    "test": ("which color does the {name} have?", "what is right beside the {name}?"),
}
BEFORE = {
    "train": (
        *("please, ", "hey, ", "hi! ", "excuse me, ", "quick question: ", "so, ", "ok, ", "hello, ", "sorry to bother you, "),
        *(
            "i am curious: ",
            "help me out: ",
            "my friend asks: ",
            "tell me, ",
            "i cannot see well, ",
            "just wondering, ",
            "look! ",
        ),
    ),
    "test": ("good morning! ", "if you don't mind, ", "my eyes are bad today, ", "we were arguing about this: "),
}
AFTER = {
    "train": (" thanks!", " thank you.", " please", " thanks a lot", " i need to know.", " it's for a friend.", " any idea?"),
    "test": (" much appreciated!", " just a word will do.", " cheers"),
}
MASS = frozenset(
    "milk yogurt juice soup coffee wine bread pasta clothing food furniture fruit ginger cabbage garlic jeans pants".split()
)


def with_article(name: str) -> str:
    last = name.split()[-1]
    if last in MASS:
        return f"some {name}"
    if last.endswith("s") and not last.endswith("ss") and last not in ("bus", "octopus"):
        return name
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def worded(wordings: Wordings, part: str, rng: Random, polite: float | None = None, **words: str) -> str:
    """A question in one of the wordings of a part; a share of them as people talk: `polite`, unless told 0.3 in training."""
    text = rng.choice(wordings[part]).format(**words)
    share = (0.3 if part == "train" else 0.0) if polite is None else polite
    draw = rng.random()
    if draw < share:
        if rng.random() < 0.6:
            text = rng.choice(BEFORE[part]) + text
        if rng.random() < 0.5:
            text += rng.choice(AFTER[part])
    elif part == "train" and draw > 0.93:
        text = text.rstrip("?.")
    return text[0].upper() + text[1:] if part == "train" and rng.random() < 0.4 else text


def ask(
    what: Thing, others: list[Thing], rng: Random, part: str = "train", count: int = 4, near: list[Thing] | None = None,
    polite: float | None = None,
) -> list[Asked]:  # fmt: skip
    """(kind, question, answer) about a thing. others: what else there is, for what it is not; near: what looks like it."""

    def say(sort: str, wordings: Wordings, answer: str, **words: str) -> None:
        made.append((sort, worded(wordings, part, rng, polite, **words), answer))

    made: list[Asked] = []
    say("what", WHAT, what.name)
    if what.narrow:
        say("which", WHICH, what.narrow, kind=what.name)
    if what.kinds:
        say("category", CATEGORY, what.kinds[0])
    true = rng.choice([what.name, what.name, what.narrow or what.name, *what.kinds])
    say("yes", IS_IT, "yes", a=with_article(true))
    for pool in (others, near or others):
        false = rng.choice(pool)
        wrong = [name for name in (false.name, false.narrow) if name and name not in (*what.names, *what.kinds)]
        if rng.random() < 0.3:
            wrong = [kind for kind in KINDS if kind not in (what.name, *what.kinds)]
        if wrong:
            say("no", IS_IT, "no", a=with_article(rng.choice(wrong)))
        if wrong and rng.random() < 0.15 and not with_article(wrong[0]).startswith("some"):
            say("absent", ABSENT, f"there is no {wrong[0]}", name=wrong[0])
    eaten = any(what.is_a(kind) for kind in EATEN) and not what.is_a("drink")
    say("eat", EAT, "yes" if eaten else "no")
    say("animal", ALIVE, "yes" if what.is_a("animal") else "no")
    if what.is_a("clothing") or rng.random() < 0.3:
        say("wear", WEAR, "yes" if what.is_a("clothing") else "no")
    if what.is_a("drink") or rng.random() < 0.2:
        say("drink", DRINK, "yes" if what.is_a("drink") else "no")
    if what.room:
        say("room", ROOM, what.room)
    if what.outdoors or what.room:
        say("outside", OUTSIDE, "yes" if what.outdoors else "no")
    if what.colour:
        say("colour", COLOUR, what.colour, name=what.name)
    if part != "train":
        return made[:count]
    first = [one for one in made if one[0] in ("what", "which", "colour", "room")]
    rng.shuffle(first)
    kept = first[: max(1, count // 2)] if rng.random() < 0.85 else []
    rest = [one for one in made if one not in kept]
    return [*kept, *rng.sample(rest, min(count - len(kept), len(rest)))]

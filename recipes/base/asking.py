"""Questions about things whose names and kinds are known, with their answers; wordings of training and of tests are apart."""

from __future__ import annotations

from random import Random

from recipes.base.lexicon import EATEN, KINDS, Thing

WHAT = {
    "train": (
        *("what is this?", "what is it?", "what can you see?", "what is in the picture?", "what is shown here?", "name this."),
        *(
            "what does the photo show?",
            "can you tell me what this is?",
            "what am i looking at?",
            "what is the thing in the middle?",
        ),
        *("please tell me what this is.", "what do we have here?", "which thing is this?", "identify this object."),
    ),
    "test": (
        *("what's this thing called?", "could you say what is on this photo?", "hey, do you know what this is?"),
        *("i found this, what is it?", "what would you call this?"),
    ),
}
WHICH = {
    "train": (
        "which kind is it?",
        "which kind of {kind} is this?",
        "what kind of {kind} is it?",
        "what sort of {kind} is this?",
    ),
    "test": ("which {kind} exactly?", "can you be more precise, which {kind} is it?"),
}
CATEGORY = {
    "train": (
        "what kind of thing is this?",
        "what type of thing is it?",
        "what sort of object is this?",
        "what is it, broadly?",
    ),
    "test": ("what category does it belong to?", "roughly, what kind of object is that?"),
}
IS_IT = {
    "train": (
        *("is this {a}?", "is it {a}?", "is there {a} in the picture?", "does the photo show {a}?", "can you see {a}?"),
        *("is that {a}?", "do you see {a} here?", "would you say this is {a}?"),
    ),
    "test": ("is {a} what we are looking at?", "tell me, is this {a} or not?", "am i right that this is {a}?"),
}
EAT = {
    "train": ("can you eat it?", "is it food?", "is this something to eat?", "can i eat this?", "is it edible?"),
    "test": ("could someone eat that?", "would you find this on a plate?"),
}
ALIVE = {
    "train": ("is it an animal?", "is this a living animal?", "does it show an animal?", "is that an animal?"),
    "test": ("am i looking at some animal?", "is there any animal to be seen?"),
}


def with_article(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def ask(what: Thing, others: list[Thing], rng: Random, part: str = "train", count: int = 4) -> list[tuple[str, str, str]]:
    """(kind, question, answer) about a thing. others: what else there is, for what it is not."""
    made = [("what", rng.choice(WHAT[part]), what.name)]
    if what.kinds:
        made.append(("category", rng.choice(CATEGORY[part]), what.kinds[0]))
    if len(what.names) > 1 and what.narrow:
        made.append(("which", rng.choice(WHICH[part]).format(kind=what.name), what.narrow))
    true = rng.choice([what.name, *what.kinds, *what.names[:2]])
    made.append(("yes", rng.choice(IS_IT[part]).format(a=with_article(true)), "yes"))
    false = rng.choice(others)
    wrong = [name for name in (false.name, *false.kinds, rng.choice(list(KINDS))) if name not in (*what.names, *what.kinds)]
    if wrong:
        made.append(("no", rng.choice(IS_IT[part]).format(a=with_article(rng.choice(wrong))), "no"))
    eaten = any(what.is_a(kind) for kind in EATEN)
    made.append(("eat", rng.choice(EAT[part]), "yes" if eaten else "no"))
    made.append(("animal", rng.choice(ALIVE[part]), "yes" if what.is_a("animal") else "no"))
    rest = rng.sample(made[1:], min(count - 1, len(made) - 1))
    return [made[0], *rest] if rng.random() < 0.7 else rng.sample(made, min(count, len(made)))

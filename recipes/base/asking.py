"""Questions about things whose names and kinds are known, with their answers; wordings of training and of tests are apart."""

from __future__ import annotations

import tomllib
from pathlib import Path
from random import Random

from recipes.base.lexicon import EATEN, KINDS, Thing

Asked = tuple[str, str, str]  # kind, question, answer
Wordings = dict[str, tuple[str, ...]]

FILE = Path(__file__).with_name("wordings.toml")
WORDINGS: dict[str, Wordings] = {
    name: {part: tuple(text.strip("\n").split("\n")) for part, text in parts.items()}
    for name, parts in tomllib.loads(FILE.read_text()).items()
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


def worded(asked: str, part: str, rng: Random, polite: float | None = None, **words: str) -> str:
    """A question in one of the wordings of a part; a share of them as people talk: `polite`, unless told 0.3 in training."""
    text = rng.choice(WORDINGS[asked][part]).format(**words)
    share = (0.3 if part == "train" else 0.0) if polite is None else polite
    draw = rng.random()
    if draw < share:
        if rng.random() < 0.6:
            text = rng.choice(WORDINGS["before"][part]) + text
        if rng.random() < 0.5:
            text += rng.choice(WORDINGS["after"][part])
    elif part == "train" and draw > 0.93:
        text = text.rstrip("?.")
    return text[0].upper() + text[1:] if part == "train" and rng.random() < 0.4 else text


def ask(
    what: Thing, others: list[Thing], rng: Random, part: str = "train", count: int = 4, near: list[Thing] | None = None,
    polite: float | None = None,
) -> list[Asked]:  # fmt: skip
    """(kind, question, answer) about a thing. others: what else there is, for what it is not; near: what looks like it."""

    def say(sort: str, wordings: str, answer: str, **words: str) -> None:
        made.append((sort, worded(wordings, part, rng, polite, **words), answer))

    made: list[Asked] = []
    say("what", "what", what.name)
    if what.narrow:
        say("which", "which", what.narrow, kind=what.name)
    if what.kinds:
        say("category", "category", what.kinds[0])
    true = rng.choice([what.name, what.name, what.narrow or what.name, *what.kinds])
    say("yes", "is_it", "yes", a=with_article(true))
    for pool in (others, near or others):
        false = rng.choice(pool)
        wrong = [name for name in (false.name, false.narrow) if name and name not in (*what.names, *what.kinds)]
        if rng.random() < 0.3:
            wrong = [kind for kind in KINDS if kind not in (what.name, *what.kinds)]
        if wrong:
            say("no", "is_it", "no", a=with_article(rng.choice(wrong)))
        if wrong and rng.random() < 0.15 and not with_article(wrong[0]).startswith("some"):
            say("absent", "absent", f"there is no {wrong[0]}", name=wrong[0])
    eaten = any(what.is_a(kind) for kind in EATEN) and not what.is_a("drink")
    say("eat", "eat", "yes" if eaten else "no")
    say("animal", "alive", "yes" if what.is_a("animal") else "no")
    if what.is_a("clothing") or rng.random() < 0.3:
        say("wear", "wear", "yes" if what.is_a("clothing") else "no")
    if what.is_a("drink") or rng.random() < 0.2:
        say("drink", "drink", "yes" if what.is_a("drink") else "no")
    if what.room:
        say("room", "room", what.room)
    if what.outdoors or what.room:
        say("outside", "outside", "yes" if what.outdoors else "no")
    if what.colour:
        say("colour", "colour", what.colour, name=what.name)
    if part != "train":
        return made[:count]
    other = rng.choice(near if near and rng.random() < 0.5 else others).name
    if other not in (*what.names, *what.kinds) and rng.random() < 0.35:
        pair = rng.sample([what.name, other], 2)
        say("either", "either", what.name, a=with_article(pair[0]), other=with_article(pair[1]))
    first = [one for one in made if one[0] in ("what", "which", "colour", "room")]
    rng.shuffle(first)
    kept = first[: max(1, count // 2)] if rng.random() < 0.85 else []
    rest = [one for one in made if one not in kept]
    return [*kept, *rng.sample(rest, min(count - len(kept), len(rest)))]

"""Questions about a scene, with the one right answer: what the embedded model is trained and measured on.

Answers are short and lower case. Yes/no questions are balanced within each kind, so that a model that cannot see the picture
stays near one half. Two answers are honest refusals, which the model learns like any other: "there is no dog" for a
question about a dog where none is, "i cannot tell" for what no picture says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from recipes.mini import nouns
from recipes.mini.data import CLASSES, EASY_COLOURS, EASY_SHAPES
from recipes.mini.scenes import COLOURS, SHAPES, Item, Scene
from recipes.mini.wordings import PICTURES, PLACES, WORDINGS

Question = tuple[str, str, str]  # kind, question, answer
CANNOT_TELL = "i cannot tell"
MAX_TOKENS = 12  # the longest answers: "there is no fire extinguisher", a price read character by character
GROUPS = {  # kinds as they are reported -> kinds of questions
    "photos: what": ("photo what", "pasted photo what"),
    "photos: yes/no": ("photo is it", "photo property"),
    "things: what": ("what",),
    "things: how many": ("count",),
    "things: relations": ("relation", "relation yes/no"),
    "things: yes/no": ("is there", "is it"),
    "things: kind, colour, mood": ("kind", "colour", "mood"),
    "shapes": ("shape", "shape colour", "shape count", "position", "comparison"),
    "writing": ("read word", "read number", "read price", "read time"),
    "unanswerable": ("absent thing", "absent shape", "absent text"),
    "unknowable": ("unknowable",),
}
SYNONYMS = {
    "airplane": ("airplane", "plane", "aircraft"),
    "car": ("car", "automobile"),
    "ship": ("ship", "boat"),
    "truck": ("truck", "lorry"),
}
ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")
VEHICLES = ("airplane", "car", "ship", "truck")
# predicate -> (name of its wordings, what they are about, classes it is true of, classes it is false of); doubtful in neither
PREDICATES: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("is it", "an animal", ANIMALS, VEHICLES),
    ("is there", "an animal", ANIMALS, VEHICLES),
    ("is it", "a vehicle", VEHICLES, ANIMALS),
    ("is there", "a vehicle", VEHICLES, ANIMALS),
    ("alive", "", ANIMALS, VEHICLES),
    ("machine", "", VEHICLES, ANIMALS),
    ("can it fly", "", ("airplane", "bird"), ("car", "cat", "deer", "dog", "frog", "horse", "ship", "truck")),
    ("wheels", "", ("car", "truck"), (*ANIMALS, "ship")),
    ("legs", "", ("cat", "deer", "dog", "frog", "horse"), ("bird", *VEHICLES)),
)
SIDES = ("left of", "right of", "above", "below")  # names of wordings
COMPARED = ("is left of", "is right of", "is above", "is below", "is bigger")
IRREGULAR = {
    **{"mouse": "mice", "wolf": "wolves", "sheep": "sheep", "fish": "fish", "deer": "deer", "bison": "bison", "dice": "dice"},
    **{"leaf": "leaves", "knife": "knives", "scarf": "scarves", "tooth": "teeth", "blowfish": "blowfish", "squid": "squid"},
    **{"jellyfish": "jellyfish", "shrimp": "shrimp", "box": "boxes", "fox": "foxes", "bus": "buses", "ski": "skis"},
    **{"fly": "flies", "ladybug": "ladybugs", "candy": "candies", "battery": "batteries", "octopus": "octopuses"},
}


def a(noun: str) -> str:
    """A noun with its article: "a dog", "an owl", "some milk"."""
    if noun in nouns.PLURAL_NOUNS or noun in nouns.MASS_NOUNS:
        return f"some {noun}"
    return f"an {noun}" if noun[0] in "aeio" or noun in ("umbrella", "animal", "ufo") else f"a {noun}"


def plural(noun: str) -> str:
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")


def no_such(noun: str) -> str:
    """The answer to a question about a thing that is not there."""
    return f"there are no {noun}" if noun in nouns.PLURAL_NOUNS else f"there is no {noun}"


class Asker:
    """Words questions; `part` says which wordings: those to train on or those that only tests use."""

    def __init__(self, rng: Random, part: str) -> None:
        self.rng, self.part = rng, part

    def word(self, name: str, **words: str) -> str:
        text = self.rng.choice(WORDINGS[name][self.part])
        text = text.format(place=self.rng.choice(PLACES), picture=self.rng.choice(PICTURES), **words)
        return self._vary(text) if self.part == "train" else text

    def _vary(self, text: str) -> str:
        """People forget question marks and begin with a capital letter or a courtesy."""
        draw = self.rng.random()
        if draw < 0.06:
            return text.rstrip("?.")
        if draw < 0.12:
            return text[0].upper() + text[1:]
        if draw < 0.15:
            return self.rng.choice(("please: ", "hey, ", "so, ", "tell me: ")) + text
        return text

    # --- photos

    def photo(self, label: str, n: int) -> list[Question]:
        """The first asks what it is, the rest are yes/no questions and a few that have no answer."""
        asked = [("photo what", self.word("what"), label)]
        draws: list[tuple[float, Callable[[], Question]]] = [
            (0.45, lambda: self.photo_is_it(label)),
            (0.35, lambda: self.photo_property(label)),
            (0.12, lambda: self.absent_thing((label,), far=True)),
            (0.03, self.absent_text),
            (0.05, lambda: self.unknowable(label)),
            (0.05, lambda: self.untold(label, ("colour of", *SIDES, "where"))),
        ]
        return self._fill(asked, draws, n)

    def photo_is_it(self, label: str) -> Question:
        truth = self.rng.random() < 0.5
        name = label if truth else self.rng.choice([c for c in CLASSES if c != label])
        if not truth and self.rng.random() < 0.15:
            name = self._absent((label,), far=True)
        noun = a(self.rng.choice(SYNONYMS.get(name, (name,))))
        return "photo is it", self.word(self.rng.choice(("is it", "is there")), a=noun), "yes" if truth else "no"

    def photo_property(self, label: str) -> Question:
        """Each property is asked as often where it is true as where it is false."""
        weights = [1 / len(t) if label in t else 1 / len(f) if label in f else 0.0 for _, _, t, f in PREDICATES]
        name, about, true_of, _ = self.rng.choices(PREDICATES, weights)[0]
        return "photo property", self.word(name, a=about), "yes" if label in true_of else "no"

    # --- everyday things

    def things(self, scene: Scene, n: int) -> list[Question]:
        items = scene.items
        if not items:
            return self._empty(n)
        draws: list[tuple[float, Callable[[], Question | None]]] = [
            (0.04 if len(items) == 1 else 0.50, lambda: self.count(items)),
            (0.17, lambda: self.is_there(items)),
            (0.10, lambda: self.absent_thing(tuple(i.name for i in items))),
            (0.01, self.absent_text),
            (0.02, lambda: self.unknowable(self.rng.choice(items).name)),
        ]
        if len(items) == 1:
            (item,) = items
            first: Question = ("what", self.word("what"), item.name)
            if item.mood:
                first = ("mood", self.word("mood"), item.mood)
                draws.append((0.15, lambda: ("what", self.word("what"), "face")))
            else:
                draws.append((0.15, lambda: ("kind", self.word("kind"), nouns.KIND[item.name])))
                draws.append((0.10, lambda: self.is_it(item)))
                draws.append((0.06, lambda: self.colour_of(items)))
                draws.append((0.12, lambda: self.where(items)))
                draws.append((0.04, lambda: self.beside_nothing(item)))
                if item.colour:
                    draws.append((0.20, lambda: ("colour", self.word("colour"), str(item.colour))))
            asked = [first]
        else:
            asked = []
            draws.append((0.60, lambda: self.relation(items)))
            draws.append((0.50, lambda: self.relation_yes_no(items)))
            draws.append((0.06, lambda: self.colour_of(items)))
            draws.append((0.40, lambda: self.where(items)))
        return self._fill(asked, draws, n)

    def _empty(self, n: int) -> list[Question]:
        draws: list[tuple[float, Callable[[], Question]]] = [
            (0.3, lambda: ("what", self.word("what"), "nothing")),
            (0.2, lambda: ("count", self.word("count", things=self.rng.choice(("things", "objects"))), "0")),
            (0.2, lambda: ("is there", self.word("is there", a=a(self.rng.choice(nouns.NOUNS))), "no")),
            (0.2, lambda: self.absent_thing(())),
            (0.1, self.absent_text),
        ]
        return self._fill([], draws, n)

    def count(self, items: Sequence[Item]) -> Question:
        """How many things, or how many of one noun or kind that is there."""
        draw = self.rng.random()
        if draw < 0.5:
            return "count", self.word("count", things=self.rng.choice(("things", "objects"))), str(len(items))
        if draw < 0.85:
            name = self.rng.choice(items).name
            if name not in nouns.PLURAL_NOUNS and name not in nouns.MASS_NOUNS:
                number = sum(i.name == name for i in items)
                return "count", self.word("count", things=plural(name)), str(number)
        kinds = [k for i in items for k in _kinds(i.name) if k in _COUNTED_KINDS]
        if not kinds:
            return "count", self.word("count", things="things"), str(len(items))
        kind = self.rng.choice(kinds)
        return "count", self.word("count", things=plural(kind)), str(sum(kind in _kinds(i.name) for i in items))

    def is_there(self, items: Sequence[Item]) -> Question:
        names = tuple(i.name for i in items)
        truth = self.rng.random() < 0.5
        name = self.rng.choice(names) if truth else self._absent(names)
        if self.rng.random() < 0.3:
            there = {k for n in names for k in _kinds(n)}
            kinds = sorted(there if truth else _ASKED_KINDS - there)
            kinds = [k for k in kinds if k in _ASKED_KINDS]
            if kinds:
                name = self.rng.choice(kinds)
        return "is there", self.word("is there", a=_a_kind(name)), "yes" if truth else "no"

    def is_it(self, item: Item) -> Question:
        truth = self.rng.random() < 0.5
        if self.rng.random() < 0.5:
            own = _kinds(item.name)
            kinds = sorted((own if truth else _ASKED_KINDS - own) & _ASKED_KINDS)
            if kinds:
                return "is it", self.word("is it", a=_a_kind(self.rng.choice(kinds))), "yes" if truth else "no"
        name = item.name if truth else self._absent((item.name,))
        return "is it", self.word("is it", a=a(name)), "yes" if truth else "no"

    def colour_of(self, items: Sequence[Item]) -> Question | None:
        """The colour of one of the things; of one that has several colours it cannot be told."""
        some = [i for i in _unique(items) if i.mood is None]
        if not some:
            return None
        item = self.rng.choice(some)
        if item.colour is None:
            return self.untold(item.name) if self.rng.random() < 0.4 else None
        return "colour", self.word("colour of", the=f"the {item.name}"), item.colour

    def where(self, items: Sequence[Item]) -> Question | None:
        some = [i for i in _unique(items) if _place(i)]
        if not some:
            return None
        item = self.rng.choice(some)
        return "relation", self.word("where", the=f"the {item.name}"), str(_place(item))

    def beside_nothing(self, item: Item) -> Question:
        side = self.rng.choice(SIDES)
        return "relation", self.word(side, the=f"the {item.name}"), "nothing"

    def relation(self, items: Sequence[Item]) -> Question | None:
        """Which thing stands where, as seen from another or in the whole picture; only where it is clear."""
        if self.rng.random() < 0.3:
            return self._extreme(items, "relation", lambda item: item.name)
        item = self.rng.choice(_unique(items) or [None])
        if item is None:
            return None
        return self._beside(item, items, "relation", f"the {item.name}")

    def _beside(self, item: Item, items: Sequence[Item], kind: str, the: str) -> Question | None:
        name = self.rng.choice(SIDES)
        found = _on_side(item, items, name)
        if found is None or len(found) > 1:
            return None
        if not found and self.rng.random() < 0.6:  # "nothing" would be too frequent an answer
            return None
        return kind, self.word(name, the=the), found[0].name if found else "nothing"

    def _extreme(self, items: Sequence[Item], kind: str, answer: Callable[[Item], str]) -> Question | None:
        name = self.rng.choice(("leftmost", "rightmost", "topmost", "lowest", "biggest", "smallest"))
        key: Callable[[Item], float] = {
            "leftmost": lambda i: -i.x,
            "rightmost": lambda i: i.x,
            "topmost": lambda i: -i.y,
            "lowest": lambda i: i.y,
            "biggest": lambda i: 40 * i.side / max(j.side for j in items),
            "smallest": lambda i: -40 * i.side / min(j.side for j in items),
        }[name]
        first, second = sorted(items, key=key, reverse=True)[:2]
        if key(first) - key(second) < 10:
            return None
        return kind, self.word(name), answer(first)

    def relation_yes_no(self, items: Sequence[Item]) -> Question | None:
        return self._compare(_unique(items), "relation yes/no", lambda item: f"the {item.name}")

    def _compare(self, unique: list[Item], kind: str, the: Callable[[Item], str]) -> Question | None:
        if len(unique) < 2:
            return None
        one, other = self.rng.sample(unique, 2)
        name = self.rng.choice(COMPARED)
        distance = {
            "is left of": other.x - one.x,
            "is right of": one.x - other.x,
            "is above": other.y - one.y,
            "is below": one.y - other.y,
            "is bigger": 80 * (one.side - other.side) / max(one.side, other.side),
        }[name]
        if abs(distance) < 20:
            return None
        return kind, self.word(name, the=the(one), other=the(other)), "yes" if distance > 0 else "no"

    # --- shapes

    def shapes(self, scene: Scene, n: int) -> list[Question]:
        items = scene.items
        draws: list[tuple[float, Callable[[], Question | None]]] = [
            (0.17, lambda: self.shape_what(items)),
            (0.17, lambda: self.shape_colour(items)),
            (0.16, lambda: self.shape_count(items)),
            (0.13, lambda: self.shape_present(items)),
            (0.10, lambda: self.absent_shape(items)),
            (0.02, lambda: self.absent_thing(())),
            (0.03, lambda: self.unknowable("shape")),
        ]
        if len(items) > 1:
            draws += [
                (0.35, lambda: self.position(items)),
                (
                    0.25,
                    lambda: self._compare([i for i in items if _the(i, items)], "position", lambda i: _the(i, items)),
                ),
                (0.25, lambda: self.comparison(items)),
            ]
        return self._fill([], draws, n)

    def shape_what(self, items: Sequence[Item]) -> Question | None:
        if len(items) == 1:
            return "shape", self.word("shape"), items[0].name
        item = self.rng.choice(items)
        if sum(i.colour == item.colour for i in items) > 1:
            return None
        if self.rng.random() < 0.5:
            return "shape", self.word("what is the coloured shape", the=f"the {item.colour} shape"), item.name
        noun = self.rng.choice(("thing", "object"))
        return "shape", self.word("shape of", the=f"the {item.colour} {noun}"), item.name

    def shape_colour(self, items: Sequence[Item]) -> Question | None:
        if len(items) == 1 and self.rng.random() < 0.5:
            return "shape colour", self.word("colour"), str(items[0].colour)
        item = self.rng.choice(items)
        if sum(i.name == item.name for i in items) > 1:
            return None
        noun = "shape" if len(items) == 1 and self.rng.random() < 0.5 else item.name
        return "shape colour", self.word("colour of", the=f"the {noun}"), str(item.colour)

    def shape_count(self, items: Sequence[Item]) -> Question:
        draw = self.rng.random()
        if draw < 0.45:
            return "shape count", self.word("count", things=self.rng.choice(("shapes", "things"))), str(len(items))
        if draw < 0.75:
            name = self.rng.choice(items).name
            return "shape count", self.word("count", things=plural(name)), str(sum(i.name == name for i in items))
        colour = self.rng.choice(items).colour
        return "shape count", self.word("count", things=f"{colour} shapes"), str(sum(i.colour == colour for i in items))

    def shape_present(self, items: Sequence[Item]) -> Question | None:
        """easy-VQA's yes/no questions, negated ones included."""
        there = {i.name for i in items} | {f"{i.colour} shape" for i in items}
        every = {*SHAPES, *(f"{c} shape" for c in COLOURS)}
        truth = self.rng.random() < 0.5
        shape_only = self.rng.random() < 0.4
        pool = sorted(t for t in (there if truth else every - there) if (t in SHAPES) == shape_only)
        if not pool:
            return None
        positive = self.rng.random() < 0.5
        wording = self.word("present" if positive else "absent", thing=self.rng.choice(pool))
        return "comparison", wording, "yes" if truth == positive else "no"

    def position(self, items: Sequence[Item]) -> Question | None:
        """Where a shape is, or which one is beside another or at an edge."""
        draw = self.rng.random()
        if draw < 0.2:
            return self._extreme(items, "position", lambda item: item.name)
        item = self.rng.choice(items)
        if not (the := _the(item, items)):
            return None
        if draw < 0.6:
            place = _place(item)
            return place and ("position", self.word("where", the=the), place)
        return self._beside(item, items, "position", the)

    def comparison(self, items: Sequence[Item]) -> Question | None:
        draw = self.rng.random()
        names = Counter(i.name for i in items)
        if draw < 0.3:
            if len(names) < 2:
                return None
            one, other = self.rng.sample(sorted(names), 2)
            truth = names[one] > names[other]
            if not truth and self.rng.random() < 0.75:  # more is rarer than not more
                return None
            return "comparison", self.word("more", things=plural(one), others=plural(other)), "yes" if truth else "no"
        unique = [i for i in items if names[i.name] == 1]
        if len(unique) < 2:
            return None
        first, second = self.rng.sample(unique, 2)
        the, other = f"the {first.name}", f"the {second.name}"
        if draw < 0.55:
            truth = first.colour == second.colour
            if not truth and self.rng.random() < 0.75:  # the same colour is rarer
                return None
            return "comparison", self.word("same colour", the=the, other=other), "yes" if truth else "no"
        if abs(first.side - second.side) / max(first.side, second.side) < 0.2:
            return None
        name = self.rng.choice(("which is bigger", "which is smaller"))
        answer = first if (first.side > second.side) == (name == "which is bigger") else second
        return "comparison", self.word(name, the=the, other=other), answer.name

    # --- writing

    def writing(self, scene: Scene, n: int) -> list[Question]:
        kind, text = scene.items[0].name, str(scene.text)
        draws: list[tuple[float, Callable[[], Question]]] = [
            (0.45, lambda: (f"read {kind}", self.word("read"), text)),
            (0.35, lambda: (f"read {kind}", self.word(kind), text)),
            (0.08, lambda: self.absent_thing(())),
            (0.05, lambda: ("is there", self.word("is there", a=a(self.rng.choice(nouns.NOUNS))), "no")),
            (0.02, lambda: self.unknowable("word")),
            (0.05, lambda: ("is there", self.word("is there", a=self.rng.choice(("a sign", "some text"))), "yes")),
        ]
        if kind == "word":
            draws.append((0.08, lambda: self.absent_text(("number", "price", "time"))))
        return self._fill([(f"read {kind}", self.word("read"), text)], draws, n)

    # --- without an answer

    def absent_thing(self, present: tuple[str, ...], far: bool = False) -> Question:
        """About a thing that is not there. `far`: nothing that could be mistaken for what is."""
        name = self._absent(present, far)
        the, rest = f"the {name}", [p for p in present if present.count(p) == 1]
        draw = self.rng.random()
        if draw < 0.1 and name not in nouns.PLURAL_NOUNS | nouns.MASS_NOUNS:
            question = self.word("count", things=plural(name))
        elif draw < 0.4:
            question = self.word("colour of", the=the)
        elif draw < 0.55 and rest:
            pair = [the, f"the {self.rng.choice(rest)}"]
            self.rng.shuffle(pair)
            wording = self.rng.choice(COMPARED)
            question = self.word(wording, the=pair[0], other=pair[1])
        elif draw < 0.85:
            question = self.word(self.rng.choice(SIDES), the=the)
        else:
            question = self.word("where", the=the)
        return "absent thing", question, no_such(name)

    def absent_shape(self, items: Sequence[Item]) -> Question:
        names, colours = {i.name for i in items}, {str(i.colour) for i in items}
        if self.rng.random() < 0.5:
            missing = self.rng.choice([s for s in SHAPES if s not in names])
            wording = self.rng.choice(("colour of", "where", *SIDES, "count"))
            question = self.word(wording, the=f"the {missing}", things=plural(missing))
            return "absent shape", question, f"there is no {missing}"
        missing = f"{self.rng.choice([c for c in COLOURS if c not in colours])} shape"
        wording = self.rng.choice(("what is the coloured shape", "where", "left of", "above"))
        return "absent shape", self.word(wording, the=f"the {missing}"), f"there is no {missing}"

    def absent_text(self, wordings: tuple[str, ...] = ("read", "word", "number", "price", "time")) -> Question:
        wording = self.rng.choice(wordings)
        about = {"read": "text", "word": "text", "number": "number", "price": "price", "time": "time"}[wording]
        return "absent text", self.word(wording), f"there is no {about}"

    def unknowable(self, present: str) -> Question:
        """What no picture says; about what is there, too."""
        if self.rng.random() < 0.5:
            return "unknowable", self.word("doing", the=f"the {present}"), CANNOT_TELL
        return "unknowable", self.word("unknowable"), CANNOT_TELL

    def untold(self, present: str, wordings: tuple[str, ...] = ("colour of",)) -> Question:
        """About a thing that is there, what is not known of it: worded like questions about things that are not there."""
        return "unknowable", self.word(self.rng.choice(wordings), the=f"the {present}"), CANNOT_TELL

    def _absent(self, present: tuple[str, ...], far: bool = False) -> str:
        """A noun that is not among `present`, half of the time of the same kind as one that is."""
        if far:
            alike = {"animal", "insect"} if present[0] in ANIMALS else {"vehicle"}
            if self.rng.random() < 0.5:
                return self.rng.choice(VEHICLES if present[0] in ANIMALS else ANIMALS)
            return self.rng.choice([n for n in nouns.NOUNS if nouns.KIND[n] not in alike])
        pool = list(nouns.NOUNS)
        if present and self.rng.random() < 0.5 and (own := nouns.KIND.get(self.rng.choice(present))):
            pool = [n for n in pool if nouns.KIND[n] == own]
        choices = [n for n in pool if n not in present]
        return self.rng.choice(choices or [n for n in nouns.NOUNS if n not in present])

    def _fill(
        self, asked: list[Question], draws: Sequence[tuple[float, Callable[[], Question | None]]], n: int
    ) -> list[Question]:
        """Draw by weight until there are `n`; a draw that this scene has no clear question for gives None."""
        while len(asked) < n:
            question = self.rng.choices([d for _, d in draws], [w for w, _ in draws])[0]()
            if question is not None:
                asked.append(question)
        return asked


def ask(scene: Scene, n: int, rng: Random, part: str) -> list[Question]:
    """`n` questions about a scene with the wordings of `part`: "train" or "test"."""
    return ask_with(Asker(rng, part), scene, n)


def ask_with(asker: Asker, scene: Scene, n: int) -> list[Question]:
    if scene.kind == "photo":
        return asker.photo(scene.items[0].name, n)
    return {"things": asker.things, "shapes": asker.shapes, "writing": asker.writing}[scene.kind](scene, n)


def easy_vqa_kind(answer: str) -> str:
    return "shape" if answer in EASY_SHAPES else "colour" if answer in EASY_COLOURS else "yes/no"


_ASKED_KINDS = set(nouns.KINDS) - {"object", "weather", "sport", "device"}
_MASS_KINDS = {"clothing", "food", "fruit", "furniture"}
_COUNTED_KINDS = _ASKED_KINDS - _MASS_KINDS


def _kinds(name: str) -> set[str]:
    kind = nouns.KIND.get(name)
    return {kind, *nouns.ALSO.get(kind, ())} if kind else set()


def _a_kind(name: str) -> str:
    return f"some {name}" if name in _MASS_KINDS else a(name)


def _unique(items: Sequence[Item]) -> list[Item]:
    names = Counter(i.name for i in items)
    return [i for i in items if names[i.name] == 1]


def _on_side(item: Item, items: Sequence[Item], name: str) -> list[Item] | None:
    """The items clearly on that side of `item`; None if one of them is in doubt."""
    distance: Callable[[Item], float] = {
        "left of": lambda i: item.x - i.x,
        "right of": lambda i: i.x - item.x,
        "above": lambda i: item.y - i.y,
        "below": lambda i: i.y - item.y,
    }[name]
    others = [i for i in items if i is not item]
    if any(-3 < distance(i) < 12 for i in others):
        return None
    return [i for i in others if distance(i) >= 12]


def _the(item: Item, items: Sequence[Item]) -> str:
    """What a shape can be called so that only it is meant; empty if nothing does."""
    if sum(i.name == item.name for i in items) == 1:
        return f"the {item.name}"
    if sum((i.name, i.colour) == (item.name, item.colour) for i in items) == 1:
        return f"the {item.colour} {item.name}"
    return ""


def _place(item: Item) -> str | None:
    """Where in the picture; None if it is in doubt."""
    dx, dy = item.x - 64, item.y - 64
    if max(abs(dx), abs(dy)) < 14:
        return "in the middle"
    if max(abs(dx), abs(dy)) < 26 or abs(abs(dx) - abs(dy)) < 14:
        return None
    if abs(dx) > abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "at the top" if dy < 0 else "at the bottom"

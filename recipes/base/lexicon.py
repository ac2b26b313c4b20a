"""Names and kinds of things: the 1,000 ImageNet classes in WordNet 3.0, with the words that people use and the kinds above
them.

Source: WordNet (Fellbaum 1998; its own free licence), as Debian's wordnet-base has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NOUNS = Path("/usr/share/wordnet/data.noun")
# kinds that people ask for -> offsets of the synsets that they are
KINDS = {
    **{
        "animal": "00015388",
        "bird": "01503061",
        "dog": "02084071",
        "cat": "02120997",
        "fish": "02512053",
        "insect": "02159955",
    },
    **{"reptile": "01661091", "snake": "01726692", "monkey": "02484322", "bear": "02131653", "spider": "01772222"},
    **{"plant": "00017222", "flower": "11669921", "mushroom": "13001041", "fruit": "13134947", "vegetable": "07707451"},
    **{"food": "00021265", "drink": "07881800", "vehicle": "04524313", "car": "02958343", "boat": "02858304"},
    **{"aircraft": "02686568", "ship": "04194289", "truck": "04490091", "train": "04468005", "bicycle": "02834778"},
    **{"clothing": "03051540", "shoe": "04199027", "hat": "03497657", "furniture": "03405725", "building": "02913152"},
    **{"tool": "04451818", "weapon": "04565375", "container": "03094503", "musical instrument": "03800933"},
    **{
        "machine": "03699975",
        "toy": "03964744",
        "room": "04105893",
        "ball": "02778669",
        "bag": "02773838",
        "bottle": "02876657",
    },
    **{"kitchen appliance": "03620052", "electronic device": "03277771", "structure": "04341686", "device": "03183080"},
}
EATEN, USED = ("food", "fruit", "vegetable"), ("tool", "device", "container", "vehicle")


@dataclass(frozen=True)
class Synset:
    """words: its lemmas, the usual first. above: offsets of its hypernyms."""

    offset: str
    words: tuple[str, ...]
    above: tuple[str, ...]
    gloss: str


@cache
def synsets() -> dict[str, Synset]:
    """Every noun of WordNet by offset (format: wndb(5WN))."""
    found = {}
    for line in NOUNS.read_text().splitlines():
        if line.startswith("  "):
            continue
        data, _, gloss = line.partition(" | ")
        fields = data.split(" ")
        words = int(fields[3], 16)
        pointers = fields[4 + 2 * words :]
        above = [pointers[i + 1] for i in range(1, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")]
        lemmas = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(words))
        found[fields[0]] = Synset(fields[0], lemmas, tuple(above), gloss)
    return found


def ancestors(offset: str) -> Iterator[str]:
    """Offsets of a synset and of everything above it."""
    yield offset
    for above in synsets()[offset].above:
        yield from ancestors(above)


@dataclass(frozen=True)
class Thing:
    """What can be seen. name: as it is called first; names: all that are right; kinds: from `KINDS`, the narrow ones first."""

    name: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    narrow: str = ""  # which of its name it is, where that is known

    def is_a(self, kind: str) -> bool:
        return kind in self.kinds


def thing(offset: str) -> Thing:
    """What a synset is called and which kinds it belongs to."""
    found = synsets()[offset]
    line = list(dict.fromkeys(ancestors(offset)))
    kinds = sorted((line.index(root), kind) for kind, root in KINDS.items() if root in line[1:])
    names = tuple(dict.fromkeys(word if word[1:] != word[1:].lower() else word.lower() for word in found.words))
    return Thing(names[0], names, tuple(kind for _, kind in kinds))


def imagenet(listing: Path) -> list[Thing]:
    """The 1,000 classes in the order of the classifiers; listing: their offsets, `n01440764` a line (timm has such a file)."""
    return [thing(line[1:]) for line in listing.read_text().split()]

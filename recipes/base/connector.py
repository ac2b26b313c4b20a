"""Between eyes and language: what the eyes' features become in the LM's own space.

85 image tokens. Of the four likeliest ImageNet classes and of the three likeliest kinds of our own head five vectors each,
scaled by the root of the probability: they begin as the LM's embeddings of what people call the thing (two) and of its
narrow name (three). Of the two likeliest colours of the middle one vector each. And what the finder found (`Told`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from recipes.base.drawings import MOST
from recipes.base.finder import FIRST_CHARACTER, Found, ranks
from recipes.mini import nouns, scenes

SEEN, OWN, COLOURS = 4, 3, 2  # likeliest classes, own kinds, colours
NAME, NARROW = 2, 3  # vectors of a name, of a narrow name
THINGS = 5  # of a picture; a text has more characters
EDGES = ("left", "right", "top", "bottom", "biggest", "smallest")
TOLD = MOST * (NAME + 2) + MOST + THINGS + len(EDGES) * NAME + 1
TOKENS = (NAME + NARROW) * (SEEN + OWN) + COLOURS + TOLD


def vectors_of(name: str, embeddings: Tensor, tokenizer: PreTrainedTokenizerFast, count: int) -> Tensor:
    """The embeddings of a name's tokens [count, n_embd]: a short name's last one again, a long name's rest as their mean."""
    found = embeddings[tokenizer(" " + name, add_special_tokens=False).input_ids]
    if len(found) > count:
        return torch.cat([found[: count - 1], found[count - 1 :].mean(0, keepdim=True)])
    return torch.cat([found, found[-1:].expand(count - len(found), -1)])


def named(names: Sequence[tuple[str, str]], embeddings: Tensor, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """(name, narrow name) of each class -> vectors [classes, NAME + NARROW, n_embd]."""
    made = [
        torch.cat([vectors_of(name, embeddings, tokenizer, NAME), vectors_of(narrow or name, embeddings, tokenizer, NARROW)])
        for name, narrow in names
    ]
    return torch.stack(made)


class Slots(nn.Module):
    """Probabilities [n, classes] -> the likeliest classes as vectors [n, vectors * count, n_embd]."""

    def __init__(self, count: int, table: Tensor) -> None:
        """table: [classes, vectors, n_embd], as it begins."""
        super().__init__()
        self.count, self.table = count, nn.Parameter(table.clone())

    def forward(self, probabilities: Tensor) -> Tensor:
        values, places = probabilities.topk(self.count)
        return (self.table[places] * values.sqrt()[..., None, None]).flatten(1, 2)


class Told(nn.Module):
    """What was found, in vectors that begin as the LM's embeddings of words: [n, TOLD, n_embd].

    Of each object, from left to right: its name (two); its colour, with how many there are of that colour and of that name;
    its kind, with how many there are of that, in which part of the picture it stands, and how many follow. Then names, a vector
    each: a text's letters, or things from top to bottom, and then things from large to small. Then by name (two) the thing
    furthest left, right, up and down, the largest and the smallest; and how many things there are. What is left of, above or
    larger than another is so the last one on that side, or a neighbour in a row; and a text stands in one piece.
    """

    def __init__(self, embeddings: Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        width, (names, kinds, kind_of) = embeddings.shape[1], labelled()

        def word(text: str, count: int = 1) -> Tensor:
            return vectors_of(text, embeddings, tokenizer, count)

        def letter(text: str) -> Tensor:
            return embeddings[tokenizer(text, add_special_tokens=False).input_ids[-1:]]

        def table(rows: Sequence[Tensor]) -> nn.Parameter:
            """After a first row of noughts: of what is not there."""
            return nn.Parameter(torch.stack([torch.zeros(rows[0].shape), *rows]))

        written = set(scenes.CHARACTERS)
        moods = set(nouns.MOODS)
        self.names = table(
            [
                letter(name).expand(NAME, -1) if name in written
                else torch.cat([word("face"), word(name)]) if name in moods
                else word(name, NAME)
                for name in names
            ]
        )  # fmt: skip
        self.colours = table([word(name)[0] for name in scenes.COLOURS])
        self.counts = table([letter(str(number))[0] for number in range(1, MOST + 1)])
        self.kinds = table([word(name)[0] for name in kinds])
        self.hued = table([0.1 * letter(str(number))[0] for number in range(1, MOST + 1)])
        self.kin = table([letter(str(number))[0] for number in range(1, MOST + 1)])
        self.parts = table([word(name)[0] for name in ("left", "right", "top", "bottom", "middle")])
        self.edges = nn.Parameter(torch.stack([word(name).expand(NAME, -1) for name in EDGES]))
        self.after = nn.Parameter(0.02 * torch.randn(MOST + 1, width))  # begins as anything
        self.register_buffer("kind_of", torch.tensor([0, *kind_of]), persistent=False)

    def forward(self, found: Found) -> Tensor:
        labels, there = found.labels, found.labels > 0
        thing = there & (labels < FIRST_CHARACTER)
        names = self.names[labels] * found.sure.sqrt()[..., None, None]
        kinds = self.kind_of[labels] * thing
        alike, kin, hued = (alike_of(numbers, thing & (numbers > 0)) for numbers in (labels, kinds, found.colours * there))
        after = after_of(there)
        hues = self.colours[found.colours * there] + self.counts[alike] + self.hued[hued]
        about = self.kinds[kinds] + self.kin[kin] + self.parts[part_of(found.places) * thing] + self.after[after]
        objects = torch.cat([names, hues[:, :, None], about[:, :, None]], 2).flatten(1, 2)

        x, y, size = (found.places[..., number] for number in range(3))
        down = ordered(labels, there, torch.where(thing, y, torch.arange(MOST) / MOST), MOST)  # letters as they stand
        sizes = ordered(labels, thing, -size, THINGS)
        rows = [self.names[row].mean(2) + self.after[after_of(row > 0)] for row in (down, sizes)]
        edges = torch.cat([ordered(labels, thing, key, 1) for key in (x, -x, y, -y, -size, size)], 1)
        rows.append((self.names[edges] + self.edges).flatten(1, 2))
        rows.append(self.counts[thing.long().sum(1, keepdim=True)])
        return torch.cat([objects, *rows], 1)


def labelled() -> tuple[tuple[str, ...], list[str], list[int]]:
    """Names of the labels from 1 on, kinds, and which kind each label is, from 1 on."""
    kinds = [*nouns.KINDS, "face", "shape"]
    shapes = set(scenes.SHAPES) - set(nouns.NOUNS)
    own = [
        "shape" if name in shapes else "face" if name in nouns.MOODS else nouns.KIND.get(name, "")
        for name in scenes.SEEN
    ]  # fmt: skip
    return scenes.SEEN, kinds, [kinds.index(kind) + 1 if kind else 0 for kind in own]


def alike_of(numbers: Tensor, thing: Tensor) -> Tensor:
    """How many things of a row have the same number [n, MOST]; 0 where there is no thing."""
    same = (numbers[:, :, None] == numbers[:, None]) & thing[:, None]
    return same.long().sum(2) * thing


def after_of(there: Tensor) -> Tensor:
    """How many of a row come from here on [n, places], itself among them; 0 where there is none."""
    up = torch.ones(there.shape[1], there.shape[1]).tril()  # [later, earlier]
    return (there.float() @ up).long() * there


def part_of(places: Tensor) -> Tensor:
    """1 left, 2 right, 3 top, 4 bottom, 5 middle: [n, MOST]."""
    x, y = (places[..., axis] - 0.5 for axis in (0, 1))
    level = x.abs() > y.abs()
    side = torch.where(level, 1 + (x > 0).long(), 3 + (y > 0).long())
    return torch.where(torch.maximum(x.abs(), y.abs()) < MIDDLE, 5, side)


MIDDLE = 20 / scenes.SIZE  # the recipe's questions leave 14 to 26 pixels out


def ordered(labels: Tensor, there: Tensor, key: Tensor, most: int) -> Tensor:
    """The labels of what is there by key, the least first, then 0: the first `most` of them, [n, most]."""
    place = ranks(torch.where(there, key, 9.0))  # what is none comes last
    here = place[:, :, None] == torch.arange(most)
    return ((labels * there)[:, :, None] * here).sum(1)


class Connector(nn.Module):
    """seen, own, colours: the tables of the three sorts of slots, as they begin."""

    def __init__(self, seen: Tensor, own: Tensor, colours: Tensor, told: Told) -> None:
        super().__init__()
        self.seen, self.own, self.colours = Slots(SEEN, seen), Slots(OWN, own), Slots(COLOURS, colours)
        self.told = told

    def forward(self, seen: Tensor, own: Tensor, colours: Tensor, found: Found) -> Tensor:
        """seen [n, classes], own [n, kinds], colours [n, colours]: probabilities. Image tokens [n, TOKENS, n_embd]."""
        return torch.cat([self.seen(seen), self.own(own), self.colours(colours), self.told(found)], 1)

"""Chat template + question -> the pieces around the picture.

A piece is text for the tokenizer or pixels for the vision tower. The model's chat template was rendered by the converter
(`bundle.Prompt`); what the user typed is tokenised with special tokens switched off, so that nobody can inject a turn or a
picture through a question.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from edge_vqa.errors import EdgeVqaError
from edge_vqa.pictures.open import Picture, Rgb
from edge_vqa.pictures.sizes import crop, fitted, grid, overview, padded, shrunk, slices, squared, stretched

if TYPE_CHECKING:
    from edge_vqa.bundles.manifest import Preprocessing, Prompt

DETAILS = ("low", "high")
MOST_CHARACTERS = 100_000  # of a question: far more than any context holds


@dataclass(frozen=True)
class Text:
    """Text for the tokenizer. `special`: special tokens in it are read as such (never in what a user typed)."""

    text: str
    special: bool


@dataclass(frozen=True, eq=False)
class Tile:
    """Pixels for the vision tower: uint8 [h, w, 3], of the size that it takes."""

    rgb: Rgb


Piece: TypeAlias = Text | Tile


def clean_question(question: str) -> str:
    """The question as it is asked: white space folded. Raises EdgeVqaError when nothing is left, or too much."""
    if not isinstance(question, str):
        raise TypeError(f"question must be a string, not {type(question).__name__}")
    if len(question) > MOST_CHARACTERS:
        raise EdgeVqaError(f"the question has more than {MOST_CHARACTERS:,} characters", "ask a shorter one")
    folded = " ".join(question.replace("\0", " ").split())
    if not folded:
        raise EdgeVqaError("the question is empty", 'ask something, as in: edge-vqa ask photo.jpg "what is this?"')
    return folded


# methods of preprocessing that show one picture, the same at every detail
WHOLE = {"longest": stretched, "square": squared, "pad": padded, "whole": overview, "crop": crop}


def picture_pieces(picture: Picture, detail: str, prompt: Prompt, preprocessing: Preprocessing) -> list[Piece]:
    """The prefix: everything up to the question's own text."""
    if detail not in DETAILS:
        raise EdgeVqaError(f"detail {detail!r} is unknown", f"use one of {', '.join(DETAILS)}")
    shown = (picture, *picture.more)
    if len(shown) == 1:
        return _one(picture, detail, prompt, preprocessing)
    if prompt.joint is None:
        raise EdgeVqaError("this model takes one picture a question", "ask about each")
    pieces: list[Piece] = []
    for number, one in enumerate(shown, 1):
        before = prompt.before if number == 1 else prompt.joint
        between = prompt.between if number == len(shown) else ""
        pieces += _one(one, detail, replace(prompt, before=before, between=between), preprocessing)
    return pieces


def _one(picture: Picture, detail: str, prompt: Prompt, preprocessing: Preprocessing) -> list[Piece]:
    """What is shown of one picture, from `before` on and with `between` behind it."""
    if preprocessing.method == "tiles":
        pieces = _tiles(picture, detail, prompt, preprocessing)
    else:
        if preprocessing.method in WHOLE:
            cut = [WHOLE[preprocessing.method](picture, preprocessing)]
        elif preprocessing.method == "grid":
            squares = grid(picture, preprocessing) if detail == "high" else []
            cut = [*squares, squared(picture, preprocessing)]
        elif preprocessing.method == "dynamic":
            cut = [fitted(picture, detail, preprocessing)]
        else:
            cut = [shrunk(picture, detail, preprocessing)]
        pieces = [Text(prompt.before, True), *map(Tile, cut)]
    return [*pieces, Text(prompt.between, True)] if prompt.between else pieces


def _tiles(picture: Picture, detail: str, prompt: Prompt, preprocessing: Preprocessing) -> list[Piece]:
    """`low` is the form that `transformers`' Idefics3Processor writes without image splitting, `high` the one with it:
    rows of slices, then the overview."""
    fence = "<fake_token_around_image>"
    pieces: list[Piece] = []
    text = prompt.before
    if detail == "high":
        rows, whole = slices(picture, preprocessing)
        for y, row in enumerate(rows, 1):
            for x, tile in enumerate(row, 1):
                pieces += [Text(f"{text}{fence}<row_{y}_col_{x}>", True), Tile(tile)]
                text = ""
            text = "\n"
        text += "\n" if rows else ""
    else:
        whole = overview(picture, preprocessing)
    pieces += [Text(f"{text}{fence}<global-img>", True), Tile(whole), Text(fence, True)]
    return pieces


def question_pieces(question: str, prompt: Prompt) -> list[Text]:
    """Everything after the picture, up to where the answer begins."""
    asked = clean_question(question)
    if prompt.unicode:
        asked = unicodedata.normalize(prompt.unicode, asked)  # type: ignore[arg-type]
    if prompt.instruction:
        asked = f"{asked} {prompt.instruction}"
    before, after = prompt.question.split("{question}")
    return [Text(before + asked + after, False), Text(prompt.after, True)]

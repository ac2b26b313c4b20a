"""A question as a tower reads it: WordPiece with the vocabulary of an uncased BERT, which the tower's graph carries.

Source: Wu et al. 2016 (arXiv 1609.08144), section 4.1; the same tokens as `tokenizers`' BertWordPieceTokenizer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping

from edge_vqa.errors import EdgeVqaError

LONGEST = 100  # characters of a word; a longer one is unknown
# where East Asian ideographs begin and end: each is a word
IDEOGRAPHS = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF)),
    *((0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


class WordPiece:
    """A vocabulary, and how many tokens the tower takes."""

    def __init__(self, words: list[str], most: int) -> None:
        self._ids = {word: number for number, word in enumerate(words)}
        self._first, self._last, self._unknown = (self._ids[word] for word in ("[CLS]", "[SEP]", "[UNK]"))
        self._most = most

    @classmethod
    def of(cls, metadata: Mapping[str, str], name: str) -> WordPiece:
        """From a graph's metadata. Raises EdgeVqaError."""
        try:
            return cls(metadata["vocabulary"].split("\n"), min(int(metadata["most_words"]), 1 << 14))
        except (KeyError, ValueError):
            raise EdgeVqaError(f"{name} holds no vocabulary", "convert or download the bundle again") from None

    def ids(self, text: str) -> list[int]:
        """Token ids, a first and a last one around them; the end of a text too long is cut off."""
        made = [number for word in _words(text) for number in self._pieces(word)]
        return [self._first, *made[: self._most - 2], self._last]

    def _pieces(self, word: str) -> list[int]:
        """The longest beginning that is known, and so on."""
        if len(word) > LONGEST:
            return [self._unknown]
        made, at = [], 0
        while at < len(word):
            begins = "##" if at else ""
            end = next((end for end in range(len(word), at, -1) if begins + word[at:end] in self._ids), None)
            if end is None:
                return [self._unknown]
            made.append(self._ids[begins + word[at:end]])
            at = end
        return made


def _words(text: str) -> Iterator[str]:
    shown = "".join(" " if c.isspace() or c in "\t\n\r" else c for c in text if not _control(c))
    spaced = "".join(f" {c} " if any(first <= ord(c) <= last for first, last in IDEOGRAPHS) else c for c in shown)
    plain = "".join(c.lower() for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn")
    for word in plain.split():
        begun = ""
        for c in word:
            if _punctuation(c):
                yield from (part for part in (begun, c) if part)
                begun = ""
            else:
                begun += c
        if begun:
            yield begun


def _control(c: str) -> bool:
    return c in "\0\ufffd" or (c not in "\t\n\r" and unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs"))


def _punctuation(c: str) -> bool:
    return (c.isascii() and c.isprintable() and not c.isalnum() and c != " ") or unicodedata.category(c).startswith("P")

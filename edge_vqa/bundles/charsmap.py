"""Whether llama.cpp can walk SentencePiece's normalisation map of a gguf without leaving it: it throws where it would, and
nothing catches that.

The map is a length, a double array of 32-bit units, and texts that end with 0. A walk begins at the base of the first unit; a
character c leads to unit base ^ c if that bears c, whose own base follows; a unit with the leaf bit says by the unit at its
base where its text begins. (llama.cpp, llm_tokenizer_ugm; darts-clone.)
"""

from __future__ import annotations

import numpy as np

_LEAF, _VALUE = 1 << 8, (1 << 31) - 1
_BYTES = np.arange(1, 256, dtype=np.uint32)
_TOGETHER = 4096  # units looked at at once


def check(data: bytes) -> None:
    """Raises ValueError."""
    size = int.from_bytes(data[:4], "little")
    if size % 4 or not 4 <= size <= len(data) - 5 or data[-1]:
        raise ValueError("tokenizer.ggml.precompiled_charsmap")
    units, texts = np.frombuffer(data, "<u4", size // 4, 4), len(data) - 4 - size
    bases = (units >> 10) << ((units & (1 << 9)) >> 6)
    bears = units & ((1 << 31) | 0xFF)
    seen = np.zeros(len(units), bool)
    nodes = bases[:1]
    while len(nodes):
        later = []
        for first in range(0, len(nodes), _TOGETHER):
            places = nodes[first : first + _TOGETHER, None] ^ _BYTES
            if places.max() >= len(units):
                raise ValueError("tokenizer.ggml.precompiled_charsmap leads out of itself")
            found = np.unique(places[bears[places] == _BYTES])
            found = found[~seen[found]]
            seen[found] = True
            ends = (found ^ bases[found])[(units[found] & _LEAF) != 0]
            if len(ends) and (ends.max() >= len(units) or (units[ends] & _VALUE).max() >= texts):
                raise ValueError("tokenizer.ggml.precompiled_charsmap leads out of its texts")
            later.append(found ^ bases[found])
        nodes = np.concatenate(later)

"""Blocks of iq4_nl for rows that K-types cannot take: 4.5 bits a weight, 16 uneven levels, one float16 scale for 32 weights.

llama.cpp's encoder tries 15 scales a block, 180 ns a weight; most weights of SmolVLM-500M are in such rows. Here two scales
are tried, each refitted once by least squares, vectorised: 40 ns a weight, and an RMS error 1 % above llama.cpp's on Gaussian
weights, where q4_0 of the same size is 13 % above. `--quant rtn:iq4_nl` itself is llama.cpp's.
"""

from __future__ import annotations

import numpy as np

from converters.ggml import Bytes, Floats, in_parts, packed

BLOCK = 32
# kvalues_iq4nl of llama.cpp (ggml-common.h)
LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
STARTS = (1.0, 0.95)  # of the scale that puts the largest weight on the lowest level
_NEAREST = np.abs(np.arange(-128, 128)[:, None] - LEVELS).argmin(1).astype(np.uint8)  # level of each whole number
_CHUNK = 1 << 13  # blocks at a time: 1 MB of weights, which stay in the cache


def solve(x: Floats, importance: Floats | None = None) -> tuple[Bytes, Floats]:
    """float32 blocks [n, 32] -> level numbers [n, 32] and scales [n, 1].

    importance: float32 [n, 32]. As in llama.cpp, errors are weighted by x^2, or by importance sqrt(mean(x^2) + x^2).
    """
    square = x * x
    w = square if importance is None else importance * np.sqrt(square.mean(1, keepdims=True) + square)
    extreme = np.take_along_axis(x, np.abs(x).argmax(1, keepdims=True), 1)
    best, best_d = np.full_like(extreme, -1), np.zeros_like(extreme)
    chosen = np.zeros(x.shape, np.uint8)
    for start in STARTS:
        d = extreme / LEVELS[0] * np.float32(start)
        for _ in range(2):
            scaled = x * np.divide(1, d, out=np.zeros_like(d), where=d != 0)
            codes = _NEAREST[np.rint(np.clip(scaled, -128, 127, out=scaled), out=scaled).astype(np.int16) + 128]
            q = LEVELS[codes]
            weighted = w * q
            size, fit = (weighted * q).sum(1, keepdims=True), (weighted * x).sum(1, keepdims=True)
            d = np.divide(fit, size, out=np.zeros_like(d), where=size > 0)
        score = fit * d  # what the fit takes off the weighted square error
        better = score > best
        best, best_d, chosen = np.where(better, score, best), np.where(better, d, best_d), np.where(better, codes, chosen)
    return chosen, best_d


def quantise(values: Floats, *, importance: Floats | None = None, threads: int = 1) -> Bytes:
    """float32 [..., n], n a multiple of 32 -> iq4_nl, uint8 [..., n / 32 * 18]. importance: float32 [n]."""
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, BLOCK)
    out = np.empty((len(blocks), 18), np.uint8)
    a_row = None if importance is None else importance.reshape(-1, BLOCK)

    def run(first: int, last: int) -> None:
        weight = None if a_row is None else a_row[np.arange(first, last) % len(a_row)]
        out[first:last] = packed(*solve(blocks[first:last], weight))

    in_parts(run, len(blocks), _CHUNK, threads)
    return out.reshape(*values.shape[:-1], -1)

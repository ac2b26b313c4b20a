"""Three bits a weight in the blocks of q4_0, of whose sixteen levels eight are used: no smaller file, but what three bits would
do to a model whose rows no 3-bit type of llama.cpp takes (they are of 256, rows of 576 are not).

As in ggml's own 3-bit rounding (make_q3_quants) a block's scale is searched, each candidate refitted by least squares.
"""

from __future__ import annotations

import numpy as np

from converters import ggml
from converters.ggml import Bytes, Floats

TYPE, BLOCK = "q4_0", 32
LOWEST, HIGHEST, MIDDLE = -4, 3, 8
STARTS = np.linspace(0.7, 1.1, 9)  # of the scale that puts the largest weight on the lowest level
_CHUNK = 1 << 14


def solve(x: Floats) -> tuple[Floats, Floats]:
    """float32 blocks [n, 32] -> levels [n, 32], -4 to 3, and scales [n, 1]."""
    extreme = np.take_along_axis(x, np.abs(x).argmax(1, keepdims=True), 1)
    best, best_d, levels = np.full_like(extreme, -1), np.zeros_like(extreme), np.zeros_like(x)
    for start in STARTS:
        d = extreme / np.float32(LOWEST) * np.float32(start)
        q = np.clip(np.rint(np.divide(x, d, out=np.zeros_like(x), where=d != 0)), LOWEST, HIGHEST)
        size, fit = (q * q).sum(1, keepdims=True), (q * x).sum(1, keepdims=True)
        d = np.divide(fit, size, out=np.zeros_like(d), where=size > 0)
        score = fit * d  # what the fit takes off the square error
        better = score > best
        best, best_d, levels = np.where(better, score, best), np.where(better, d, best_d), np.where(better, q, levels)
    return levels, best_d


def quantise(values: Floats, *, threads: int = 1) -> Bytes:
    """float32 [..., n], n a multiple of 32 -> q4_0, uint8 [..., n / 32 * 18]."""
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, BLOCK)
    out = np.empty((len(blocks), 18), np.uint8)

    def run(first: int, last: int) -> None:
        levels, d = solve(blocks[first:last])
        out[first:last] = ggml.packed((levels + MIDDLE).astype(np.uint8), d)

    ggml.in_parts(run, len(blocks), _CHUNK, threads)
    return out.reshape(*values.shape[:-1], -1)

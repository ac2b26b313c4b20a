"""Half-quadratic quantisation: 4-bit blocks whose minimum is optimised under an l_p norm, p < 1, without calibration data.

Source: Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models" (https://mobiusml.github.io/hqq_blog/):
minimise over the zero point z the norm ||W - s (Q(W/s + z) - z)||_p by alternating
(1) E <- shrink_p(W - W_r, beta) and (2) z <- mean(Q - (W - E)/s), beta <- kappa beta.
Here in terms of what llama.cpp's Q4_1 stores: w = d q + m in blocks of 32, with d = s and m = -z s in float16. Each step
rounds m to float16 before it is judged, so what is optimised is what is stored, and each block keeps its best step, the
plain Q4_1 of llama.cpp among them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from converters import ggml
from converters.ggml import Bytes, Floats

TYPE = "q4_1"
BLOCK, LEVELS = 32, 15
P, BETA, KAPPA, STEPS = 0.7, 10.0, 1.01, 20  # the authors' values
_TINY = np.float32(1e-12)
_CHUNK = 1 << 14  # blocks at a time: 2 MB of weights, which stay in the cache


def power(size: Floats, p: float = P) -> Floats:
    """|e|^p of non-negative numbers, by exp and log, which numpy vectorises; 0 gives almost 0."""
    out: Floats = np.log(size + _TINY)
    out *= np.float32(p)
    np.exp(out, out=out)
    return out


def _codes(w: Floats, d: Floats, m: Floats) -> Floats:
    """Nearest code, 0 to 15, of each weight under stored d and m [n, 1]."""
    inverse = np.divide(1, d, out=np.zeros_like(d), where=d != 0)
    codes: Floats = (w - m) * inverse
    np.clip(np.rint(codes, out=codes), 0, LEVELS, out=codes)
    return codes


def solve(w: Floats, steps: int = STEPS) -> tuple[Floats, Floats, Floats]:
    """float32 blocks [n, 32] -> codes [n, 32], d and m [n, 1], the latter two exact in float16."""
    low, high = w.min(1, keepdims=True), w.max(1, keepdims=True)
    d = ((high - low) / LEVELS).astype(np.float16).astype(np.float32)
    m = low.astype(np.float16).astype(np.float32)
    best = ggml.dequantise(ggml.quantise(w, TYPE), TYPE)  # [n, 32]: plain Q4_1
    best_error = power(np.abs(w - best)).mean(1, keepdims=True)
    best_m = m.copy()
    beta = BETA
    for _ in range(steps):
        codes = _codes(w, d, m)
        error = w - codes * d - m
        size = np.abs(error)
        powered = power(size)
        mean = powered.mean(1, keepdims=True)
        better = mean < best_error
        np.copyto(best_error, mean, where=better)
        np.copyto(best_m, m, where=better)
        # shrink_p(e) = sign(e) max(|e| - |e|^(p-1) / beta, 0)
        size -= powered / (size + _TINY) / np.float32(beta)
        shrunk = np.copysign(np.maximum(size, 0, out=size), error)
        moved = (error - shrunk).mean(1, keepdims=True) + m
        moved = moved.astype(np.float16).astype(np.float32)
        if np.array_equal(moved, m):
            break
        m = moved
        beta *= KAPPA
    return _codes(w, d, best_m), d, best_m


def pack(codes: Floats, d: Floats, m: Floats) -> Bytes:
    """Blocks of Q4_1, uint8 [n, 20]."""
    return ggml.packed(codes.astype(np.uint8), d, m)


def quantise(values: Floats, *, threads: int = 1, steps: int = STEPS) -> Bytes:
    """float32 [..., n], n a multiple of 32 -> Q4_1, uint8 [..., n / 32 * 20]."""
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, BLOCK)
    out = np.empty((len(blocks), 20), np.uint8)

    def run(first: int, last: int) -> None:
        out[first:last] = pack(*solve(blocks[first:last], steps))

    ggml.in_parts(run, len(blocks), _CHUNK, threads)
    return out.reshape(*values.shape[:-1], -1)


def mean_error(values: npt.ArrayLike, approximated: npt.ArrayLike, p: float = P) -> float:
    """Mean l_p error of an approximation: the mean of |difference|^p."""
    return float(np.power(np.abs(np.asarray(values, np.float64) - np.asarray(approximated, np.float64)), p).mean())

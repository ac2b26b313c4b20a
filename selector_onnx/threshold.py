"""Thresholds with a guarantee: P(risk > R) <= delta over the draw of the calibration questions.

Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052, section 3) with fixed-sequence testing. The grid of thresholds
is fixed beforehand. It is walked from strict to lax, and the walk ends at the first threshold at which "the risk is above R"
cannot be rejected at level delta. It begins where START times as many answers remain as an error-free test needs: a place
chosen from the confidences alone, never from correctness. Beginning at the very strictest place that could pass would let
one early error end the walk; the tests show both.

Calibration questions must be drawn independently (one a picture), from what will be asked. The begin of the walk adds one
assumption: beyond it, less confidence does not mean fewer errors.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_vqa.metrics import Values

METHOD = "ltt-fixed-sequence"
START = 3.0
# sigmoid of an even grid of logits, from strict to lax
GRID = 1 / (1 + np.exp(-np.linspace(9.0, -6.0, 601)))


def needed(risk: float, delta: float) -> int:
    """The least number of answers, all right, that shows a risk of at most `risk`: (1 - risk)^n <= delta."""
    return math.ceil(math.log(delta) / math.log1p(-risk))


def p_value(errors: npt.NDArray[np.float64], risk: float) -> float:
    """p-value of "the mean error is above `risk`", for independent errors in [0, 1].

    Binary errors: the exact binomial tail. Graded ones: the Hoeffding-Bentkus bound (Bates et al. 2021, section 3.1.1).
    """
    from scipy.stats import binom

    n, total = len(errors), float(errors.sum())
    if np.all((errors == 0) | (errors == 1)):
        return float(binom.cdf(round(total), n, risk))
    mean = min(total / n, risk)
    hoeffding = math.exp(-n * _divergence(mean, risk))
    bentkus = math.e * float(binom.cdf(math.ceil(total), n, risk))
    return min(1.0, hoeffding, bentkus)


def _divergence(a: float, b: float) -> float:
    """Kullback-Leibler divergence of Bernoulli(a) from Bernoulli(b), nats."""
    left = a * math.log(a / b) if a > 0 else 0.0
    right = (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
    return left + right


def select_threshold(confidence: Values, accuracy: Values, risk: float, delta: float, *, start: float = START) -> float | None:
    """The laxest threshold that keeps the risk with probability 1 - delta; None when none passes: then abstain always.

    confidence, accuracy: [n], one entry a calibration question. risk, delta in (0, 1).
    """
    if not (0 < risk < 1 and 0 < delta < 1):
        raise ValueError("risk and delta must lie between 0 and 1")
    c, a = np.asarray(confidence, np.float64), np.asarray(accuracy, np.float64)
    if c.ndim != 1 or c.shape != a.shape:
        raise ValueError("confidence and accuracy must be one-dimensional and of one length")
    enough = min(math.ceil(start * needed(risk, delta)), len(c))
    if enough < needed(risk, delta):
        return None
    passed: float | None = None
    for threshold in GRID:
        answered = c >= threshold
        if answered.sum() < enough:
            continue
        if p_value(1 - a[answered], risk) > delta:
            break
        passed = float(threshold)
    return passed

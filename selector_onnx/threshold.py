"""Thresholds with a guarantee: P(risk > R) <= delta over the draw of the calibration questions.

Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052, section 3) with fixed-sequence testing. The grid of thresholds
is fixed beforehand. It is walked from strict to lax, and the walk ends at the first threshold at which "the risk is above R"
cannot be rejected at level delta. Where it begins must not depend on the correctness of the calibration answers:

- a calibrated confidence is a probability of being right: the walk begins where these probabilities promise most that the
  test passes. If they are wrong, only coverage is lost, not the guarantee;
- any other begins where START times as many answers remain as an error-free test needs. Beginning at the very strictest place
  that could pass would let one early error end the walk.

Calibration questions must be drawn independently (one a picture), from what will be asked. The begin of the walk adds one
assumption: beyond it, less confidence does not mean fewer errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_vqa.metrics import Floats, Values

METHOD = "ltt-fixed-sequence"
START = 3.0
MANY = 100_000
# sigmoid of an even grid of logits, from strict to lax
GRID = 1 / (1 + np.exp(-np.linspace(9.0, -6.0, 601)))


def needed(risk: float, delta: float) -> int:
    """The least number of answers, all right, that shows a risk of at most `risk`: (1 - risk)^n <= delta."""
    return math.ceil(math.log(delta) / math.log1p(-risk))


def p_values(errors: Values, answers: Values, risk: float, *, graded: bool) -> Floats:
    """p-values of "the mean error is above `risk`" for sums of independent errors in [0, 1]; no answers give 1.

    errors, answers: [...], the sum of the errors and how many there are. Binary errors: the exact binomial tail. Graded
    ones: the Hoeffding-Bentkus bound (Bates et al. 2021, arXiv 2101.02703, section 3.1.1).
    """
    from scipy.stats import binom

    total, n = np.asarray(errors, np.float64), np.asarray(answers, np.float64)
    if not graded:
        return np.where(n > 0, binom.cdf(np.round(total), n, risk), 1.0)
    mean = np.minimum(total / np.maximum(n, 1), risk)
    hoeffding = np.exp(-n * _divergence(mean, risk))
    # a sum that float arithmetic puts a hair above a whole number is that number
    bentkus = math.e * binom.cdf(np.ceil(total - 1e-9), n, risk)
    return np.where(n > 0, np.minimum(1.0, np.minimum(hoeffding, bentkus)), 1.0)


def _divergence(a: Floats, b: float) -> Floats:
    """Kullback-Leibler divergence of Bernoulli(a) from Bernoulli(b), nats."""
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(a > 0, a * np.log(a / b), 0.0)
        right = np.where(a < 1, (1 - a) * np.log((1 - a) / (1 - b)), 0.0)
    return np.asarray(left + right)


def select_threshold(
    confidence: Values, accuracy: Values, risk: float, delta: float, *, calibrated: bool = False, start: float = START
) -> float | None:
    """The laxest threshold that keeps the risk with probability 1 - delta; None when none passes: then abstain always.

    confidence, accuracy: [n], one entry a calibration question; or [looks, n] where a question gets a second look if the first
    abstains (more detail, a larger model), and so on: the first look that reaches the threshold answers. The guarantee is the
    same, for the risk of all answers together: at a fixed threshold, whether a question is answered and how wrong it is still
    depend on that question alone, so the errors among the answers are still independent draws. risk, delta in (0, 1).
    calibrated: the confidence is meant as a probability, which says where the walk begins; else `start` does.
    """
    _check(risk, delta)
    c, a = np.asarray(confidence, np.float64), np.asarray(accuracy, np.float64)
    if c.ndim not in (1, 2) or c.shape != a.shape:
        raise ValueError("confidence and accuracy must be of one shape, [n] or [looks, n]")
    c, a = np.atleast_2d(c), np.atleast_2d(a)
    errors, answers = _at_grid(c, a)
    least = needed(risk, delta)
    tested = np.flatnonzero(answers >= (least if calibrated else max(least, min(math.ceil(start * least), c.shape[1]))))
    if not len(tested):
        return None
    if calibrated:
        expected, _ = _at_grid(c, c)
        # one error more than expected and one standard deviation: a promise that rests on few answers is not the best
        unlucky = np.floor(expected + 1 + np.sqrt(expected))[tested]
        tested = tested[int(np.argmin(p_values(unlucky, answers[tested], risk, graded=False))) :]
    passes = p_values(errors[tested], answers[tested], risk, graded=_graded(a)) <= delta
    count = len(tested) if passes.all() else int(np.argmin(passes))
    return float(GRID[tested[count - 1]]) if count else None


def worst_foreign(errors: Sequence[tuple[int, int]], delta: float) -> tuple[float, int]:
    """Of sets of foreign questions, as (answered wrongly, asked): the highest share, as an upper bound that holds for all sets
    at once with probability 1 - delta (Clopper and Pearson 1934; Bonferroni), and the number of that set."""
    from scipy.stats import beta

    level = 1 - delta / len(errors)
    bounds = [1.0 if k >= n else float(beta.ppf(level, k + 1, n - k)) for k, n in errors]
    worst = int(np.argmax(bounds))
    return bounds[worst], worst


def contaminated_risk(risk: float, coverage: float, n: int, wrong: float, share: float, delta: float) -> float:
    """Bound of the risk where a share of the questions is foreign, and of those a share `wrong` is answered wrongly.

    risk: that of the answers to familiar questions; coverage: of n calibration questions, which is at least as high as measured
    less sqrt(ln(1 / delta) / 2n) with probability 1 - delta, for every threshold at once (Massart 1990). With a of the familiar
    questions answered, at most ((1 - share) a risk + share wrong) / ((1 - share) a + share wrong) of the answers are wrong,
    which falls as a grows; right answers about foreign pictures only lower it.
    """
    least = max(0.0, coverage - math.sqrt(math.log(1 / delta) / (2 * n)))
    familiar, foreign = (1 - share) * least, share * wrong
    return (familiar * risk + foreign) / (familiar + foreign) if familiar + foreign > 0 else 1.0


def questions_needed(
    confidence: Values, accuracy: Values, risk: float, delta: float, *, calibrated: bool = False
) -> int | None:
    """About how many calibration questions would let a threshold pass in five of six draws, going by these questions.

    calibrated: go by the confidences, which vary less than the errors of few questions. None when no share of the questions is
    wrong seldom enough, or when `MANY` questions would not do.
    """
    _check(risk, delta)
    c, a = np.asarray(confidence, np.float64), np.asarray(accuracy, np.float64)
    errors, answers = _at_grid(c[None], (c if calibrated else a)[None])
    seen = answers >= (1 if calibrated else min(needed(risk, delta), len(c)))
    best: float | None = None
    sizes = np.unique(np.geomspace(needed(risk, delta), max(MANY, needed(risk, delta)), 400).round())  # of answers
    for wrong, share in sorted(set(zip(errors[seen] / answers[seen], answers[seen] / len(c), strict=True))):
        if wrong >= risk:
            break
        unlucky = sizes * wrong + np.sqrt(sizes * wrong * (1 - wrong))  # one standard deviation more errors than expected
        passing = sizes[p_values(np.floor(unlucky), sizes, risk, graded=_graded(a)) <= delta]
        if len(passing) and (best is None or passing[0] / share < best):
            best = float(passing[0] / share)
    return None if best is None or best > MANY else math.ceil(best)


def _check(risk: float, delta: float) -> None:
    if not (0 < risk < 1 and 0 < delta < 1):
        raise ValueError("risk and delta must lie between 0 and 1")


def _graded(accuracy: Floats) -> bool:
    return bool(np.any((accuracy != 0) & (accuracy != 1)))


def _at_grid(confidence: Floats, accuracy: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Sum of the errors, and number, of the answers given at each threshold of `GRID`, from [looks, n].

    A look answers at thresholds above the confidence of all looks before it, up to its own.
    """
    before = np.full(confidence.shape[1], -np.inf)
    errors, answers = np.zeros(len(GRID)), np.zeros(len(GRID), np.int64)
    for c, a in zip(confidence, accuracy, strict=True):
        heard = c > before
        for bound, sign in ((c[heard], 1), (before[heard], -1)):
            order = np.argsort(bound, kind="stable")
            wrong = np.append(np.cumsum((1 - a[heard][order])[::-1])[::-1], 0.0)  # of the answers from here on
            at = np.searchsorted(bound[order], GRID, side="left")
            errors += sign * wrong[at]
            answers += sign * (len(bound) - at)
        before = np.maximum(before, c)
    return errors, answers

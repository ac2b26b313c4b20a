"""VQA accuracy, and what reliability means in numbers: risk, coverage, C@R, effective reliability, AURC, ECE, AUROC.

Arrays are one-dimensional, one entry a question; accuracy lies in [0, 1] and may be graded (min(matches / 3, 1)).
Definitions: Whitehead et al., ECCV 2022, section 3 (risk, coverage, C@R, effective reliability).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Values: TypeAlias = "npt.ArrayLike"
Floats = npt.NDArray[np.float64]

# -- VQA accuracy: the rules of the official VQAv2 evaluation -----------------------------------------------------------

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten".split())}
_NUMBERS["none"] = "0"
_CONTRACTIONS_FULL = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've"
    " he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've"
    " o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd"
    " someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's"
    " they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's"
    " where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've"
    " y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
).split()


def _misspellings(word: str) -> set[str]:
    """A contraction with one of its apostrophes left out (all of them where it has one)."""
    places = [i for i, letter in enumerate(word) if letter == "'"]
    return {word[:i] + word[i + 1 :] for i in places}


_CONTRACTIONS = {wrong: word for word in _CONTRACTIONS_FULL for wrong in _misspellings(word)}


def normalise(answer: str) -> str:
    """An answer as the official VQAv2 evaluation compares it: punctuation, articles, number words, contractions."""
    text = " ".join(answer.split())
    out = text
    spread = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        joined = mark + " " in text or " " + mark in text or spread
        out = out.replace(mark, "" if joined else " ")
    out = _PERIOD.sub("", out)
    words = [_NUMBERS.get(word, word) for word in out.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(candidate: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer in [0, 1].

    With several reference answers: min(matches / 3, 1), averaged over the subsets that leave one reference out; as in the
    official code, normalisation applies when the references are not all the same. With one: exact match after normalisation.
    """
    if not answers:
        raise ValueError("no reference answers")
    if len(answers) == 1:
        return float(normalise(candidate) == normalise(answers[0]))
    given, references = " ".join(candidate.split()), [" ".join(answer.split()) for answer in answers]
    if len(set(references)) > 1:
        given, references = normalise(given), [normalise(answer) for answer in references]
    matches = sum(reference == given for reference in references)
    without = [matches - (reference == given) for reference in references]
    return sum(min(1.0, n / 3) for n in without) / len(without)


# -- reliability --------------------------------------------------------------------------------------------------------


def _pair(confidence: Values, accuracy: Values) -> tuple[Floats, Floats]:
    c, a = np.asarray(confidence, np.float64), np.asarray(accuracy, np.float64)
    if c.ndim != 1 or c.shape != a.shape or not len(c):
        raise ValueError("confidence and accuracy must be one-dimensional, of one length, and not empty")
    return c, a


def risk_coverage(confidence: Values, accuracy: Values) -> tuple[Floats, Floats, Floats]:
    """The risk-coverage curve: coverage, risk and threshold at each distinct confidence, from strict to lax.

    Questions of equal confidence enter together.
    """
    c, a = _pair(confidence, accuracy)
    order = np.argsort(-c, kind="stable")
    c, errors = c[order], np.cumsum(1 - a[order])
    last = np.append(np.flatnonzero(np.diff(c)), len(c) - 1)  # the last question of each group of ties
    answered = last + 1
    return answered / len(c), errors[last] / answered, c[last]


def coverage_at_risk(confidence: Values, accuracy: Values, risk: float) -> tuple[float, float]:
    """C@R: the largest coverage whose risk is at most `risk`, and its threshold; (0, inf) when there is none."""
    coverage, risks, thresholds = risk_coverage(confidence, accuracy)
    kept = np.flatnonzero(risks <= risk + 1e-12)
    if not len(kept):
        return 0.0, float("inf")
    return float(coverage[kept[-1]]), float(thresholds[kept[-1]])


def effective_reliability(confidence: Values, accuracy: Values, cost: float, threshold: float) -> float:
    """Phi_c: accuracy for an answer that is at least partly right, -cost for a wrong one, 0 for an abstention; the mean."""
    c, a = _pair(confidence, accuracy)
    return float(np.where(c >= threshold, np.where(a > 0, a, -cost), 0.0).mean())


def best_threshold(confidence: Values, accuracy: Values, cost: float) -> float:
    """The threshold with the highest effective reliability Phi_c on these questions; inf (abstain always) where none gains.

    Choose it on other questions than those it is measured on (Whitehead et al., section 3.3).
    """
    c, a = _pair(confidence, accuracy)
    order = np.argsort(-c, kind="stable")
    c, gains = c[order], np.cumsum(np.where(a[order] > 0, a[order], -cost))
    last = np.append(np.flatnonzero(np.diff(c)), len(c) - 1)
    best = int(np.argmax(gains[last]))
    return float(c[last[best]]) if gains[last[best]] > 0 else float("inf")


def aurc(confidence: Values, accuracy: Values) -> float:
    """Area under the risk-coverage curve: the mean, over the questions, of the risk at the coverage that includes it.

    Ties enter together, so that every question of a group counts with the risk of the whole group.
    """
    coverage, risks, _ = risk_coverage(confidence, accuracy)
    return float(np.diff(coverage, prepend=0.0) @ risks)


def ece(confidence: Values, accuracy: Values, bins: int = 15) -> float:
    """Expected calibration error over equal-mass bins."""
    c, a = _pair(confidence, accuracy)
    order = np.argsort(c, kind="stable")
    bounds = np.linspace(0, len(c), min(bins, len(c)) + 1).round().astype(int)
    gaps = [abs(c[order[i:j]].mean() - a[order[i:j]].mean()) * (j - i) for i, j in pairwise(bounds)]
    return float(sum(gaps) / len(c))


def auroc(confidence: Values, accuracy: Values) -> float:
    """Area under the ROC curve of confidence against correctness (accuracy >= 0.5); nan when only one class occurs."""
    c, a = _pair(confidence, accuracy)
    right = a >= 0.5
    n, m = int(right.sum()), int((~right).sum())
    if not n or not m:
        return float("nan")
    _, inverse, counts = np.unique(c, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of each group of ties
    return float((ranks[inverse][right].sum() - n * (n + 1) / 2) / (n * m))

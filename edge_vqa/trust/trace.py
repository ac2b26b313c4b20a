"""Trace: what one answer left behind, and the features a Selector reads from it."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

SCHEMA = 2
FIRST = ("first_logprob", "first_entropy", "first_margin", "first_top5")
STATISTICS = (
    "joint_logprob",
    "mean_logprob",
    "min_logprob",
    "mean_entropy",
    "max_entropy",
    "min_margin",
    "length",
    "ended",
)
EARLY = ("image", "first_hidden", "first_statistics")  # known before the second token is decoded
SELECTED = (*EARLY, "answer_hidden", "statistics")  # what a Selector may read
PICTURE = ("image", "image_spread", "pixels", "summary")  # what tells how familiar a picture is


@dataclass(frozen=True)
class TokenTrace:
    """One decoded token: log p of the token, entropy of its distribution (nats), margin to the runner-up (difference of log
    probabilities), mass of the five likeliest tokens."""

    id: int
    text: str
    logprob: float
    entropy: float
    margin: float
    top5: float


@dataclass(frozen=True)
class Timings:
    """Seconds of wall time."""

    load_s: float = 0.0
    image_s: float = 0.0
    prompt_s: float = 0.0
    decode_s: float = 0.0
    gate_s: float = 0.0
    total_s: float = 0.0

    def plus(self, other: Timings) -> Timings:
        """The sum, part by part."""
        return Timings(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, eq=False)
class Trace:
    """What the engine recorded for one answer. The end token, when it came, is the last of `tokens`.

    image [n_embd]: mean image embedding; first_hidden [n_embd]: final state that predicts the first token;
    answer_hidden [n_embd]: mean of the final states that predict the tokens. image_spread [n_embd], the standard
    deviation of its embeddings, pixels and summary (see `ImageTokens`) are for judging how familiar the picture is.
    """

    tokens: tuple[TokenTrace, ...]
    text: str
    ended: bool
    image: Array
    first_hidden: Array
    answer_hidden: Array
    image_tokens: int
    prompt_tokens: int
    image_spread: Array
    pixels: Array | None
    summary: Array | None

    @property
    def maxprob(self) -> float:
        """Probability of the greedy answer: exp(sum of log p), end token included."""
        return math.exp(sum(token.logprob for token in self.tokens))


def step_statistics(logits: npt.NDArray[np.float32], chosen: int) -> tuple[float, float, float, float]:
    """One row of raw logits [n_vocab] -> log p of `chosen`, entropy, margin of the best over the second, top-5 mass.

    In float32, which costs a few 1e-6: with a vocabulary of 50,000 it is part of the time of every token.
    """
    shifted = logits - logits.max()
    exp = np.exp(shifted)
    total = float(exp.sum())
    log_total = math.log(total)
    entropy = log_total - float(exp @ shifted) / total
    top = _largest(shifted)
    return float(shifted[chosen]) - log_total, entropy, float(top[-1] - top[-2]), float(np.exp(top).sum()) / total


def _largest(values: Array, n: int = 5, rows: int = 64) -> Array:
    """The n largest values, ascending. Of values laid out in rows, they lie in the n columns with the largest maxima, or in
    what is left over behind the last row."""
    whole = len(values) // rows * rows
    columns = values[:whole].reshape(rows, -1)
    if columns.shape[1] > 2 * n:
        best = np.argpartition(columns.max(0), -n)[-n:]
        values = np.concatenate([columns[:, best].ravel(), values[whole:]])
    return np.sort(np.partition(values, -n)[-n:]) if len(values) > n else np.sort(values)


def features(trace: Trace) -> dict[str, Array]:
    """Trace -> named features, schema 2, each [1, d]: `image`, `image_spread`, `first_hidden`, `answer_hidden` (d = n_embd),
    `first_statistics` (`FIRST`), `statistics` (`STATISTICS`) and, where there are some, `pixels` and `summary`. Those in
    `EARLY` and `PICTURE` are the same after one token as at the end.

    Source of the choice: Dancette et al., CVPR 2023, section 3.2.
    """
    tokens, first = trace.tokens, trace.tokens[0]
    logprobs, entropies = [token.logprob for token in tokens], [token.entropy for token in tokens]
    joint = sum(logprobs)
    statistics = (
        joint,
        joint / len(tokens),
        min(logprobs),
        sum(entropies) / len(tokens),
        max(entropies),
        min(token.margin for token in tokens),
        float(len(tokens)),
        float(trace.ended),
    )
    picture = {"image": trace.image[None], "image_spread": trace.image_spread[None]}
    more = {"pixels": trace.pixels, "summary": trace.summary}
    picture |= {name: values[None] for name, values in more.items() if values is not None}
    return picture | {
        "first_hidden": trace.first_hidden[None],
        "answer_hidden": trace.answer_hidden[None],
        "first_statistics": np.array([[first.logprob, first.entropy, first.margin, first.top5]], np.float32),
        "statistics": np.array([statistics], np.float32),
    }

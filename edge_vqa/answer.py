"""What comes of a question: tokens as they are decoded, then an answer or an abstention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from edge_vqa.trust.trace import Timings, Trace


@dataclass(frozen=True)
class Token:
    """A provisional piece of an answer, before the gate has decided."""

    text: str
    logprob: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What came of one question. `text` is None when abstained; `candidate` is what would have been said: empty when an early
    confidence method abstained before anything was decoded. `reason` to abstain: `unfamiliar` (the picture) or `confidence`.
    `familiarity` is None of a bundle that has no estimate of it. `model` and `detail` are those of the look that decided."""

    text: str | None
    candidate: str
    abstained: bool
    reason: str | None
    confidence: float
    confidence_method: str
    familiarity: float | None
    threshold: float | None
    risk_target: float | None
    calibrated: bool
    maxprob: float
    model: str
    detail: str
    trace: Trace
    timings: Timings


@dataclass(frozen=True)
class Verdict:
    """The last event of a stream."""

    answer: Answer


Event: TypeAlias = Token | Verdict

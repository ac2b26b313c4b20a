"""What comes of a question: tokens as they are decoded, then an answer or an abstention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from edge_vqa.notebook import card
from edge_vqa.trust.gate import UNFAMILIAR
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
    `familiarity` is None of a bundle that has no estimate of it. `model` and `detail` are those of the look that decided.
    `thumbnail`: the picture as a small JPEG, in a notebook only, where an answer shows itself."""

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
    thumbnail: bytes | None = None

    def in_words(self, *, show_candidate: bool = False) -> str:
        """One line on how the answer was judged."""
        guess = f'; the guess was "{self.candidate}"' if self.abstained and show_candidate else ""
        if self.reason == UNFAMILIAR:
            return f"not answered: this picture is unlike those that the confidence was calibrated on{guess}"
        # nobody is sure, and nothing impossible: 1.00 and 0.00 would say so
        value = (
            "over 0.99" if self.confidence >= 0.995 else "below 0.01" if self.confidence < 0.005 else f"{self.confidence:.2f}"
        )
        confidence = f"confidence {value}"
        if self.threshold is None:
            limit = "always answered (--no-gate)" if not self.abstained else "no threshold keeps the risk: always abstains"
        else:
            sign = "below" if self.abstained else "at least"
            limit = f"{sign} {self.threshold:.2f}"
            if self.risk_target is not None:
                limit += f", the threshold for {self.risk_target:.0%} risk"
        note = "; uncalibrated" if not self.calibrated else "; familiarity uncalibrated" if self.familiarity is None else ""
        said = f"not answered: {confidence}" if self.abstained else confidence
        return f"{said}, {limit}{note}{guess}"

    def _repr_html_(self) -> str:
        return card(self.thumbnail, self.text, self.in_words(), self.confidence, self.threshold)


@dataclass(frozen=True)
class Verdict:
    """The last event of a stream."""

    answer: Answer


Event: TypeAlias = Token | Verdict

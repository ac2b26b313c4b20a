"""What came of a question, told to a person and to a program."""

from __future__ import annotations

from typing import Any

from edge_vqa.answer import Answer
from edge_vqa.trust.gate import UNFAMILIAR


def in_words(answer: Answer, *, show_candidate: bool = False) -> str:
    """One line on how the answer was judged."""
    guess = f'; the guess was "{answer.candidate}"' if answer.abstained and show_candidate else ""
    if answer.reason == UNFAMILIAR:
        return f"not answered: this picture is unlike those that the confidence was calibrated on{guess}"
    # nobody is sure, and nothing impossible: 1.00 and 0.00 would say so
    value = (
        "over 0.99" if answer.confidence >= 0.995 else "below 0.01" if answer.confidence < 0.005 else f"{answer.confidence:.2f}"
    )
    confidence = f"confidence {value}"
    if answer.threshold is None:
        limit = "always answered (--no-gate)" if not answer.abstained else "no threshold keeps the risk: always abstains"
    else:
        sign = "below" if answer.abstained else "at least"
        limit = f"{sign} {answer.threshold:.2f}"
        if answer.risk_target is not None:
            limit += f", the threshold for {answer.risk_target:.0%} risk"
    note = "; uncalibrated" if not answer.calibrated else "; familiarity uncalibrated" if answer.familiarity is None else ""
    said = f"not answered: {confidence}" if answer.abstained else confidence
    return f"{said}, {limit}{note}{guess}"


def judgement(answer: Answer, *, show_candidate: bool) -> dict[str, Any]:
    """What was decided, and on what grounds."""
    return {
        "answer": answer.text,
        "candidate": answer.candidate if show_candidate or not answer.abstained else None,
        "abstained": answer.abstained,
        "reason": answer.reason,
        "confidence": answer.confidence,
        "confidence_method": answer.confidence_method,
        "familiarity": answer.familiarity,
        "threshold": answer.threshold,
        "risk_target": answer.risk_target,
        "calibrated": answer.calibrated,
        "maxprob": answer.maxprob,
    }


def as_object(answer: Answer, *, show_candidate: bool) -> dict[str, Any]:
    """The object that `ask --json` prints and `/ask` of a server returns; its keys are a contract."""
    timings = answer.timings
    return judgement(answer, show_candidate=show_candidate) | {
        "model": answer.model,
        "tokens": [
            {"text": token.text, "logprob": token.logprob, "entropy": token.entropy}
            for token in answer.trace.tokens
            if show_candidate or not answer.abstained
        ],
        "timings": {
            "load_s": timings.load_s,
            "image_s": timings.image_s,
            "prompt_s": timings.prompt_s,
            "decode_s": timings.decode_s,
            "gate_s": timings.gate_s,
            "total_s": timings.total_s,
        },
        "image_tokens": answer.trace.image_tokens,
        "prompt_tokens": answer.trace.prompt_tokens,
    }

"""What came of a question, told to a program."""

from __future__ import annotations

from typing import Any

from edge_vqa.answer import Answer


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

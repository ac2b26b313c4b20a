"""How a question is asked: the looks that it gets until one of them answers, and the gate that judges all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TypedDict

from edge_vqa.answer import Answer
from edge_vqa.errors import EdgeVqaError, require
from edge_vqa.session.session import Session
from edge_vqa.trust import gate as gates
from edge_vqa.trust.gate import Gate
from edge_vqa.trust.trace import Timings, Trace

DETAILS = ("low", "high", "auto")


class Asking(TypedDict, total=False):
    """What may be said about how to ask.

    risk: take the bundle's operating point for this share of wrong answers; threshold: an own threshold on the confidence;
    gate=False: always answer. detail: `low` looks at the picture as one tile, `high` at slices too, `auto` at slices only where
    the first look abstains. max_tokens: of the longest answer (default: the bundle's). early: decide after the first token, by
    `selector-early`, whatever confidence method was chosen for other questions.
    """

    risk: float | None
    threshold: float | None
    gate: bool
    detail: str | None
    max_tokens: int | None
    early: bool


@dataclass(frozen=True)
class Look:
    """One look at a picture: by which model, at which detail. The second model of a cascade is loaded by its first question."""

    owner: Session
    detail: str
    second: bool = False

    @property
    def session(self) -> Session:
        return self.owner.second if self.second else self.owner


@dataclass(frozen=True)
class Plan:
    """How a question is asked: the looks that it gets until one of them answers, the gate of all of them, the longest answer
    (None: the bundle's), whether confidences are those that calibration saw, and whether they are estimated early, in all looks
    or by the sessions' own methods."""

    looks: tuple[Look, ...]
    gate: Gate
    max_tokens: int | None
    as_calibrated: bool
    early: bool = False


def plan(
    session: Session,
    *,
    risk: float | None = None,
    threshold: float | None = None,
    gate: bool = True,
    detail: str | None = None,
    max_tokens: int | None = None,
    early: bool = False,
) -> Plan:
    """See `Asking`. Raises EdgeVqaError for settings that do not work, TypeError for those of a wrong type."""
    require(Real, "a number", risk=risk, threshold=threshold)
    require(Integral, "a whole number", max_tokens=max_tokens)
    require(str, "a string", detail=detail)
    bundle, manifest = session.bundle, session.bundle.manifest
    own = manifest.prompt
    detail = detail or own.detail
    if detail not in DETAILS:
        raise EdgeVqaError(f"detail {detail!r} is unknown", f"use one of {', '.join(DETAILS)}")
    if max_tokens is not None and max_tokens < 1:
        raise EdgeVqaError(f"an answer of {max_tokens} tokens is none", "give --max-tokens 1 or more")
    if early and (detail == "auto" or session.then is not None):
        raise EdgeVqaError("a second look is not taken early", "leave out early, or --detail auto and --then")
    looks = [Look(session, "low" if detail == "auto" else detail)]
    cascade = None
    if detail == "auto":
        if session.then is not None:
            raise EdgeVqaError("--detail auto and --then are two ways to look again", "give one of them")
        looks.append(Look(session, "high"))
        cascade = manifest.cascade(bundle.pair(bundle), "high")
    elif session.then is not None:
        looks.append(Look(session, session.then.manifest.prompt.detail, second=True))
        cascade = manifest.cascade(bundle.pair(session.then), looks[-1].detail)
    method, _ = session.method(early)
    chosen = gates.choose(manifest, method.name, risk=risk, threshold=threshold, gate=gate, cascade=cascade)
    as_calibrated = (
        max_tokens in (None, own.max_tokens)
        and session.kv_type == "f16"
        and (cascade is not None if len(looks) > 1 else detail == own.detail)
    )
    chosen = replace(chosen, calibrated=chosen.calibrated and as_calibrated)
    return Plan(tuple(looks), chosen, max_tokens, as_calibrated, early)


def judge(plan: Plan, look: Look, trace: Trace, confidence: float, familiarity: float | None, timings: Timings) -> Answer:
    """The answer to a question, from the look that decided."""
    method, _ = look.session.method(plan.early)
    if plan.as_calibrated and len(plan.looks) == 1 and method is look.owner.confidence:
        look.owner.count(confidence, familiarity)
    reason = plan.gate.reason(confidence, familiarity)
    answered = reason is None
    candidate = "" if method.early and not answered else trace.text
    return Answer(
        text=candidate if answered else None,
        candidate=candidate,
        abstained=not answered,
        reason=reason,
        confidence=confidence,
        confidence_method=method.name,
        familiarity=familiarity,
        threshold=plan.gate.threshold,
        risk_target=plan.gate.risk,
        calibrated=plan.gate.calibrated,
        maxprob=trace.maxprob,
        model=look.session.bundle.name,
        detail=look.detail,
        trace=trace,
        timings=timings,
    )

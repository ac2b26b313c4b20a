"""What can be counted of a server without saying what was asked: for Prometheus, and as lines of a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edge_vqa.visible import as_json

if TYPE_CHECKING:
    from edge_vqa.answer import Answer
    from edge_vqa.model import Model

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
OUTCOMES = ("answered", "abstained", "refused", "full", "withdrawn", "late", "failed")


class Figures:
    """Counts of one server. waiting: how many questions wait now."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self.model: Model | None = None
        requests = "Requests, by status; of those that nobody waited for, 0 or 499."
        self._requests = Counter("edge_vqa_requests", requests, ["status"], registry=registry)
        self._questions = Counter("edge_vqa_questions", "Questions, by what came of them.", ["outcome"], registry=registry)
        for outcome in OUTCOMES:
            self._questions.labels(outcome)
        self._abstained = Counter("edge_vqa_abstentions", "Abstentions, by reason.", ["reason"], registry=registry)
        stage = "Seconds of a question, by stage; of questions that were decoded together, shares."
        self._seconds = Histogram("edge_vqa_seconds", stage, ["stage"], buckets=SECONDS, registry=registry)
        tenths = [tenth / 10 for tenth in range(1, 11)]
        self._confidence = Histogram("edge_vqa_confidence", "Confidence of answers.", buckets=tenths, registry=registry)
        Gauge("edge_vqa_waiting", "Questions that wait.", registry=registry).set_function(waiting)
        drift = "Whether confidences look unlike calibration (1), do not (0), or too few were seen (-1)."
        Gauge("edge_vqa_drift", drift, registry=registry).set_function(self._drift)

    def log(self, *, status: int, **said: Any) -> None:
        """Count a request, and write its line."""
        self._requests.labels(str(status)).inc()
        log(status=status, **said)

    def count(self, outcome: str) -> None:
        self._questions.labels(outcome).inc()

    def answer(self, answer: Answer, queue_s: float) -> None:
        """Count an answer or an abstention."""
        self.count("abstained" if answer.abstained else "answered")
        if answer.reason is not None:
            self._abstained.labels(answer.reason).inc()
        spent = answer.timings
        stages = {"queue": queue_s, "image": spent.image_s, "prompt": spent.prompt_s, "decode": spent.decode_s}
        for stage, seconds in (stages | {"gate": spent.gate_s, "total": queue_s + spent.total_s}).items():
            self._seconds.labels(stage).observe(seconds)
        self._confidence.observe(answer.confidence)

    def _drift(self) -> float:
        from edge_vqa.trust import watch

        found = watch.compare(self.model.bundle, self.model.confidence.name) if self.model is not None else None
        return -1.0 if found is None else float(bool(found.warnings))

    def text(self) -> bytes:
        """In Prometheus' format."""
        made: bytes = generate_latest(self.registry)
        return made


def log(**said: Any) -> None:
    """A line of JSON on stderr."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(as_json({"time": stamp} | said) + "\n")

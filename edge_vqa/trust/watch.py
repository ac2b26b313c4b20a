"""Drift watch: does confidence on this device still look as it did in calibration?

Kept are counts only, never a picture, a question or an answer: the confidence bins of the last `LAST` questions, in one small
file a bundle and method below `$EDGE_VQA_HOME/watch`; an unfamiliar picture counts as confidence 0. `compare` tests them
against the calibration questions in bundle.json.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_vqa.border.whole import write_bytes
from edge_vqa.bundles import store
from edge_vqa.bundles.manifest import HISTOGRAM
from edge_vqa.bundles.store import Bundle
from edge_vqa.errors import EdgeVqaError
from edge_vqa.trust.gate import UNFAMILIAR, Gate

LAST = 1000
LEAST = 100  # questions before anything is said
LEVEL = 0.001  # of each of the two tests: one false alarm in a thousand looks
SCHEMA = 1


@dataclass(frozen=True)
class Drift:
    """What the two tests say. n: questions watched; coverage here and in calibration at the default operating point (None when
    it always abstains); p-values; warnings in words, empty when nothing is unusual."""

    n: int
    coverage: float | None
    expected: float | None
    coverage_p: float | None
    confidence_p: float
    warnings: tuple[str, ...]


def bin_of(confidence: float) -> int:
    return min(int(confidence * HISTOGRAM), HISTOGRAM - 1)


def path_of(bundle: Bundle, method: str) -> Path:
    """One file for a bundle's content and a method: another model or Selector starts anew."""
    manifest = bundle.manifest
    point = manifest.default_point(method)
    limits = repr(point and (point.threshold, point.familiarity))
    content = [manifest.files[role].sha256 for role in sorted(manifest.files)] + [method, limits]
    key = hashlib.sha256("\n".join(content).encode()).hexdigest()[:12]
    return store.home() / "watch" / f"{manifest.name}-{key}.json"


def record(
    bundle: Bundle, method: str, confidences: Sequence[float], familiarity: Sequence[float | None] | None = None
) -> None:
    """Add confidences, and how familiar each picture was where that is known. Counting never stands in the way of an answer: a
    home that cannot be written is left alone."""
    path, point = path_of(bundle, method), bundle.manifest.default_point(method)
    gate = Gate(point.threshold, familiarity=point.familiarity) if point else Gate(None)
    with contextlib.suppress(OSError, EdgeVqaError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            seen = read(bundle, method)
            known = familiarity or [None] * len(confidences)
            for c, f in zip(confidences, known, strict=True):
                reason = gate.reason(c, f)
                seen.append((0 if reason == UNFAMILIAR else bin_of(c), reason is None))
            content = {"schema": SCHEMA, "bins": [b for b, _ in seen[-LAST:]], "answered": [int(a) for _, a in seen[-LAST:]]}
            write_bytes(path, json.dumps(content).encode())


def read(bundle: Bundle, method: str) -> list[tuple[int, bool]]:
    """(bin, answered at the default point) of the last questions, oldest first; a file that does not read is none."""
    try:
        content = json.loads(path_of(bundle, method).read_text())
        pairs = list(zip(content["bins"], content["answered"], strict=True))
    except (OSError, ValueError, KeyError, TypeError):
        return []
    sound = all(isinstance(b, int) and 0 <= b < HISTOGRAM and a in (0, 1) for b, a in pairs)
    return [(b, bool(a)) for b, a in pairs] if sound and content.get("schema") == SCHEMA else []


def compare(bundle: Bundle, method: str) -> Drift | None:
    """Test what was seen here against calibration; None when there is no calibration or too little was seen.

    Confidence: the two-sample Kolmogorov-Smirnov test on the binned confidences (ties make it conservative). Coverage: the
    two-sample z-test of proportions. Each at level `LEVEL`.
    """
    reference = next((c for c in bundle.manifest.calibration if c.confidence == method), None)
    seen = read(bundle, method)
    if reference is None or len(seen) < LEAST:
        return None
    here = [0] * HISTOGRAM
    for number, _ in seen:
        here[number] += 1
    confidence_p = kolmogorov_smirnov(here, reference.histogram)
    warnings = []
    if confidence_p < LEVEL:
        mean, expected = (sum(c * (i + 0.5) for i, c in enumerate(h)) / sum(h) / HISTOGRAM for h in (here, reference.histogram))
        direction = "lower" if mean < expected else "higher" if mean > expected else "other"
        warnings.append(
            f"confidence is {direction} than in calibration: mean {mean:.2f} of the last {len(seen)} questions,"
            f" {expected:.2f} of {reference.n} there (Kolmogorov-Smirnov, p = {confidence_p:.1g})"
        )
    point = bundle.manifest.default_point(method)
    coverage = expected_coverage = coverage_p = None
    if point is not None and point.threshold is not None:
        coverage, expected_coverage = sum(answered for _, answered in seen) / len(seen), point.coverage
        coverage_p = two_proportions(coverage, len(seen), point.coverage, point.n)
        if coverage_p < LEVEL:
            warnings.append(
                f"coverage left its band: {coverage:.0%} of the last {len(seen)} questions reach the default threshold,"
                f" {point.coverage:.0%} of {point.n} in calibration (z-test of two proportions, p = {coverage_p:.1g})"
            )
    return Drift(len(seen), coverage, expected_coverage, coverage_p, confidence_p, tuple(warnings))


def kolmogorov_smirnov(first: Sequence[int], second: Sequence[int]) -> float:
    """p-value, from the asymptotic distribution, that two histograms over the same bins come from one distribution."""
    n, m = sum(first), sum(second)
    a = b = 0
    distance = 0.0
    for x, y in zip(first, second, strict=True):
        a, b = a + x, b + y
        distance = max(distance, abs(a / n - b / m))
    size = math.sqrt(n * m / (n + m))
    z = (size + 0.12 + 0.11 / size) * distance  # Stephens 1970
    if z < 0.3:
        return 1.0
    tail = sum((-1.0) ** (k - 1) * math.exp(-2 * k * k * z * z) for k in range(1, 101))
    return min(1.0, max(0.0, 2 * tail))


def two_proportions(p: float, n: int, q: float, m: int) -> float:
    """Two-sided p-value that shares p of n and q of m come from one proportion."""
    pooled = (p * n + q * m) / (n + m)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return 1.0 if spread == 0 else math.erfc(abs(p - q) / spread / math.sqrt(2))

"""Statistics of a row of logits against plain calculations."""

from __future__ import annotations

import numpy as np
import pytest

from edge_vqa.model import Model
from edge_vqa.pictures.statistics import NAMES
from edge_vqa.trust.trace import FIRST, STATISTICS, features, step_statistics
from tests.conftest import Asked


@pytest.mark.parametrize("size", [2, 5, 6, 700, 1000, 49_280])
def test_statistics_of_a_row(size: int) -> None:
    logits = np.random.default_rng(size).normal(0, 4, size).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum()
    best = int(p.argmax())
    ordered = np.sort(p)[::-1]
    logprob, entropy, margin, top5 = step_statistics(logits, best)
    assert logprob == pytest.approx(np.log(p[best]), abs=2e-6)
    assert entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-5)  # BLAS adds in the order that suits the CPU
    assert margin == pytest.approx(np.log(ordered[0] / ordered[1]), abs=1e-6)
    assert top5 == pytest.approx(ordered[:5].sum(), abs=2e-6)


def test_huge_logits_do_not_overflow() -> None:
    logprob, entropy, _, _ = step_statistics(np.array([1e4, -1e4, 0], np.float32), 0)
    assert logprob == 0.0 and entropy == pytest.approx(0.0)


def test_features_of_a_real_trace(model: Model, easy_questions: list[Asked]) -> None:
    _, path, question, _ = easy_questions[0]
    trace = model.ask(path, question, gate=False).trace
    made = features(trace)
    assert {name: value.shape for name, value in made.items()} == {
        "image": (1, 256),
        "image_spread": (1, 256),
        "pixels": (1, len(NAMES)),
        "first_hidden": (1, 256),
        "answer_hidden": (1, 256),
        "first_statistics": (1, len(FIRST)),
        "statistics": (1, len(STATISTICS)),
    }
    statistics = dict(zip(STATISTICS, made["statistics"][0], strict=True))
    assert np.exp(statistics["joint_logprob"]) == pytest.approx(trace.maxprob, rel=1e-5)
    assert statistics["length"] == len(trace.tokens)
    assert statistics["ended"] == 1.0
    assert all(np.isfinite(value).all() for value in made.values())

"""Drift watch: counts and nothing else, and a warning when they leave the band of calibration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_vqa.bundles.store import Bundle
from edge_vqa.model import load
from edge_vqa.trust import watch
from tests.conftest import EXAMPLES, Run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path))
    return tmp_path


def like_calibration(mini: Bundle, n: int, seed: int) -> list[float]:
    """Confidences drawn from the histogram of the calibration questions."""
    counts = np.array(next(c.histogram for c in mini.manifest.calibration if c.confidence == "selector"), float)
    rng = np.random.default_rng(seed)
    return list((rng.choice(len(counts), n, p=counts / counts.sum()) + rng.random(n)) / len(counts))


def test_only_counts_are_kept(home: Path, mini: Bundle) -> None:
    with load("mini", watch=True) as model:
        answers = [model.ask(EXAMPLES / "price.png", "how much is it?") for _ in range(3)]
    (path,) = (home / "watch").glob("*.json")
    kept = json.loads(path.read_text())
    assert set(kept) == {"schema", "bins", "answered"} and kept["bins"] == [watch.bin_of(a.confidence) for a in answers]
    assert "price" not in path.read_text() and "how much" not in path.read_text()
    with load("mini") as model:
        model.ask(EXAMPLES / "price.png", "how much is it?")
    assert len(watch.read(mini, "selector")) == 3, "nothing is counted unless asked for"


def test_the_last_thousand_count(mini: Bundle) -> None:
    watch.record(mini, "selector", [0.1] * 900)
    watch.record(mini, "selector", [0.9] * 300)
    seen = watch.read(mini, "selector")
    assert len(seen) == watch.LAST and [b for b, _ in seen].count(watch.bin_of(0.9)) == 300
    assert watch.path_of(mini, "selector") != watch.path_of(mini, "maxprob")


def test_a_damaged_file_is_no_file(mini: Bundle) -> None:
    watch.record(mini, "selector", [0.5])
    for content in ("{", "[]", '{"bins": [99], "answered": [1], "schema": 1}', '{"bins": [1], "answered": [], "schema": 1}'):
        watch.path_of(mini, "selector").write_text(content)
        assert watch.read(mini, "selector") == []


def test_no_alarm_on_questions_like_those_of_calibration(mini: Bundle) -> None:
    alarms = 0
    for seed in range(100):
        watch.path_of(mini, "selector").unlink(missing_ok=True)
        watch.record(mini, "selector", like_calibration(mini, 500, seed))
        drift = watch.compare(mini, "selector")
        assert drift is not None
        alarms += bool(drift.warnings)
    assert alarms <= 3, f"{alarms} false alarms of 100 looks"


def test_an_alarm_when_pictures_got_worse(run: Run, mini: Bundle) -> None:
    assert "0 of the 100 questions needed" in run("edge-vqa", "doctor").stdout
    watch.record(mini, "selector", like_calibration(mini, 300, 1))
    fine = run("edge-vqa", "doctor")
    assert fine.returncode == 0 and "look like those of its calibration" in fine.stdout
    watch.record(mini, "selector", [c * 0.6 for c in like_calibration(mini, 400, 2)])
    worse = run("edge-vqa", "doctor")
    assert worse.returncode == 1 and worse.stdout.count("warning  drift") == 2, worse.stdout
    assert "confidence is lower" in worse.stdout and "coverage left its band" in worse.stdout and "p = " in worse.stdout


def test_tests_agree_with_scipy() -> None:
    from scipy.stats import kstwobign, norm

    first, second = [30, 50, 20], [300, 350, 350]
    distance = max(abs(np.cumsum(first) / 100 - np.cumsum(second) / 1000))
    size = np.sqrt(100 * 1000 / 1100)
    expected = kstwobign.sf((size + 0.12 + 0.11 / size) * distance)
    assert watch.kolmogorov_smirnov(first, second) == pytest.approx(expected, rel=1e-6)
    assert watch.kolmogorov_smirnov(first, first) == 1.0
    z = (0.5 - 0.6) / np.sqrt(0.58 * 0.42 * (1 / 200 + 1 / 800))
    assert watch.two_proportions(0.5, 200, 0.6, 800) == pytest.approx(2 * norm.sf(abs(z)), rel=1e-9)
    assert watch.two_proportions(1.0, 10, 1.0, 10) == 1.0

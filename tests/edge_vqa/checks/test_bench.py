"""`edge-vqa bench`: what it measures, what it keeps, and what --tune finds."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_vqa import EdgeVqaError
from edge_vqa.bundles.store import Bundle
from edge_vqa.checks import bench, tuner
from edge_vqa.device import tuning
from edge_vqa.device.tuning import Choice
from edge_vqa.llm.threads import Threads
from edge_vqa.model import load
from edge_vqa.session.options import Options
from tests.conftest import EXAMPLES, Run, one_line

pytestmark = pytest.mark.alone
STEPS = ("cold_start", "peak_memory", "first_token", "first_question", "second_question")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_VQA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def from_outside(repeat: int) -> dict[str, float]:
    """The same steps, timed around the command and the public interface; the peak as the process itself sees it."""
    rng = np.random.default_rng(1)
    values: dict[str, list[float]] = {step: [] for step in STEPS}
    asked = ["ask", str(EXAMPLES / "cat.jpg"), bench.QUESTIONS[0], "--max-tokens", "8"]
    peak = f"import sys; from edge_vqa.cli import main; sys.argv[1:] = {asked!r}\n"
    peak += "try: main()\nexcept SystemExit: print(open('/proc/self/status').read())"
    for _ in range(bench.COLD):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "edge_vqa", *asked], capture_output=True)
        values["cold_start"].append(time.perf_counter() - began)
        told = subprocess.run([sys.executable, "-c", peak], capture_output=True, text=True).stdout
        values["peak_memory"].append(int(told.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
    with load() as model:
        for _ in range(repeat + 1):
            picture = rng.integers(0, 256, bench.SIZE, np.uint8)
            began = time.perf_counter()
            events = model.stream(picture, bench.QUESTIONS[0], max_tokens=bench.MOST_TOKENS)
            next(events)
            values["first_token"].append(time.perf_counter() - began)
            list(events)
            values["first_question"].append(time.perf_counter() - began)
            began = time.perf_counter()
            model.ask(picture, bench.QUESTIONS[1], max_tokens=bench.MOST_TOKENS)
            values["second_question"].append(time.perf_counter() - began)
    return {step: statistics.median(all_[1:]) for step, all_ in values.items()}


def test_figures_are_those_of_the_same_steps_timed_from_outside(mini: Bundle) -> None:
    began = time.perf_counter()
    report = bench.Bench(mini, Options(), repeat=20).run()
    assert time.perf_counter() - began < 60
    assert report.figures.keys() >= bench.FIGURES.keys() - {"energy"}
    apart = dict.fromkeys(STEPS, 0.0)
    for _ in range(10):  # a busy machine may slow one side down
        outside = from_outside(20)
        apart = {step: report.figures[step].p50 / outside[step] for step in apart}
        apart = {step: ratio for step, ratio in apart.items() if not 0.9 <= ratio <= 1.1}
        if not apart:
            break
        report = bench.Bench(mini, Options(), repeat=20).run()
    assert not apart
    for name, figure in report.figures.items():
        assert figure.p50 > 0 and (figure.p90 <= figure.p50 if bench.FIGURES[name][2] else figure.p90 >= figure.p50), name
    first, second = (report.figures[name].p50 for name in ("first_question", "second_question"))
    assert report.figures["first_token"].p50 < first and second < first
    assert report.subject.image_tokens == 16 and not report.partial
    assert 60 < report.figures["peak_memory"].p50 < 200


def test_a_result_is_saved_shown_and_compared(run: Run, tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    shown = run("edge-vqa", "bench", "--repeat", "2", "-o", one)
    assert shown.returncode == 0 and "decoding of 32 tokens" in shown.stdout and str(one) in shown.stderr
    content = json.loads(one.read_text())
    content["machine"]["device"] = "Raspberry Pi 5 Model B Rev 1.0"
    content["figures"]["decode"]["p50"] *= 2
    del content["figures"]["gate"]
    two.write_text(json.dumps(content))
    compared = run("edge-vqa", "bench", "--compare", one, two)
    assert compared.returncode == 0, compared.stderr
    row = next(line for line in compared.stdout.splitlines() if line.startswith("decoding"))
    assert "2.00 better" in row and "Raspberry Pi 5" in compared.stdout
    assert next(line for line in compared.stdout.splitlines() if line.startswith("gate")).split()[2] == "-"


def test_json_goes_to_stdout_and_a_file_below_home(run: Run, home: Path) -> None:
    done = run("edge-vqa", "bench", "--repeat", "1", "--json", env=os.environ | {"EDGE_VQA_HOME": str(home)})
    (kept,) = (home / "bench").glob("*-mini.json")
    assert json.loads(done.stdout) == json.loads(kept.read_text())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"schema": 2}', "no result of this version"),
        ("[1, 2]", "no result of this version"),
        ("{", "no result of edge-vqa bench"),
        ('{"schema": 1, "extra": 1}', "unknown key extra"),
        ("[" * 100_000, "no result of edge-vqa bench"),
    ],
)
def test_what_is_no_result_is_refused(run: Run, tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    assert said in one_line(run("edge-vqa", "bench", "--compare", path, path))


def test_figures_that_cannot_be_are_refused(mini: Bundle, tmp_path: Path) -> None:
    report = bench.Bench(mini, Options(), repeat=1).report()
    content = json.loads(bench.as_json(report)) | {"figures": {"gate": {"p50": -1.0, "p90": 0.0, "n": 1}}}
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(EdgeVqaError, match="cannot be"):
        bench.read(tmp_path / "x.json")


def test_an_interrupted_bench_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "part.json"
    command = [sys.executable, "-m", "edge_vqa", "bench", "--repeat", "100000", "-o", str(path)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        time.sleep(8)
        os.killpg(running.pid, signal.SIGINT)  # as the terminal does
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130 and said.startswith("kept in ") and said.count("\n") == 1, said
    report = bench.read(path)
    assert report.partial and report.figures["cold_start"].n >= 1


def test_settings_that_do_not_work_are_refused(run: Run, tmp_path: Path) -> None:
    assert "automatic detail" in one_line(run("edge-vqa", "bench", "--detail", "auto"))
    assert "no vision tower for onnx" in one_line(run("edge-vqa", "bench", "--vision", "onnx"))
    assert "is no folder" in one_line(run("edge-vqa", "bench", "--repeat", "1", "-o", tmp_path / "no/such/folder.json"))


def test_tune_keeps_the_fastest_setting_and_it_is_used(mini: Bundle, home: Path) -> None:
    tuned = tuner.tune(mini, Options())
    assert {trial.step.split(":")[0].split(" of ")[0] for trial in tuned.trials} >= {"picture", "prefill", "decoding"}
    assert tuned.seconds_after <= tuned.seconds_before
    assert tuning.read(mini) == tuned.after
    with load(sequences=None) as model:
        assert (model.threads, model.sequences) == (tuned.after.threads, tuned.after.together)


def test_a_tuned_choice_is_what_batch_and_ask_take(mini: Bundle, home: Path) -> None:
    tuning.write(mini, Choice("mtmd", Threads(2, 1, 1), together=3))
    with load(sequences=None) as model:
        assert (model.threads, model.sequences) == (Threads(2, 1, 1), 3)
        assert model.ask(EXAMPLES / "price.png", "how much is it?").text == "$4.50"
    tuning.write(mini, Choice("mtmd", Threads(1, 1, 1), together=1000))
    assert tuning.read(mini) is None, "a number that cannot be"


def test_only_what_is_clearly_faster_replaces_the_default() -> None:
    trials: list[tuner.Trial] = []
    assert tuner._best({1: 1.0, 2: 0.99}, 1, trials, "x") == 1
    assert tuner._best({1: 1.0, 2: 0.9}, 1, trials, "x") == 2
    assert tuner._best({2: 0.9, 4: 1.0}, 1, trials, "x") == 2, "the default was not tried"
    assert len(trials) == 6

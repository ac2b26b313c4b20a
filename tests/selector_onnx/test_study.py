"""A small study of two precisions of the real checkpoint."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ray.cluster_utils import Cluster

from converters.convert import convert
from converters.options import Options
from edge_vqa.work.evaluation import figures
from selector_onnx import collect, plots, study
from selector_onnx.study_config import Mix, read_config
from tests.conftest import CHECKPOINT, Asked, Run, one_line
from tests.edge_vqa.cluster.conftest import cluster  # noqa: F401  (a fixture)

CONFIG = """
name = "small"
baseline = "q8"
main = "q2"
mixes = [0, 50, 100]

[data]
train = "train.jsonl"
exposure = "exposure.jsonl"
calibration = "calibration.jsonl"
id = "id.jsonl"
ood = "ood.jsonl"

[ood]
more = "exposure.jsonl"

[foreign]
noise = "noise.jsonl"

[[bundle]]
folder = "q8"
precision = "int8"
quantiser = "RTN"

[[bundle]]
folder = "q2"
precision = "int2"
quantiser = "RTN"

[[bundle]]
folder = "q2-again"
precision = "int2"
quantiser = "again"
selector = false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, easy_questions: list[Asked]) -> Path:
    where = tmp_path_factory.mktemp("study")
    for name, quant in (("q8", "rtn:q8_0"), ("q2", "rtn:q2_k"), ("q2-again", "rtn:q2_k")):
        convert(CHECKPOINT, where / name, Options(quant=quant, vision_type="q8_0", max_tokens=12))
    seen: set[Path] = set()
    one_each = [asked for asked in easy_questions if asked[1] not in seen and not seen.add(asked[1])]  # type: ignore[func-returns-value]
    parts: Iterator[Asked] = iter(one_each)
    for name, count in (("train", 120), ("exposure", 60), ("calibration", 100), ("id", 80), ("ood", 70)):
        lines = []
        for number, (_, (_, picture, question, answer)) in enumerate(zip(range(count), parts, strict=False)):
            if number % (4 if name in ("train", "calibration", "id") else 2) == 0:
                question, answer = "welche form ist das?", "unanswerable"
            line = {"question_id": f"{name}{number}", "image": str(picture), "question": question, "answers": [answer]}
            lines.append(json.dumps(line))
        (where / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    lines = []
    for number in range(12):
        path = where / f"noise{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
        line = {"question_id": f"{number}", "image": path.name, "question": "is there a dog?", "answers": ["unanswerable"]}
        lines.append(json.dumps(line))
    (where / "noise.jsonl").write_text("\n".join(lines) + "\n")
    (where / "study.toml").write_text(CONFIG)
    return where


def test_a_study_writes_tables_and_the_figure_and_computes_nothing_twice(run: Run, folder: Path) -> None:
    result = run("edge-vqa-selector", "study", folder / "study.toml", "-o", folder / "out")
    assert result.returncode == 0, result.stderr
    text = (folder / "out" / "study.md").read_text()
    for heading in ("int2 RTN with its Selector, minus int8 RTN with MaxProb", "## C@5%", "## Ablation", "## Operating points"):
        assert heading in text, heading
    assert "## Foreign pictures, " in text and "| noise | 12 | " in text
    assert "| 100;0 | 50;50 | 0;100 | more 50;50 | more 0;100 |" in text and "70 (ID), 60 (more) questions in each mix" in text
    assert (
        "temperature" in text
        and "Effective reliability at cost 10" in text
        and "Selector of int8 RTN" in text
        and "selector-early" in text
    )
    cells = json.loads((folder / "out" / "study.json").read_text())["cells"]
    assert len(cells) == (3 + 4 + 3) * 5, "MaxProb, temperature, the baseline's Selector, and where there is one its own"
    same = {cell["confidence"]: cell for cell in cells if cell["bundle"] == "q2" and cell["ood_percent"] == 0}
    again = {cell["confidence"]: cell for cell in cells if cell["bundle"] == "q2-again" and cell["ood_percent"] == 0}
    assert set(same) - set(again) == {"selector"}
    assert again["maxprob"]["aurc"]["value"] == pytest.approx(same["maxprob"]["aurc"]["value"], abs=1e-3)
    assert (folder / "out" / "study.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.npz")}
    assert len(before) > 20
    again = run("edge-vqa-selector", "study", folder / "study.toml", "-o", folder / "out")
    assert again.returncode == 0 and (folder / "out" / "study.md").read_text() == text
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.npz")} == before


def test_a_cluster_computes_the_same_study_and_only_what_is_missing(
    run: Run,
    folder: Path,
    cluster: Cluster,  # noqa: F811
) -> None:
    run("edge-vqa-selector", "study", folder / "study.toml", "-o", folder / "out")
    shop = study.Workshop(read_config(folder / "study.toml"), folder, folder / "there")
    shutil.copytree(folder / "out" / "traces", folder / "there" / "traces", dirs_exist_ok=True)
    asked_again = [shop.traces_path(bundle, name) for bundle, name in shop.wanted() if bundle == "q2"]
    for path in asked_again:
        path.unlink()
    command = ("edge-vqa-selector", "study", "study.toml", "-o", "there", "--ray", cluster.address)
    done = run(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    for path in asked_again:
        here, there = collect.load(folder / "out" / "traces" / path.name), collect.load(path)
        assert here.question_id.tolist() == there.question_id.tolist() and here.origin == there.origin
        assert np.array_equal(here.maxprob, there.maxprob) and here.picture.tolist() == there.picture.tolist()
    here, there = (json.loads((folder / name / "study.json").read_text()) for name in ("out", "there"))
    for one, other in zip(here["cells"], there["cells"], strict=True):
        assert {key: one[key] for key in ("bundle", "confidence", "ood_percent")} == {
            key: other[key] for key in ("bundle", "confidence", "ood_percent")
        }
        tolerance = 0 if one["confidence"] == "maxprob" else 1e-3  # training, on another number of threads
        assert other["aurc"]["value"] == pytest.approx(one["aurc"]["value"], abs=tolerance), one["confidence"]
    before = {path: path.stat().st_mtime_ns for path in (folder / "there").rglob("*.npz")}
    assert sorted(path.name for path in before) == sorted(path.name for path in (folder / "out").rglob("*.npz"))
    assert not list((folder / "there" / "traces").glob(".*")), "no parts are left"
    again = run("edge-vqa-selector", "study", "study.toml", "-o", "there", "--ray", "127.0.0.1:9", cwd=folder)
    assert again.returncode == 0, "nobody needs to answer where all is there"
    assert {path: path.stat().st_mtime_ns for path in (folder / "there").rglob("*.npz")} == before
    assert "--jobs" in run(*command, "--jobs", "2", cwd=folder).stderr


def test_cells_are_what_direct_calculation_gives_on_nested_mixes(run: Run, folder: Path) -> None:
    run("edge-vqa-selector", "study", folder / "study.toml", "-o", folder / "out")
    shop = study.Workshop(read_config(folder / "study.toml"), folder, folder / "out")
    mixes = {0: Mix("", 0), 50: Mix("", 50), 100: Mix("", 100)}
    ids = {number: set(shop.mixed("q2", mix).question_id.tolist()) for number, mix in mixes.items()}
    assert all(len(own) == 70 for own in ids.values()), "as many questions in every mix of a set"
    assert len(shop.mixed("q2", Mix("more", 50)).question_id) == 60, "the smaller of the two files"
    assert sum(number.startswith("ood") for number in ids[50]) == 35
    assert {n for n in ids[50] if n.startswith("id")} <= ids[0] and {n for n in ids[50] if n.startswith("ood")} <= ids[100]
    assert ids[50] == set(shop.mixed("q8", mixes[50]).question_id.tolist()), "the same questions for every bundle"
    traces = shop.mixed("q2", mixes[50])
    cells = json.loads((folder / "out" / "study.json").read_text())["cells"]
    cell = next(c for c in cells if (c["bundle"], c["confidence"], c["ood_percent"]) == ("q2", "maxprob", 50))
    expected = figures(traces.maxprob.astype(float), traces.accuracy.astype(float))
    for name, value in expected.items():
        assert cell[name]["value"] == pytest.approx(value, abs=1e-12), name
    assert cell["accuracy"]["value"] == pytest.approx(float(traces.accuracy.mean()))
    assert cell["accuracy"]["low"] < cell["accuracy"]["value"] < cell["accuracy"]["high"]


def test_accuracy_and_coverage_are_drawn_against_size(run: Run, folder: Path) -> None:
    run("edge-vqa-selector", "study", folder / "study.toml", "-o", folder / "out")
    config = read_config(folder / "study.toml")
    made = study.run(config, folder, folder / "out", progress=lambda step, done, total: None)
    picture = Image.open(io.BytesIO(plots.against_size(made, config.ends, {"q8": 30.0, "q2": 12.0, "q2-again": 20.0}, ["q2"])))
    assert picture.width > picture.height, "a column for each of three mixes"
    orange = (np.asarray(picture.convert("RGB")) == (255, 127, 14)).all(2)
    halves = np.array_split(orange, 2)
    assert all(half.any() for half in halves), "what stands out does so above and below"


def test_differences_are_paired() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.1, 1000)
    one = study.Cell({"aurc": 0.6}, {"aurc": draws + 0.1})
    other = study.Cell({"aurc": 0.5}, {"aurc": draws})
    difference = one.minus(other, "aurc")
    assert difference.value == pytest.approx(0.1) and difference.high - difference.low < 1e-9


def test_processes_of_a_killed_study_end_with_it() -> None:
    script = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from selector_onnx.several import end_with_parent
pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)
print(pool.submit(os.getpid).result(), flush=True)
pool.submit(time.sleep, 100)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = Path(f"/proc/{int(parent.stdout.readline())}/stat")

    def works() -> bool:
        try:
            return child.read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    assert works()
    parent.kill()
    until = time.monotonic() + 20
    while works() and time.monotonic() < until:
        time.sleep(0.1)
    assert not works()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("baseline = ", "base = "), "unknown key base"),
        (('main = "q2"', 'main = "q3"'), "is the folder of no bundle"),
        (("mixes = [0, 50, 100]", "mixes = [0, 500]"), "per cent"),
        (('train = "train.jsonl"', 'train = "none.jsonl"'), "does not exist"),
        (("[data]", "[dat"), "is not a study"),
        (('ood = "ood.jsonl"\n\n[ood]\nmore = "exposure.jsonl"', ""), "no OOD questions are given"),
        (
            ('quantiser = "RTN"\n\n[[bundle]]\nfolder = "q2"', 'quantiser = ""\nselector = false\n\n[[bundle]]\nfolder = "q2"'),
            "Selector of its own",
        ),
    ],
)
def test_a_bad_config_costs_one_line(run: Run, folder: Path, change: tuple[str, str], words: str) -> None:
    (folder / "bad.toml").write_text(CONFIG.replace(*change))
    assert words in one_line(run("edge-vqa-selector", "study", folder / "bad.toml", "-o", folder / "bad"))

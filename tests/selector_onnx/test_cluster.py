"""Traces and studies from a cluster are those of one machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from ray.cluster_utils import Cluster

from selector_onnx import collect
from tests.conftest import Run, one_line, written
from tests.edge_vqa.cluster.conftest import cluster, entries  # noqa: F401  (a fixture)


def test_traces_of_a_cluster_are_those_of_one_machine(cluster: Cluster, tmp_path: Path, run: Run) -> None:  # noqa: F811
    asked = written(tmp_path / "q.jsonl", entries(300))
    for name, more in (("here", ()), ("there", ("--ray", cluster.address))):
        done = run("edge-vqa-selector", "collect", "mini", asked, "-o", tmp_path / f"{name}.npz", *more)
        assert done.returncode == 0 and "300 traces" in done.stdout, done.stderr
    one, other = (collect.load(tmp_path / f"{name}.npz") for name in ("here", "there"))
    assert one.origin == other.origin
    for name, values in one.features.items():
        assert np.array_equal(values, other.features[name]), name
    for name in ("maxprob", "accuracy", "picture", "question_id", "candidate"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert {path.name for path in tmp_path.iterdir()} == {"q.jsonl", "here.npz", "there.npz"}, "nothing else is left"


def test_what_cannot_be_collected_is_one_line_and_loses_nothing(cluster: Cluster, tmp_path: Path, run: Run) -> None:  # noqa: F811
    lines = entries(500)
    (tmp_path / "torn.png").write_bytes(b"no picture")
    bad = written(tmp_path / "bad.jsonl", [*lines, lines[0] | {"question_id": "torn", "image": "torn.png"}])
    command = ("edge-vqa-selector", "collect", "mini", bad, "-o", tmp_path / "t.npz", "--ray", cluster.address)
    done = run(*command)
    assert done.returncode == 1 and "torn.png" in one_line(done) and not (tmp_path / "t.npz").exists()
    kept = sorted((tmp_path / ".t.npz.ray").glob("part-*"))
    assert 2 <= len(kept) <= 4, "two workers come to the last of five parts when three are answered, and one may be on its way"
    shutil.copy(lines[0]["image"], tmp_path / "torn.png")
    stamp = kept[0].stat().st_mtime_ns
    (tmp_path / "seen").hardlink_to(kept[0])
    done = run(*command)
    assert done.returncode == 0 and len(collect.load(tmp_path / "t.npz")) == 501, done.stderr
    assert (tmp_path / "seen").stat().st_mtime_ns == stamp
    unlabelled = written(tmp_path / "u.jsonl", [{key: value for key, value in lines[0].items() if key != "answers"}])
    done = run("edge-vqa-selector", "collect", "mini", unlabelled, "-o", tmp_path / "u.npz", "--ray", cluster.address)
    assert done.returncode == 1 and "line 1: no answers" in one_line(done)

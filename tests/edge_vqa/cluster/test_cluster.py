"""The same answers from a cluster as from one machine, whatever is killed; and what is said when something is wrong."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from ray.cluster_utils import Cluster

from edge_vqa.cluster import drive
from edge_vqa.cluster.answers import Answers
from edge_vqa.cluster.connect import Cluster as Connected
from edge_vqa.cluster.listing import Listed
from edge_vqa.cluster.places import place
from edge_vqa.errors import EdgeVqaError
from edge_vqa.work.batch import Settings
from tests.conftest import ROOT, Run, one_line, without_time, written
from tests.edge_vqa.cluster.conftest import NODE, entries

MINI = str(ROOT / "edge_vqa" / "bundles" / "mini")


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory, run: Run) -> tuple[Path, list[dict[str, Any]]]:
    """Questions, and what one machine says."""
    folder = tmp_path_factory.mktemp("alone")
    asked = written(folder / "questions.jsonl", entries(600))
    done = run("edge-vqa", "batch", asked, "-o", folder / "answers.jsonl", "--model", "mini")
    assert done.returncode == 0, done.stderr
    return asked, without_time(folder / "answers.jsonl")


def test_a_cluster_says_what_one_machine_says_and_asks_again_what_was_changed(
    cluster: Cluster, alone: tuple[Path, list[dict[str, Any]]], tmp_path: Path, run: Run
) -> None:
    asked, expected = alone
    output, command = tmp_path / "answers.jsonl", ("edge-vqa", "batch", asked, "--model", "mini", "--ray", cluster.address)
    done = run(*command, "-o", output)
    assert done.returncode == 0 and done.stdout == "" and done.stderr.count("\n") == 1, (done.stdout, done.stderr)
    assert without_time(output) == expected
    assert [path.name for path in (tmp_path / ".answers.jsonl.parts").iterdir()] == ["_manifest.json"]
    before = output.read_bytes()
    again = run("edge-vqa", "batch", asked, "-o", output, "--model", "mini", "--ray", "127.0.0.1:9")  # nobody needs to answer
    assert again.stderr == done.stderr and output.read_bytes() == before

    lines = entries(600)
    lines[200]["question"] = "is it red?"
    changed = written(tmp_path / "changed.jsonl", lines)
    done = run("edge-vqa", "batch", changed, "-o", output, "--model", "mini", "--ray", cluster.address)
    assert done.returncode == 0, done.stderr
    differ = [
        n
        for n, (one, other) in enumerate(zip(before.splitlines(), output.read_bytes().splitlines(), strict=True))
        if one != other
    ]
    assert differ == [200], "all others are as they were, with the time they took then"

    refused = run(*command, "-o", output, "--risk", "0.1")
    assert refused.returncode == 1 and "other settings" in one_line(refused)


def test_parts_of_parquet_and_a_part_half_written(
    cluster: Cluster, alone: tuple[Path, list[dict[str, Any]]], tmp_path: Path, run: Run
) -> None:
    asked, expected = alone
    output = tmp_path / "answers.parquet"
    command = ("edge-vqa", "batch", asked, "-o", output, "--model", "mini", "--ray", cluster.address)
    assert run(*command).returncode == 0

    def rows() -> list[tuple[Any, ...]]:
        wanted = ("question_id", "answer", "confidence", "familiarity", "of", "error")
        return [tuple(row[name] for name in wanted) for row in parquet.read_table(output).to_pylist()]

    assert rows() == [
        tuple(line.get(name) for name in ("question_id", "answer", "confidence", "familiarity", "of", "error"))
        for line in expected
    ]
    torn = sorted(output.glob("part-*"))[2]
    torn.write_bytes(torn.read_bytes()[:-100])
    done = run(*command)
    assert done.returncode == 0 and len(rows()) == 600
    listed = json.loads((output / "_manifest.json").read_text())
    assert listed["complete"] and sum(part["questions"] for part in listed["parts"]) == 600


def test_parts_of_json_lines_that_were_torn_are_asked_again(
    cluster: Cluster, alone: tuple[Path, list[dict[str, Any]]], tmp_path: Path, run: Run
) -> None:
    asked, expected = alone
    output = tmp_path / "answers"
    output.mkdir()
    (output / ".mine").touch()
    command = ("edge-vqa", "batch", asked, "-o", output, "--model", "mini", "--ray", cluster.address)
    assert run(*command).returncode == 0
    first, second, third, *_ = sorted(output.glob("part-*"))
    first.write_bytes(first.read_bytes()[:-7])
    second.write_bytes(b"".join(second.read_bytes().splitlines(keepends=True)[:-3]))
    third.write_bytes(b"")
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert [line for path in sorted(output.glob("part-*")) for line in without_time(path)] == expected
    assert (output / ".mine").exists() and len(list(output.iterdir())) == 1 + 2 + 5, "and nothing else is left"


def test_no_answer_is_lost_doubled_or_changed_when_nodes_and_drivers_are_killed(
    cluster: Cluster, alone: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    asked, expected = alone
    output = tmp_path / "answers.jsonl"
    command = [
        sys.executable,
        "-m",
        "edge_vqa",
        "batch",
        str(asked),
        "-o",
        str(output),
        "--model",
        "mini",
        "--ray",
        cluster.address,
    ]
    parts = tmp_path / ".answers.jsonl.parts"

    def started(more: int) -> subprocess.Popen[str]:
        had = len(list(parts.glob("part-*")))
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 120
        while len(list(parts.glob("part-*"))) < had + more:
            assert process.poll() is None and time.monotonic() < until, "was through, or stuck, before anything was killed"
            time.sleep(0.01)
        return process

    driver = started(1)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    driver = started(1)
    extra = cluster.add_node(**NODE)
    cluster.remove_node(next(node for node in cluster.worker_nodes if node is not extra), allow_graceful=False)
    _, said = driver.communicate(timeout=180)
    assert driver.returncode == 0, said
    assert without_time(output) == expected


def test_an_output_that_vanishes_while_a_run_writes_is_one_line_and_loses_nothing(
    cluster: Cluster, alone: tuple[Path, list[dict[str, Any]]], tmp_path: Path, run: Run
) -> None:
    asked, expected = alone
    output = tmp_path / "disk" / "answers.jsonl"
    output.parent.mkdir()
    program = str(Path(sys.executable).with_name("edge-vqa"))
    command = [program, "batch", str(asked), "-o", str(output), "--model", "mini", "--ray", cluster.address]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list(output.parent.glob("*/part-*")):
        assert driver.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    output.parent.rename(tmp_path / "unplugged")
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 1 and said.count("\n") == 1 and str(output.parent) in said and "it goes on" in said, said
    assert not output.parent.exists(), "nothing is written beside it"
    (tmp_path / "unplugged").rename(output.parent)
    had = {path: path.stat().st_mtime_ns for path in output.parent.glob("*/part-*")}
    assert had
    done = run("edge-vqa", *command[1:])
    assert done.returncode == 0 and without_time(output) == expected, done.stderr


def test_an_evaluation_on_a_cluster_finds_the_same_figures(cluster: Cluster, tmp_path: Path, run: Run) -> None:
    asked = written(tmp_path / "q.jsonl", entries(40))
    found = []
    for name, more in (("here", ()), ("there", ("--ray", cluster.address))):
        done = run("edge-vqa", "eval", asked, "-o", tmp_path / name, "--model", "mini", "--json", *more)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]


def test_nodes_that_hold_another_bundle_or_miss_a_picture_are_named(cluster: Cluster, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(MINI, copied)
    work = Answers(str(copied), drive.options_for(str(copied), {}, None), Settings())
    gone = [Listed("q", str(tmp_path / "gone.png"), "what is this?", (), "17-4")]  # the driver saw it
    said = r"node \S+: 1 pictures are missing there .*gone.png.*mount the same folder"
    with pytest.raises(EdgeVqaError, match=said), Connected(cluster.address) as connected:
        drive.run(work, gone, place(str(tmp_path / "run")), cluster=connected, asked={})
    assert not list((tmp_path / "run").glob("part-*"))

    lines = [Listed(line["question_id"], line["image"], line["question"], ()) for line in entries(4)]
    versions = drive.Versions.here(str(copied))
    manifest = json.loads((copied / "bundle.json").read_text()) | {"description": "another one"}
    (copied / "bundle.json").write_text(json.dumps(manifest))

    class Before(drive.Versions):
        @staticmethod
        def here(bundle: str | None) -> drive.Versions:
            return versions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive, "Versions", Before)
        said = r"node \S+: bundle is .* install the same on all nodes"
        with pytest.raises(EdgeVqaError, match=said), Connected(cluster.address) as connected:
            drive.run(work, lines, place(str(tmp_path / "other")), cluster=connected, asked={})


def test_bars_on_a_terminal_reach_their_end_and_are_wiped_away(cluster: Cluster, tmp_path: Path) -> None:
    asked = written(tmp_path / "q.jsonl", entries(40))
    ours, theirs = pty.openpty()
    command = [str(Path(sys.executable).with_name("edge-vqa")), "batch", str(asked), "-o", str(tmp_path / "a.jsonl")]
    driver = subprocess.Popen([*command, "--model", "mini", "--ray", cluster.address], stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the other end is closed
        while read := os.read(ours, 4096):
            shown += read
    os.close(ours)
    assert driver.wait() == 0
    bars, _, left = shown.decode().rpartition("\x1b[2K")
    assert "listing" in bars and "40/40" in bars and "\x1b[?25h" in bars, "the cursor is back"
    assert left.startswith(str(tmp_path / "a.jsonl")) and left.count("\n") == 1, "nothing but what came of it is left"


@pytest.mark.parametrize(
    ("installed", "said"),
    [("edge_vqa-0.0.9.dist-info/METADATA", "edge_vqa is 0.0.9, not"), ("edge_vqa.py", "no such edge-vqa")],
)
def test_a_node_with_another_edge_vqa_or_none_is_named_before_anything_is_asked(
    cluster: Cluster, tmp_path: Path, run: Run, installed: str, said: str
) -> None:
    asked, first = written(tmp_path / "q.jsonl", entries(2)), tmp_path / "first" / installed
    first.parent.mkdir(parents=True)
    first.write_text(
        "Metadata-Version: 2.1\nName: edge-vqa\nVersion: 0.0.9\n" if "METADATA" in installed else "raise ImportError"
    )
    node = cluster.add_node(**NODE, env_vars={"PYTHONPATH": str(tmp_path / "first")})
    try:
        command = ("edge-vqa", "batch", asked, "-o", tmp_path / "a.jsonl", "--model", "mini", "--ray", cluster.address)
        done = run(*command, cwd=tmp_path)  # Ray's workers look for modules where the driver is, first of all
        assert done.returncode == 1 and "node " in one_line(done) and said in done.stderr, done.stderr
        assert "install the same on all nodes" in done.stderr and not (tmp_path / "a.jsonl").exists()
    finally:
        cluster.remove_node(node)


def test_paths_may_be_relative_to_where_the_driver_is(cluster: Cluster, tmp_path: Path, run: Run) -> None:
    shutil.copy(entries(1)[0]["image"], tmp_path / "a.png")
    line = {"question_id": "q", "image": "a.png", "question": "what is this?"}
    written(tmp_path / "q.jsonl", [line, line | {"question_id": "r", "image": "none.jpg"}])
    shutil.copytree(MINI, tmp_path / "bundle")
    for name, more in (("here.jsonl", ()), ("there.jsonl", ("--ray", cluster.address))):
        command = ("edge-vqa", "batch", "q.jsonl", "-o", name, "--model", "./bundle", "--skip-missing", *more)
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert without_time(tmp_path / "there.jsonl") == without_time(tmp_path / "here.jsonl")


@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:9", "ray start --head"), ("nonsense", "no cluster answers"), ("127.0.0.1:x", "no cluster")],
)
def test_no_cluster_at_the_address_is_one_line(address: str, said: str, tmp_path: Path, run: Run) -> None:
    asked = written(tmp_path / "q.jsonl", entries(2))
    done = run("edge-vqa", "batch", asked, "-o", tmp_path / "a.jsonl", "--model", "mini", "--ray", address)
    assert done.returncode == 1 and said in one_line(done)


def test_options_of_one_machine_and_places_that_cannot_be_written_are_one_line(tmp_path: Path, run: Run) -> None:
    asked = written(tmp_path / "q.jsonl", entries(2))
    command = ("edge-vqa", "batch", asked, "--model", "mini", "--ray", "local")
    assert "--cache-dir" in run(*command, "-o", tmp_path / "a.jsonl", "--cache-dir", tmp_path).stderr
    (tmp_path / "file").write_text("mine")
    said = one_line(run(*command, "-o", tmp_path / "file" / "a.jsonl"))
    assert "cannot be" in said and (tmp_path / "file").read_text() == "mine"
    (tmp_path / "mine.jsonl").write_text("mine")
    assert "something else than answers" in one_line(run(*command, "-o", tmp_path / "mine.jsonl"))
    assert (tmp_path / "mine.jsonl").read_text() == "mine"

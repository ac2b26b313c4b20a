"""What a cluster gives and bears: rates, the cost of Ray, long lists, and killed nodes and drivers.

    python -m benchmarks.cluster rates [--model mini] [--questions 6000] [--pictures 200] [--repeat 3]
    python -m benchmarks.cluster overhead
    python -m benchmarks.cluster scale [--nodes 1 2 4 8 16] [--rate 300]
    python -m benchmarks.cluster million [--questions 1000000]
    python -m benchmarks.cluster nodes [--questions 5000] [--kills 10]
    python -m benchmarks.cluster drivers [--questions 5000] [--kills 10]

All on one machine: `nodes` and `drivers` on a simulated cluster of four nodes (ray.cluster_utils), against one process.
`rates` counts from the first part that is answered to the last, without the start of workers, which does not grow with the
number of questions; one worker, two workers and `ask_many` alternate. Beside one worker, Ray and the driver have the other
core to themselves. In `scale` the workers of so many simulated nodes wait as long as a core would take at that rate, and
write: what is missing of the sum of their rates is Ray's, the driver's and the disk's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from benchmarks.serving import questions
from edge_vqa.cluster import drive, listing
from edge_vqa.cluster.answers import Answers
from edge_vqa.cluster.connect import Cluster
from edge_vqa.cluster.places import place
from edge_vqa.model import load
from edge_vqa.work.batch import Settings
from edge_vqa.work.questions import parts

EDGE_VQA = [sys.executable, "-m", "edge_vqa", "batch"]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def written(path: Path, count: int, pictures: int = 200) -> Path:
    """A questions file about so many pictures, as many about each, neighbours on one picture."""
    about: dict[Path, list[str]] = {}
    for image, question in questions(20 * pictures, pictures):
        about.setdefault(image, []).append(question)
    each = -(-count // len(about))
    asked = [(image, own[n % len(own)]) for image, own in sorted(about.items()) for n in range(each)][:count]
    with path.open("w") as stream:
        for number, (image, question) in enumerate(asked):
            stream.write(json.dumps({"question_id": str(number), "image": str(image), "question": question}) + "\n")
    return path


def rate(work: Answers, source: Path, folder: Path, workers: int) -> float:
    """Questions a second of so many workers of one thread, from the first part to the last."""
    with patch("edge_vqa.cluster.connect.cores", lambda: workers), Cluster("local") as cluster:
        stamps = answered(work, source, folder, cluster)
    (began, first), (ended, last) = stamps[workers], stamps[-1]
    return (last - first) / (ended - began)


def answered(work: Answers, source: Path, folder: Path, cluster: Cluster) -> list[tuple[float, int]]:
    """When how many questions were answered: seconds, and a number."""
    stamps: list[tuple[float, int]] = []

    def progress(step: str, done: int, total: int | None) -> None:
        if step == "asking":
            stamps.append((time.perf_counter(), done))

    drive.run(work, listing.read(str(source)), place(str(folder)), cluster=cluster, asked={}, threads=1, progress=progress)
    return stamps


def rates(arguments: argparse.Namespace) -> None:
    found: dict[str, list[float]] = {"one": [], "two": [], "ask_many": []}
    options = drive.options_for(arguments.model, {}, None)
    with tempfile.TemporaryDirectory() as scratch:
        source = written(Path(scratch) / "questions.jsonl", arguments.questions, arguments.pictures)
        asked = [(listed.image, listed.question) for listed in listing.read(str(source))]
        for turn in range(arguments.repeat):
            work = Answers(arguments.model, options, Settings())
            found["one"].append(rate(work, source, Path(scratch) / f"one{turn}", 1))
            found["two"].append(rate(work, source, Path(scratch) / f"two{turn}", 2))
            with load(arguments.model, **options) as model:
                began = time.perf_counter()
                for answer in model.ask_many(asked):
                    assert not isinstance(answer, Exception)
                found["ask_many"].append(len(asked) / (time.perf_counter() - began))
            print({name: round(values[-1], 1) for name, values in found.items()}, flush=True)
            one, two = (list(Path(scratch).glob(f"{name}{turn}/part-*")) for name in ("one", "two"))
            assert _answers(one) == _answers(two), "not the same answers"
    for other in ("one", "ask_many"):
        ratio = statistics.median(two / value for two, value in zip(found["two"], found[other], strict=True))
        print(f"two workers against {other}: {ratio:.3f}, median of {arguments.repeat}")


def _answers(files: Sequence[Path]) -> list[dict[str, Any]]:
    lines = [json.loads(line) for file in sorted(files) for line in file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "total_s"} for line in lines]


class Nothing(Answers):
    """A part that costs nothing."""

    def answer(self, model: Any, asked: Any, images: Any, old: Any, to: Path) -> None:
        to.write_text("".join(json.dumps({"question_id": one.question_id, "abstained": True}) + "\n" for one in asked))


def overhead(arguments: argparse.Namespace) -> None:
    """Of a part, when nothing is asked: Ray, reading what is asked, writing the file."""
    with tempfile.TemporaryDirectory() as scratch:
        source = written(Path(scratch) / "questions.jsonl", 40_000)
        work = Nothing(arguments.model, drive.options_for(arguments.model, {}, None), Settings())
        served = rate(work, source, Path(scratch) / "run", 1)
        files = list((Path(scratch) / "run").glob("part-*"))
        print(f"{1000 / served * 40_000 / len(files):.1f} ms a part of {40_000 / len(files):.0f} questions, one worker")


@dataclass(frozen=True)
class Waits(Nothing):
    """A part that takes as long as a core would take, and no core."""

    seconds: float = 0.0  # a question

    def answer(self, model: Any, asked: Any, images: Any, old: Any, to: Path) -> None:
        time.sleep(self.seconds * len(asked))
        super().answer(model, asked, images, old, to)


def scale(arguments: argparse.Namespace) -> None:
    from ray.cluster_utils import Cluster as Simulated

    simulated = Simulated(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    work = Waits(arguments.model, drive.options_for(arguments.model, {}, None), Settings(), seconds=1 / arguments.rate)
    alone = 0.0
    try:
        for nodes in sorted(arguments.nodes):
            while len(simulated.worker_nodes) < nodes:
                simulated.add_node(**NODE)
            with tempfile.TemporaryDirectory() as scratch, Cluster(simulated.address) as cluster:
                source = written(Path(scratch) / "questions.jsonl", 20 * nodes * 125)
                stamps = answered(work, source, Path(scratch) / "run", cluster)
            # from when every worker has begun, to when the first of them has nothing left
            whole = [one for one in stamps if nodes * 250 <= one[1] <= stamps[-1][1] - nodes * 250]
            served = (whole[-1][1] - whole[0][1]) / (whole[-1][0] - whole[0][0])
            alone = alone or served / nodes
            print(
                f"{nodes} nodes: {served:.0f} questions a second, {served / nodes / alone:.2f} of {nodes} times one", flush=True
            )
    finally:
        simulated.shutdown()


def million(arguments: argparse.Namespace) -> None:
    """The command itself: to list, with no cluster to ask, then to resume with all parts but one answered."""
    with tempfile.TemporaryDirectory() as scratch:
        base = questions(5000, 500)
        source, output = Path(scratch) / "questions.jsonl", Path(scratch) / "answers"
        with source.open("w") as stream:
            for number in range(arguments.questions):
                image, question = base[number // 4 % len(base)]
                stream.write(json.dumps({"question_id": str(number), "image": str(image), "question": question}) + "\n")
        command = [*EDGE_VQA, str(source), "-o", str(output), "--model", arguments.model, "--ray"]
        began = time.perf_counter()
        subprocess.run([*command, "127.0.0.1:9"], check=False)
        listed = time.perf_counter() - began
        line = json.dumps({"question_id": "0", "answer": "x" * 300, "abstained": False}) + "\n"
        for number, part in enumerate(questions_of(output / "_asked.jsonl")):
            if number:
                name = f"part-{number:06}-{hashlib.sha256(part).hexdigest()[:16]}.jsonl"
                (output / name).write_text(line * part.count(b"\n"))
        began = time.perf_counter()
        subprocess.run([*command, "local"], check=True)
        resumed = time.perf_counter() - began
        most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        took = f"listed in {listed:.1f} s, resumed in {resumed:.1f} s, Ray's start and one part among them"
        print(f"{arguments.questions:,} questions: {took}; the driver, or a worker, took at most {most:.0f} MB")


def questions_of(asked: Path) -> Iterator[bytes]:
    """The lines of each part."""
    with asked.open("rb") as stream:
        for part in parts(stream, lambda raw: json.loads(raw)["image"]):
            yield b"".join(part)


def alone(source: Path, output: Path) -> list[dict[str, Any]]:
    subprocess.run([*EDGE_VQA, str(source), "-o", str(output), "--model", "mini"], check=True)
    return _answers([output])


def killed(arguments: argparse.Namespace, *, drivers: bool) -> None:
    from ray.cluster_utils import Cluster

    rng = random.Random(arguments.seed)
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    for _ in range(4):
        cluster.add_node(**NODE)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            source = written(Path(scratch) / "questions.jsonl", arguments.questions)
            expected = alone(source, Path(scratch) / "alone.jsonl")
            what, kills, number = "a driver" if drivers else "a node", 0, 0
            while kills < arguments.kills:  # who is through before enough was killed begins anew
                number += 1
                output, before, running = Path(scratch) / f"answers{number}.jsonl", kills, True
                command = [*EDGE_VQA, str(source), "-o", str(output), "--model", "mini", "--ray", cluster.address]
                while running:
                    driver = subprocess.Popen(command)
                    while driver.poll() is None and kills < arguments.kills:
                        _after(driver, rng.uniform(1, 14 if drivers else 6))
                        if driver.poll() is not None:
                            break
                        kills += 1
                        if drivers:
                            driver.kill()
                        else:
                            cluster.remove_node(rng.choice(list(cluster.worker_nodes)), allow_graceful=False)
                            cluster.add_node(**NODE)
                    running = driver.wait() != 0
                made = _answers([output])
                different = sum(one != other for one, other in zip(expected, made, strict=True))
                counted = f"{len(made):,} answers to {len(expected):,} questions, {different} different"
                print(f"{what} killed {kills - before} times: {counted}", flush=True)
    finally:
        cluster.shutdown()


def _after(process: subprocess.Popen[bytes], seconds: float) -> None:
    ended = threading.Event()
    threading.Thread(target=lambda: (process.wait(), ended.set()), daemon=True).start()
    ended.wait(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rates", "overhead", "scale", "million", "nodes", "drivers"])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--questions", type=int, default=None)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--rate", type=float, default=300, help="questions a second and core, in `scale`")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.questions = arguments.questions or {"million": 1_000_000, "rates": 6000}.get(arguments.what, 5000)
    if arguments.what in ("nodes", "drivers"):
        killed(arguments, drivers=arguments.what == "drivers")
    else:
        globals()[arguments.what](arguments)


if __name__ == "__main__":
    main()
